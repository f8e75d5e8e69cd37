"""Gives a page's answer to a visit: what changes something asks for the second factor first, and failures are told."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Final

from ccflare_core.anthropic.answers import Answer, rejected
from ccflare_core.clients import browser
from ccflare_core.clients.checks import CODE_REQUIRED, TOO_MANY_CODES
from ccflare_core.clients.sessions import cookie_of
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.errors import CCFlareError, NotFound, NotInstalled
from ccflare_core.http.headers import Header
from ccflare_core.http.rejection import Rejection
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.html import refusal
from ccflare_mitm.pages.logins import is_forged
from ccflare_mitm.pages.page import Page
from ccflare_mitm.pages.visit import BadQuery, Visit

logger = logging.getLogger("ccflare")

FORGED = Rejection(
    403,
    "This form is of another session, or of none: load the page again, and send it from there.",
    audit="a change without the session's token",
    is_recorded=False,
)
BROKEN = Rejection(500, "This page failed inside; the proxy's log says more.", is_recorded=False)

WRONG_CODE = replace(
    CODE_REQUIRED,
    message="This code is wrong, or was used: go back, wait until your app shows another one, and type the next one.",
)
"""The same for a person, who has typed it into a form."""

_STATUS: Final[Mapping[type[CCFlareError], int]] = {NotFound: 404, BadQuery: 400, NotInstalled: 501}


class PageServer:
    """Serves visits that have been admitted. Whoever asks it has looked at the page's methods and permission."""

    def __init__(self, admin: Admin, factor: SecondFactor, auditor: Auditor | None) -> None:
        self._admin = admin
        self._factor = factor
        self._auditor = auditor

    def link_flows(self, link: Callable[[Visit, str], str]) -> None:
        """Let the pages link to mitmweb: `link` tells where it shows a request to who visits; "" if it does not."""
        self._admin.flow_link = link

    def answer(self, page: Page, visit: Visit) -> Answer | Awaitable[Answer]:
        """The page's answer, now or later; an error in its place, and nothing is raised."""
        answer = self._answer(page, visit)
        if (cookie := self._renewed(visit)) is None:
            return answer
        return _with(cookie, answer) if isinstance(answer, Answer) else _later_with(cookie, answer)

    def _renewed(self, visit: Visit) -> Header | None:
        """The cookie anew that says when its session was used last, if it is time for that."""
        if visit.session is None:
            return None
        value = self._admin.logins.sessions.renewed(visit.session, visit.at)
        return None if value is None else cookie_of(value, visit.port, tls=visit.is_tls)

    def _answer(self, page: Page, visit: Visit) -> Answer | Awaitable[Answer]:
        if browser.is_unsafe(visit.method):
            return self._guarded(page, visit, self._change(page, visit))
        try:
            answer = page.handler(self._admin, visit)
        except Exception as problem:
            return self._failed(page, visit, problem)
        return answer if isinstance(answer, Answer) else self._guarded(page, visit, answer)

    async def _change(self, page: Page, visit: Visit) -> Answer:
        """The answer to a request that changes something."""
        if (rejection := await self._objection(page, visit)) is not None:
            self._deny(visit, rejection)
            return refused(rejection, visit)
        answer = page.handler(self._admin, visit)
        return answer if isinstance(answer, Answer) else await answer

    async def _guarded(self, page: Page, visit: Visit, answer: Awaitable[Answer]) -> Answer:
        try:
            return await answer
        except Exception as problem:
            return self._failed(page, visit, problem)

    def _failed(self, page: Page, visit: Visit, problem: Exception) -> Answer:
        if not isinstance(problem, CCFlareError):
            logger.error("The page %s failed", page.path, exc_info=problem)
            return refused(BROKEN, visit)
        return refused(failure(problem), visit)

    def _deny(self, visit: Visit, rejection: Rejection) -> None:
        if self._auditor is not None:
            self._auditor.denied(visit.address, rejection.audit, actor=visit.actor, target=visit.path)

    async def _objection(self, page: Page, visit: Visit) -> Rejection | None:
        """Why this may not be changed: it does not come from a page of the session's, or the code does not do."""
        if visit.session is not None and is_forged(visit.session, visit.form.get("token", "")):
            return FORGED
        if page.permission is None:
            return None
        return await self._check_code(visit)

    async def _check_code(self, visit: Visit) -> Rejection | None:
        """Why the code of the second factor does not do, if so. One that was good is used up by then."""
        if (wrong := await self._factor.admit(visit.code or visit.form.get("code") or None)) is None:
            return None
        if wrong.retry_after > 0:
            return replace(TOO_MANY_CODES, retry_after=ceil(wrong.retry_after))
        return WRONG_CODE if visit.is_browsers else CODE_REQUIRED


def refused(rejection: Rejection, visit: Visit) -> Answer:
    """The rejection as a program or a person gets it."""
    return refusal(rejection, visit) if visit.is_browsers else rejected(rejection)


def failure(problem: CCFlareError) -> Rejection:
    """What to say if a page cannot give what was asked for."""
    status = next((status for kind, status in _STATUS.items() if isinstance(problem, kind)), 503)
    return Rejection(status, str(problem), is_recorded=False)


def _with(cookie: Header, answer: Answer) -> Answer:
    """The answer with this cookie, unless it gives or takes one itself."""
    has_own = any(name == cookie[0] for name, _ in answer.headers)
    return answer if has_own else answer._replace(headers=(*answer.headers, cookie))


async def _later_with(cookie: Header, answer: Awaitable[Answer]) -> Answer:
    return _with(cookie, await answer)
