"""What SECURITY.md promises of the dashboard's login: each page for each session, and nothing beyond it.

Each name starts with the requirement that it proves.
"""

from itertools import product

import pytest
from mitmproxy import http

from ccflare_core.clients.authentication import OWNER
from ccflare_core.clients.keys import PERMISSIONS, Permission, Role
from ccflare_core.clients.sessions import COOKIE, Begun, Sessions
from ccflare_mitm.pages.html import LOGIN
from ccflare_mitm.pages.page import DO, Page
from ccflare_mitm.pages.table import PAGES
from exchange_kit import Bench
from flow_kit import asked
from guard_kit import Actions, a_gate, a_key, an_authenticator, shown

OWN_PAGE = ((b"Sec-Fetch-Site", b"same-origin"),)
ROLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, None)
ROUTES = [(page, method) for page in PAGES for method in page.methods if page.path != LOGIN]


class Browser:
    """A browser in a session of a key with this role, or of the owner's link."""

    def __init__(self, role: Role | None) -> None:
        key = a_key(role=role or Role.CLIENT)
        self.actions, self.sessions = Actions(), Sessions()
        self.may = PERMISSIONS[role] if role else OWNER.permissions
        bench = Bench()
        self.begun: Begun = self.sessions.begin(shown() if role else None, bench.exchanges.wall())
        self._gate = a_gate(bench, an_authenticator(key), self.actions, sessions=self.sessions)

    async def ask(
        self,
        path: str,
        method: str = "GET",
        fields: tuple[tuple[bytes, bytes], ...] = OWN_PAGE,
        token: str | None = None,
    ) -> int:
        """The status of a request with the session's cookie, with its token in the form unless another is given."""
        sent = self.begun.session.token if token is None else token
        body = f"token={sent}".encode() if method in DO else b""
        self.flow: http.HTTPFlow = asked(path, method, body=body, headers=(*fields, self._cookie()))
        self._gate.enter(self.flow)
        self._gate.issue_ticket(self.flow)
        await self.flow.wait_for_resume()
        return self.flow.response.status_code if self.flow.response else 0

    def _cookie(self) -> tuple[bytes, bytes]:
        return (b"cookie", COOKIE + b"8080=" + self.begun.cookie.encode())


def path_of(page: Page) -> str:
    return page.path.replace("{name}", "max")


def named(value: tuple[Page, str] | Role | None) -> str:
    return f"{value[1]} {value[0].path}" if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("route", "role"), list(product(ROUTES, ROLES)), ids=named)
async def test_r08_every_page_for_every_session(route: tuple[Page, str], role: Role | None) -> None:
    page, method = route
    browser = Browser(role)
    is_allowed = page.permission is None or page.permission in browser.may
    assert (await browser.ask(path_of(page), method) not in (401, 403)) is is_allowed
    assert bool(browser.actions.done) == (method in DO and page.permission is not None and is_allowed)


CHANGES = [page for page in PAGES if page.methods == DO]


@pytest.mark.parametrize("page", CHANGES, ids=lambda page: page.path)
async def test_r09_a_change_takes_the_token_and_a_page_of_ours(page: Page) -> None:
    browser = Browser(None)
    for token in ("", "other", Browser(None).begun.session.token):
        assert await browser.ask(path_of(page), "POST", token=token) == 403
    for fields in ((), ((b"Sec-Fetch-Site", b"same-site"),), ((b"Sec-Fetch-Site", b"cross-site"),)):
        assert await browser.ask(path_of(page), "POST", fields) == 403
    assert await browser.ask(path_of(page), "POST", ((b"Origin", b"http://127.0.0.1:9999"),)) == 403
    assert browser.actions.done == []
    assert browser.sessions.find([browser.begun.cookie], browser.begun.session.begun_at) is not None


async def test_r09_a_session_opens_our_pages_and_sends_no_requests() -> None:
    browser = Browser(Role.ADMIN)
    assert await browser.ask("/v1/messages", "POST") == 401
    assert await browser.ask("/api/oauth/profile") == 401
    assert await browser.ask("/ccflare/accounts") == 200


@pytest.mark.parametrize("path", ["/ccflare/accounts", "/v1/messages", "/api/hello"])
async def test_r09_our_cookie_is_in_no_flow(path: str) -> None:
    browser = Browser(None)
    await browser.ask(path, "POST")
    assert browser.begun.cookie not in repr(browser.flow.get_state())
    assert "cookie" not in browser.flow.request.headers


async def test_r09_a_session_that_is_over_opens_nothing() -> None:
    browser = Browser(Role.ADMIN)
    assert await browser.ask("/ccflare/accounts") == 200
    assert await browser.ask("/ccflare/logout", "POST") == 303
    assert await browser.ask("/ccflare/accounts") == 401


async def test_r09_a_person_is_sent_to_the_login_and_a_program_is_not() -> None:
    browser = Browser(None)
    browser.sessions.end(browser.begun.session)
    assert await browser.ask("/ccflare/accounts?a=b", fields=((b"Accept", b"text/html"),)) == 303
    assert browser.flow.response is not None
    assert browser.flow.response.headers["location"] == "/ccflare/login?next=%2Fccflare%2Faccounts%3Fa%3Db"
    assert await browser.ask("/ccflare/accounts") == 401


@pytest.mark.parametrize("accepts", [b"text/html", b"application/json"])
@pytest.mark.parametrize("odd", ["\udcff", "\udced\udca0\udc80", "\udcc3\udcff"])
@pytest.mark.parametrize("path", ["/ccflare/requests/{}", "/ccflare/requests?model={}", "/ccflare/usage?{}={}"])
async def test_r09_bytes_that_are_no_text_are_no_error_inside(path: str, odd: str, accepts: bytes) -> None:
    """Strangers could else fill the log with tracebacks."""
    target, fields = path.format(odd, odd), (*OWN_PAGE, (b"Accept", accepts))
    stranger = Browser(None)
    stranger.sessions.end(stranger.begun.session)
    assert await stranger.ask(target, fields=fields) == (303 if accepts == b"text/html" else 401)


async def test_r09_what_was_said_is_not_for_everybody_on_this_machine() -> None:
    """Without keys a program on this machine sees figures; the rest takes the owner's link."""
    reading = [page for page in PAGES if page.permission is Permission.LOGS_VIEW and "GET" in page.methods]
    for page in reading:
        gate = a_gate(Bench())
        flow = asked(path_of(page), "GET", body=b"")
        gate.enter(flow)
        assert flow.response is not None
        assert flow.response.status_code == 403, page.path
