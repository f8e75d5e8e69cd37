"""Answers requests for our own pages by the proxy's port, now or later."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients import browser
from ccflare_mitm.host.decisions import Decisions
from ccflare_mitm.pages.page import Page
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.visit import Visit


class _Admitted(NamedTuple):
    page: Page
    visit: Visit


class AdminServer:
    """Serves the requests that the gate has admitted to a page."""

    def __init__(self, pages: PageServer, decisions: Decisions) -> None:
        self._pages = pages
        self._decisions = decisions
        self._unread: WeakKeyDictionary[http.HTTPFlow, _Admitted] = WeakKeyDictionary()
        self._working: set[asyncio.Task[None]] = set()

    def serve(self, flow: http.HTTPFlow, page: Page, visit: Visit) -> None:
        """Answer this request as soon as what it asks for is done; what changes something is read whole before."""
        if browser.is_unsafe(visit.method):
            self._unread[flow] = _Admitted(page, visit)
        else:
            self._answer(flow, page, visit)

    def read(self, flow: http.HTTPFlow) -> None:
        """The whole request is here: answer it, if it is one that was waited for."""
        if admitted := self._unread.pop(flow, None):
            body = flow.request.raw_content or b""
            self._answer(flow, admitted.page, replace(admitted.visit, body=body))

    def _answer(self, flow: http.HTTPFlow, page: Page, visit: Visit) -> None:
        answer = self._pages.answer(page, visit)
        if isinstance(answer, Answer):
            self._decisions.give(flow, answer)
        else:
            self._answer_later(flow, answer)

    def _answer_later(self, flow: http.HTTPFlow, answer: Awaitable[Answer]) -> None:
        """Hold the flow as one that a user intercepts, until its answer is there."""

        async def work() -> None:
            try:
                self._decisions.give(flow, await answer)
            finally:
                flow.resume()  # without a response, if all failed: then the wire gives a 500

        flow.intercept()
        task = asyncio.get_running_loop().create_task(work())
        self._working.add(task)
        task.add_done_callback(self._working.discard)
