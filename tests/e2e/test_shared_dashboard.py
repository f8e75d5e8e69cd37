"""The dashboard of several proxies: a login holds in each worker and in each proxy behind a front, and all is live."""

import itertools
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from fake_upstream import FakeUpstream, Gate, Header, sse
from front_kit import MAKERS, Front, proxy_options
from harness import REPOSITORY, Proxy, RawClient, Reply, claude_request, eventually, via_base_url

pytestmark = pytest.mark.timeout(600)
ONE = "sk-ant-api03-one"
HEALTH = "/ccflare/api/v1/health"


class Browser:
    """Keeps the cookie, and has a new connection for each request, so that any proxy may answer."""

    def __init__(self, connect: Callable[[], RawClient]) -> None:
        self._connect = connect
        self._numbers = itertools.count()
        self.cookie = b""

    def ask(self, path: str, **form: str) -> Reply:
        """The answer to a GET, or to a form that is sent."""
        body = urlencode(form).encode()
        kind = (b"Content-Type", b"application/x-www-form-urlencoded"), (b"Content-Length", b"%d" % len(body))
        fields: list[Header] = [(b"Accept", b"text/html"), (b"Sec-Fetch-Site", b"same-origin")]
        # By this a front chooses the proxy.
        fields += [(b"X-Claude-Code-Session-Id", b"%d" % next(self._numbers))]
        fields += [(b"Cookie", self.cookie)] if self.cookie else []
        with self._connect() as client:
            reply = client.request("POST" if form else "GET", path, (*fields, *(kind if form else ())), body)
        if given := reply.header("set-cookie"):
            self.cookie = b"" if "Max-Age=0" in given else given.partition(";")[0].encode()
        return reply

    def log_in(self, link: str) -> None:
        """Take the link that a script prints."""
        (path,) = re.findall(r"(/ccflare/login\?token=\S+)", link)
        assert self.ask(path).status == 303
        assert self.ask(path).status == 401  # it is good once

    def who(self, times: int) -> set[str]:
        """Those that answer so many requests, all of them in the session."""
        replies = [self.ask(HEALTH) for _ in range(times)]
        assert {reply.status for reply in replies} == {200}
        return {reply.json()["proxy"] for reply in replies}

    @property
    def token(self) -> str:
        """That of the forms."""
        return str(re.findall(r'name="token" value="([^"]+)"', self.ask("/ccflare/").body.decode())[0])


