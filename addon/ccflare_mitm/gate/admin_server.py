"""Answers requests for our own pages, now or later; what changes something asks for the second factor first."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from math import ceil

from mitmproxy import http

from ccflare_core.anthropic.answers import Answer, rejected
from ccflare_core.clients import browser
from ccflare_core.clients.checks import CODE_REQUIRED, TOO_MANY_CODES
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.errors import CCFlareError
from ccflare_core.http.rejection import Rejection
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.gate.pages import Admin, AdminRequest, Page, failure
from ccflare_mitm.host.decisions import Decisions


class AdminServer:
    """Serves the requests that the gate has admitted to a page."""

    def __init__(self, admin: Admin, factor: SecondFactor, decisions: Decisions, auditor: Auditor | None) -> None:
        self._admin = admin
        self._factor = factor
        self._decisions = decisions
        self._auditor = auditor
        self._working: set[asyncio.Task[None]] = set()

    def serve(self, flow: http.HTTPFlow, page: Page, request: AdminRequest) -> None:
        """Answer this request: at once, or as soon as what it asks for is done."""
        if browser.is_unsafe(flow.request.method):
            self._answer_later(flow, self._change(page, request))
            return
        answer = page.handler(self._admin, request)
        if isinstance(answer, Answer):
            self._decisions.give(flow, answer)
        else:
            self._answer_later(flow, answer)

    async def _change(self, page: Page, request: AdminRequest) -> Answer:
        """The answer to a request that changes something."""
        if (rejection := await self._check_code(request.code)) is not None:
            if self._auditor is not None:
                self._auditor.denied(request.address, rejection.audit, actor=request.actor, target=request.target)
            return rejected(rejection)
        answer = page.handler(self._admin, request)
        return answer if isinstance(answer, Answer) else await answer

    async def _check_code(self, code: str | None) -> Rejection | None:
        """Why the code of the second factor does not do, if so. One that was good is used up by then."""
        if (wrong := await self._factor.admit(code)) is None:
            return None
        if wrong.retry_after > 0:
            return replace(TOO_MANY_CODES, retry_after=ceil(wrong.retry_after))
        return CODE_REQUIRED

    def _answer_later(self, flow: http.HTTPFlow, answer: Awaitable[Answer]) -> None:
        """Hold the flow as one that a user intercepts, until its answer is there."""

        async def work() -> None:
            try:
                try:
                    self._decisions.give(flow, await answer)
                except CCFlareError as problem:
                    self._decisions.give(flow, rejected(failure(problem)))
            finally:
                flow.resume()  # without a response, if all failed: then the wire gives a 500

        flow.intercept()
        task = asyncio.get_running_loop().create_task(work())
        self._working.add(task)
        task.add_done_callback(self._working.discard)
