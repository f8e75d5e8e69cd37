"""What we have refused stays refused, whatever a second addon does, wherever it stands in the chain."""

import base64
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from ccflare_core.clients.keys import new_secret
from fake_upstream import FakeUpstream, Header
from harness import ADDON, Http2Client, Proxy, RawClient, Reply, claude_request, eventually, via_base_url

# Does in one hook what the request's header says.
MEDDLER = """
from mitmproxy import http


def put(flow):
    flow.response = http.Response.make(200, b"mine", {"x-mine": "1"})


def clear(flow):
    flow.response = None


def edit(flow):
    if flow.response is not None:
        flow.response.status_code, flow.response.content = 200, b"mine"
        flow.response.headers["x-mine"] = "1"
        flow.response.headers["set-cookie"] = "mine"
        flow.response.stream = True


def retarget(flow):
    flow.response = None
    flow.request.method, flow.request.path = "POST", "/v1/messages"
    flow.request.content = b"{}"


def stream(flow):
    flow.response = None
    flow.request.stream = True


def stream_ours(flow):
    flow.request.stream = lambda data: data


DEEDS = {deed.__name__: deed for deed in (put, clear, edit, retarget, stream, stream_ours)}


def hook(name):
    def meddle(self, flow):
        where, _, what = flow.request.headers.get("x-meddle", "").partition(":")
        if where == name:
            DEEDS[what](flow)

    async def meddle_later(self, flow):
        meddle(self, flow)

    return meddle_later if LATER else meddle


LATER = "later" in __file__
HOOKS = ("requestheaders", "request", "responseheaders", "response", "http_connect", "http_connect_error")
addons = [type("Meddler", (), {name: hook(name) for name in HOOKS})()]
"""
DEEDS = ("put", "clear", "edit", "retarget", "stream", "stream_ours")
LIMIT = 100_000


class House(NamedTuple):
    """A proxy with a second addon, and the keys that its refusals take."""

    upstream: FakeUpstream
    proxy: Proxy
    client: str
    haiku_only: str
    nobodys: str
    comes_first: bool
    """Whether the second addon is asked before ours."""


