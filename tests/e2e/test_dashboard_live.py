"""The dashboard as a browser has it: the link, the login, what is shown, and a cookie that goes nowhere else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ccflare_core.clients.sessions import COOKIE
from fake_upstream import FakeUpstream
from harness import Proxy, RawClient, Reply, StartProxy, claude_request, eventually, via_base_url

ONE = "sk-ant-api03-one"
HTML = (b"Accept", b"text/html")
OWN = (b"Sec-Fetch-Site", b"same-origin")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with FakeUpstream() as upstream:
        options: dict[str, Any] = {
            "ccflare_hold_seconds": 0,
            "view_filter": "~all",
        }  # or mitmweb's list would leave our pages out
        proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("proxy"), program="mitmweb", **options)
        proxy.add_api_key("one", ONE)
        with proxy:
            yield proxy


class Browser:
    """Keeps the cookie, and sends what a browser sends."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.cookie = b""

    def get(self, path: str) -> Reply:
        return self._ask("GET", path)

    def post(self, path: str, **form: str) -> Reply:
        body = urlencode(form).encode()
        kind = ((b"Content-Type", b"application/x-www-form-urlencoded"), (b"Content-Length", b"%d" % len(body)))
        return self._ask("POST", path, kind, body)

    def token(self, page: bytes) -> str:
        """The token in the page's forms."""
        return str(re.findall(r'name="token" value="([^"]+)"', page.decode())[0])

    def _ask(self, method: str, path: str, fields: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b"") -> Reply:
        cookie = ((b"Cookie", self.cookie),) if self.cookie else ()
        with via_base_url(self._proxy) as client:
            reply = client.request(method, path, (HTML, OWN, *fields, *cookie), body)
        if given := reply.header("set-cookie"):
            self.cookie = b"" if "Max-Age=0" in given else given.partition(";")[0].encode()
        return reply


def link_of(text: str) -> str:
    """The path and query of the last link in a text."""
    return str(re.findall(r"http://[^/\s]+(/ccflare/login\?token=\S+)", text)[-1])


def listed(proxy: Proxy) -> bytes:
    """mitmweb's list."""
    token = ((b"Authorization", f"Bearer {proxy.web_token}".encode()),)
    with RawClient("127.0.0.1", proxy.web_port) as web:
        return web.request("GET", "/flows", token).body


def test_the_starts_link_logs_in_once(proxy: Proxy) -> None:
    link = link_of(eventually(proxy.log, lambda log: "/ccflare/login?token=" in log))
    browser = Browser(proxy)

    reply = browser.get(link)

    assert (reply.status, reply.header("location")) == (303, "/ccflare/")
    assert browser.cookie.startswith(COOKIE + b"%d=" % proxy.port)
    assert Browser(proxy).get(link).status == 401
    logins = proxy.rows("SELECT actor FROM audit_log WHERE action = 'dashboard.login' AND outcome = 'ok' ORDER BY id")
    assert logins[-1]["actor"] == "dashboard"


def test_a_command_prints_another_link(proxy: Proxy) -> None:
    browser = Browser(proxy)
    assert browser.get(link_of(proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}"))).status == 303
    assert browser.get("/ccflare/login?next=/ccflare/health").status == 200


def test_the_cookie_is_shown_and_sent_to_nobody(proxy: Proxy) -> None:
    browser = Browser(proxy)
    browser.get(link_of(proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}")))
    secret = browser.cookie.partition(b"=")[2]
    with via_base_url(proxy) as client:
        method, path, fields, body = claude_request()
        client.request(method, path, (*fields, (b"Cookie", browser.cookie)), body)
    shown = eventually(lambda: listed(proxy), lambda text: b"/v1/messages" in text)
    assert b"/ccflare/login" in shown
    assert secret not in shown
    assert b"token=" not in shown
    assert secret.decode() not in proxy.log()
    for file in Path(proxy.database).parent.glob(f"{proxy.database.name}*"):
        assert secret not in file.read_bytes(), file


def test_what_was_said_takes_a_login_and_is_audited(proxy: Proxy) -> None:
    with via_base_url(proxy) as client:
        client.request(*claude_request())
    (row,) = proxy.rows(
        "SELECT id FROM requests WHERE outcome = 'ok' ORDER BY timestamp DESC LIMIT 1", until=lambda rows: rows
    )
    path = f"/ccflare/requests/{row['id']}"
    stranger, browser = Browser(proxy), Browser(proxy)
    browser.get(link_of(proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}")))

    assert stranger.get("/ccflare/").status == 200  # the figures, as there is no client key yet
    assert (stranger.get(path).status, stranger.get("/ccflare/journal").status) == (303, 303)
    shown = eventually(lambda: browser.get(path).body, lambda body: b"Say hello." in body)
    assert b"Pause one" in browser.get("/ccflare/").body
    assert b"Pause one" not in stranger.get("/ccflare/").body
    assert b"the question" in shown
    (flow,) = re.findall(rb'href="http://127.0.0.1:%d/#/flows/([0-9a-f-]+)/request"' % proxy.web_port, shown)
    assert flow in listed(proxy)
    assert proxy.web_token.encode() not in shown
    read = proxy.rows("SELECT actor FROM audit_log WHERE action = 'data.read' AND target = ?", [row["id"]])
    assert {each["actor"] for each in read} == {"dashboard"}


@pytest.mark.parametrize("query", ["/{}", "?model={}", "?before=1-{}", "?{}={}"])
def test_bytes_that_are_no_text_find_nothing(proxy: Proxy, query: str) -> None:
    browser = Browser(proxy)
    browser.get(link_of(proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}")))
    for odd in ("\udcff", "\udced\udca0\udc80"):
        assert browser.get(f"/ccflare/requests{query.format(odd, odd)}").status == (404 if "/" in query else 200)
    assert "Traceback" not in proxy.log()


def test_a_key_logs_in_by_the_form_and_out_again(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    """At a proxy of its own: once there is a key, nobody sees the figures without one."""
    proxy = start_proxy(upstream, accounts={"one": ONE})
    key = proxy.add_client_key("boss", "--role", "operator")
    browser = Browser(proxy)
    eventually(lambda: browser.get("/ccflare/accounts").status, lambda status: status == 303)
    assert b"problem" in browser.post("/ccflare/login", key="ccf_" + "w" * 32).body
    assert browser.cookie == b""

    reply = browser.post("/ccflare/login", key=key, next="/ccflare/accounts")

    assert (reply.status, reply.header("location")) == (303, "/ccflare/accounts")
    assert browser.get("/ccflare/accounts").status == 200
    token = browser.token(browser.get("/ccflare/login").body)
    assert browser.post("/ccflare/accounts/one/pause", token="other").status == 403
    assert browser.post("/ccflare/accounts/one/pause", token=token).status == 303
    assert browser.post("/ccflare/accounts/one/resume", token=token).status == 303
    assert Browser(proxy).post("/ccflare/login", key=key, next="//evil.example/").header("location") == "/ccflare/"
    assert browser.post("/ccflare/logout", token=token).status == 303
    assert browser.cookie == b""
    assert browser.get("/ccflare/accounts").status == 303
