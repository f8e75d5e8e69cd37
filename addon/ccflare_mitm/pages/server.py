"""Gives a page's answer to a visit: what changes something asks for the second factor first, and failures are told."""

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from math import ceil
from typing import Final

from ccflare_core.anthropic.answers import Answer, rejected
from ccflare_core.clients import browser
from ccflare_core.clients.checks import CODE_REQUIRED, TOO_MANY_CODES
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.errors import CCFlareError, NotFound, NotInstalled
from ccflare_core.http.rejection import Rejection
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.page import Page
from ccflare_mitm.pages.visit import BadQuery, Visit

logger = logging.getLogger("ccflare")

BROKEN = Rejection(500, "This page failed inside; the proxy's log says more.", is_recorded=False)

_STATUS: Final[Mapping[type[CCFlareError], int]] = {NotFound: 404, BadQuery: 400, NotInstalled: 501}


class PageServer:
    """Serves visits that have been admitted. Whoever asks it has looked at the page's methods and permission."""

    def __init__(self, admin: Admin, factor: SecondFactor, auditor: Auditor | None) -> None:
        self._admin = admin
        self._factor = factor
        self._auditor = auditor

    def answer(self, page: Page, visit: Visit) -> Answer | Awaitable[Answer]:
        """The page's answer, now or later; an error in its place, and nothing is raised."""
        if browser.is_unsafe(visit.method):
            return self._guarded(page, self._change(page, visit))
        try:
            answer = page.handler(self._admin, visit)
        except Exception as problem:
            return self._failed(page, problem)
        return answer if isinstance(answer, Answer) else self._guarded(page, answer)

    async def _change(self, page: Page, visit: Visit) -> Answer:
        """The answer to a request that changes something."""
        if (rejection := await self._check_code(visit.code)) is not None:
            self._deny(visit, rejection)
            return rejected(rejection)
        answer = page.handler(self._admin, visit)
        return answer if isinstance(answer, Answer) else await answer

    async def _guarded(self, page: Page, answer: Awaitable[Answer]) -> Answer:
        try:
            return await answer
        except Exception as problem:
            return self._failed(page, problem)

    def _failed(self, page: Page, problem: Exception) -> Answer:
        if not isinstance(problem, CCFlareError):
            logger.error("The page %s failed", page.path, exc_info=problem)
            return rejected(BROKEN)
        return rejected(failure(problem))

    def _deny(self, visit: Visit, rejection: Rejection) -> None:
        if self._auditor is not None:
            self._auditor.denied(visit.address, rejection.audit, actor=visit.actor, target=visit.path)

    async def _check_code(self, code: str | None) -> Rejection | None:
        """Why the code of the second factor does not do, if so. One that was good is used up by then."""
        if (wrong := await self._factor.admit(code)) is None:
            return None
        if wrong.retry_after > 0:
            return replace(TOO_MANY_CODES, retry_after=ceil(wrong.retry_after))
        return CODE_REQUIRED


def failure(problem: CCFlareError) -> Rejection:
    """What to say if a page cannot give what was asked for."""
    status = next((status for kind, status in _STATUS.items() if isinstance(problem, kind)), 503)
    return Rejection(status, str(problem), is_recorded=False)