def holds_in_all(browser: Browser, number: int) -> None:
    """A session opens the pages of all, changes something by any of them, and ends in all of them."""
    seen = set[str]()

    def all_have_answered() -> bool:
        seen.update(browser.who(1))
        return len(seen) == number

    eventually(all_have_answered)
    for verb in ("pause", "resume"):
        for _ in range(3):
            assert browser.ask(f"/ccflare/accounts/one/{verb}", token=browser.token).status == 303
    token, cookie = browser.token, browser.cookie
    assert browser.ask("/ccflare/accounts/one/pause", token=token[:-2]).status == 403

    assert browser.ask("/ccflare/logout", token=token).status == 303

    assert browser.cookie == b""
    browser.cookie = cookie
    eventually(lambda: {browser.ask(HEALTH).status for _ in range(6 * number)} <= {303, 401, 403})


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def workers(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy of two workers."""
    proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("workers"), anew=True)
    proxy.add_api_key("one", ONE)
    proxy.add_client_key("laptop")  # so that a page takes a session
    proxy._command[:1] = [sys.executable, str(REPOSITORY / "scripts" / "_workers.py"), "--workers", "2"]
    loads = proxy._command.index("-s")
    del proxy._command[loads : loads + 2]  # that is the script's part
    with proxy:
        proxy.wait_for_log("2 workers serve")
        yield proxy


def test_a_login_holds_in_every_worker_and_the_start_prints_a_link(workers: Proxy) -> None:
    browser = Browser(lambda: via_base_url(workers))
    browser.log_in(workers.log())
    holds_in_all(browser, 2)


def test_what_runs_in_all_workers_is_told_live_by_any_of_them(workers: Proxy, upstream: FakeUpstream) -> None:
    credential = (b"Authorization", f"Bearer {workers.add_client_key('asks')}".encode())
    viewer = (b"Authorization", f"Bearer {workers.add_client_key('looks', '--role', 'viewer')}".encode())
    browser = Browser(lambda: via_base_url(workers))
    browser.log_in(workers.run_script("dashboard.py", "--address", f"127.0.0.1:{workers.port}"))
    eventually(lambda: workers.rows("SELECT 1 AS n FROM runs WHERE name LIKE '%/_'", until=lambda rows: len(rows) == 2))
    gate, number = Gate(), 16
    upstream.answer(*(sse(gate=gate, gate_at=1) for _ in range(number)))
    with ExitStack() as running:
        clients = [running.enter_context(via_base_url(workers)) for _ in range(number)]
        for client in clients:
            client.send_request(*claude_request(2_000, credential=credential))
            assert client.read_head().status == 200
        with via_base_url(workers) as watch:
            watch.send_request("GET", "/ccflare/api/v1/events", (viewer,))
            assert watch.read_head().status == 200
            told = events(watch)
            opened = taken(told, "open", number)
            gate.open()
            closed = taken(told, "closed", number)
    assert {each["proxy"].rpartition("/")[2] for each in opened.values()} == {"1", "2"}
    assert {each["account"] for each in opened.values()} == {"one"}
    assert {id: each["outcome"] for id, each in closed.items()} == dict.fromkeys(opened, "ok")
    assert {id: each["proxy"] for id, each in closed.items()} == {id: each["proxy"] for id, each in opened.items()}


def events(client: RawClient) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream, each with its name."""
    text = b""
    while piece := client.read_chunk():
        *blocks, text = (text + piece).split(b"\n\n")
        for block in blocks:
            lines = dict(line.split(": ", 1) for line in block.decode().splitlines() if ": " in line)
            if "event" in lines:
                yield lines["event"], json.loads(lines["data"])


def taken(told: Iterator[tuple[str, dict[str, Any]]], name: str, number: int) -> dict[str, dict[str, Any]]:
    """The first so many requests that events of this name are about, by their ids."""
    found: dict[str, dict[str, Any]] = {}
    while len(found) < number:
        event, data = next(told)
        if event == name:
            found[data["id"]] = data
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_a_login_holds_in_both_proxies_behind_a_front(name: str, upstream: FakeUpstream, tmp_path: Path) -> None:
    options = proxy_options()
    with ExitStack() as running:
        first = Proxy(upstream, folder=tmp_path / "first", **options)
        first.add_api_key("one", ONE)
        first.add_api_key("spare", "sk-ant-api03-spare")  # HAProxy sends nothing to proxies that no account is left in
        key = first.add_client_key("boss", "--role", "operator")
        viewer = first.add_client_key("haproxy", "--role", "viewer")
        running.enter_context(first)
        second = running.enter_context(Proxy(upstream, folder=tmp_path / "second", database=first.location, **options))
        (tmp_path / "front").mkdir()
        ports = first.port, second.port
        front = running.enter_context(Front(MAKERS[name], tmp_path / "front", ports, viewer, has_pages=True))
        eventually(front.trusts_both)
        browser = Browser(front.client)
        browser.log_in(second.run_script("dashboard.py", "--address", "https://proxy.example"))
        holds_in_all(browser, 2)

        by_key = Browser(front.client)
        assert by_key.ask("/ccflare/login", key=key, next="/ccflare/requests").status == 303
        assert b"Secure" not in by_key.cookie
        holds_in_all(by_key, 2)


def test_a_session_outlives_the_proxy_that_began_it(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path / "proxy")
    proxy.add_api_key("one", ONE)
    proxy.add_client_key("laptop")
    with proxy:
        browser = Browser(lambda: via_base_url(proxy))
        browser.log_in(proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}"))
        proxy.stop(signal.SIGTERM)
        proxy.start()
        assert browser.ask(HEALTH).status == 200