@pytest.fixture(scope="module", params=["after", "before", "later"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The second addon is loaded after ours, before it, or after it with hooks that are coroutines."""
    folder = tmp_path_factory.mktemp(request.param)
    meddler = folder / f"{request.param}.py"
    meddler.write_text(MEDDLER)
    with FakeUpstream(tls=True, http2=True) as upstream:
        proxy = start(upstream, folder / "proxy", meddler, first=request.param == "before")
        proxy.add_api_key("max", "sk-ant-api03-the-accounts")
        client = proxy.add_client_key("client")
        haiku_only = proxy.add_client_key("haiku", "--models", "claude-haiku-*")
        nobodys = proxy.add_client_key("nobody", "--accounts", "nobodys")
        with proxy:
            yield House(upstream, proxy, client, haiku_only, nobodys, request.param == "before")


def start(upstream: FakeUpstream, folder: Path, meddler: Path, *, first: bool) -> Proxy:
    options = {
        "ccflare_hold_seconds": 0,
        "ccflare_body_limit_bytes": LIMIT,
        "ccflare_database": folder / "home" / "data" / "ccflare.db" if first else None,  # else it is set already
        "ccflare_allowed_origins": "https://panel.example",
    }
    scripts = (meddler, ADDON) if first else (ADDON, meddler)
    return Proxy(upstream, folder=folder, script=scripts[0], arguments=["-s", str(scripts[1])], **options)  # type: ignore[arg-type]


def proof(secret: str) -> Header:
    return b"Proxy-Authorization", b"Basic " + base64.b64encode(f"key:{secret}".encode())


Asked = tuple[str, str, tuple[Header, ...], bytes]
REFUSALS = {
    "no key": 401,
    "dot segments": 400,
    "another site": 403,
    "another host": 403,
    "a page for others": 403,
    "another model": 403,
    "no account": 503,
    "too big": 413,
}


def asked(house: House, name: str) -> Asked:
    key = (b"x-api-key", house.client.encode())
    match name:
        case "no key":
            return "GET", "/v1/models", (), b""
        case "dot segments":
            return "GET", "/v1/messages/../models", (key,), b""
        case "another site":
            return "POST", "/v1/messages", (key, (b"Origin", b"http://evil.com")), b"{}"
        case "another host":
            return "GET", "http://example.com/", (key,), b""
        case "a page for others":
            return "GET", "/ccflare/accounts", (key, (b"Origin", b"https://panel.example")), b""
        case "another model":
            return claude_request(3000, credential=(b"x-api-key", house.haiku_only.encode()))
        case "no account":
            return claude_request(3000, credential=(b"x-api-key", house.nobodys.encode()))
        case _:
            return "POST", "/v1/messages", (key,), b"x" * (LIMIT + 1)


def said(reply: Reply) -> tuple[int, object, frozenset[tuple[bytes, bytes]]]:
    """What a client gets to see of an answer, but for what is another in each."""
    body = reply.json()
    changing = (b"request-id", b"content-length", b"retry-after", b"date")
    fields = frozenset((name.lower(), value) for name, value in reply.head.headers if name.lower() not in changing)
    return reply.status, body["error"], fields


def ask(house: House, request: Asked, *meddle: Header) -> Reply:
    method, target, headers, body = request
    with via_base_url(house.proxy) as client:
        return client.request(method, target, (*headers, *meddle), body)


HOOKS = ("requestheaders", "request", "responseheaders", "response")
DECIDED_IN = {"another model": "request", "no account": "responseheaders"}
"""Whatever is refused later than by its head: an addon may answer it until then."""


def meddling(house: House, name: str) -> Iterator[Header]:
    """All that the second addon can do once it is refused."""
    first = HOOKS.index(DECIDED_IN.get(name, "requestheaders"))
    if name == "another model" and house.comes_first:
        first += 1
    for hook, deed in product(HOOKS[first:], DEEDS):
        if not (house.comes_first and (hook, deed) == ("requestheaders", "retarget")):  # we see but the new target then
            yield b"x-meddle", f"{hook}:{deed}".encode()


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_stands(house: House, name: str) -> None:
    before = len(house.upstream.requests), house.upstream.connections
    plain = eventually(lambda: said(ask(house, asked(house, name))), lambda found: found[0] != 429, timeout=90)
    assert plain[0] == REFUSALS[name]
    for meddle in meddling(house, name):
        reply = ask(house, asked(house, name), meddle)
        if not (name == "no key" and reply.status == 429):  # who fails too often is told to wait
            assert said(reply) == plain, meddle
        assert b"mine" not in reply.body
    assert (len(house.upstream.requests), house.upstream.connections) == before
    sql = "SELECT DISTINCT outcome, status_code FROM requests WHERE status_code = ?"
    for row in house.proxy.rows(sql, (plain[0],)):
        assert row["outcome"] == "refused"


@pytest.mark.parametrize("name", ["no key", "another site", "another model"])
def test_a_refusal_stands_over_http2_in_a_tunnel(house: House, name: str) -> None:
    method, target, headers, body = asked(house, name)
    if name == "no key":
        headers = ((b"x-api-key", new_secret().encode()),)
    with Http2Client.via_connect(house.proxy, "localhost", house.upstream.port, (proof(house.client),)) as client:
        before = len(house.upstream.requests)
        status = client.request(method, target, headers, body).status
        assert status == (403 if name == "no key" else REFUSALS[name])
        for meddle in meddling(house, name):
            reply = client.request(method, target, (*headers, meddle), body)
            assert (reply.status, reply.header("x-mine")) == (status, None), meddle
            assert b"mine" not in reply.body
    assert len(house.upstream.requests) == before


@pytest.mark.parametrize("is_foreign", [False, True])
def test_no_tunnel_is_opened_that_we_refused(house: House, is_foreign: bool) -> None:
    with FakeUpstream(tls=True) as other:
        target = f"localhost:{(other if is_foreign else house.upstream).port}"
        before = house.upstream.connections
        for deed in DEEDS:
            for hook in ("http_connect", "http_connect_error"):
                with RawClient("127.0.0.1", house.proxy.port) as client:
                    reply = client.request("CONNECT", target, ((b"x-meddle", f"{hook}:{deed}".encode()),))
                assert reply.status in (407, 429), (hook, deed)  # who fails too often is told to wait
                assert b"mine" not in reply.body
                assert reply.header("x-mine") is None
        assert (other.connections, house.upstream.connections) == (0, before)


def test_what_is_not_refused_another_addon_may_answer(house: House) -> None:
    """So that the tests above can fail."""
    key = (b"x-api-key", house.client.encode())
    for hook in ("requestheaders", "request", "response"):
        reply = ask(house, ("GET", "/v1/models", (key,), b""), (b"x-meddle", f"{hook}:put".encode()))
        assert (reply.status, reply.body) == (200, b"mine"), hook
