"""Three doors to one upstream: what comes through them, with whose credential, and what stays outside."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from fake_upstream import FakeUpstream, Gate, Header, Request, json_answer, sse, sse_answer
from harness import (
    Http2Client,
    Proxy,
    RawClient,
    Reply,
    StartProxy,
    Truncated,
    claude_request,
    event_data,
    via_base_url,
    via_connect,
    via_reverse,
)

ACCOUNT = "sk-ant-oat01-the-accounts"
CLIENT = "sk-ant-oat01-the-clients-own"
LOGIN: Header = (b"Authorization", b"Bearer " + CLIENT.encode())

DOORS = (
    ("base-url", "http"),
    ("base-url", "https"),
    ("https-proxy", "https"),
    ("reverse", "http"),
    ("reverse", "https"),
)


class Door(NamedTuple):
    """A way to a running proxy, and the upstream behind it."""

    name: str
    upstream: FakeUpstream
    proxy: Proxy

    def enter(self) -> RawClient:
        """A new connection of a client that comes this way."""
        if self.name == "https-proxy":
            return via_connect(self.proxy, "localhost", self.upstream.port)
        return via_reverse(self.proxy) if self.name == "reverse" else via_base_url(self.proxy)

    @property
    def host(self) -> bytes:
        """The Host header that the upstream gets: its own, also in a tunnel, whatever the client wrote."""
        return self.upstream.url.partition("://")[2].encode()


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Door]]:
    """Doors by name and the upstream's scheme; what one needs is started once."""
    with contextlib.ExitStack() as running:
        upstreams = {
            "http": running.enter_context(FakeUpstream()),
            "https": running.enter_context(FakeUpstream(tls=True, http2=True)),
        }
        proxies: dict[tuple[bool, str], Proxy] = {}

        def open_one(name: str, scheme: str) -> Door:
            upstream, key = upstreams[scheme], (name == "reverse", scheme)
            if key not in proxies:
                mode = f"reverse:{upstream.url}" if name == "reverse" else None
                proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("proxy"), mode=mode)
                proxy.add_tokens("max", ACCOUNT)
                proxies[key] = running.enter_context(proxy)
            return Door(name, upstream, proxies[key])

        yield open_one


@pytest.fixture(params=DOORS, ids=lambda door: f"{door[0]}-to-{door[1]}")
def door(request: pytest.FixtureRequest, open_door: Callable[[str, str], Door]) -> Door:
    """Each of the doors, in front of each kind of upstream it can have."""
    return open_door(*request.param)


@pytest.fixture
def base_url(open_door: Callable[[str, str], Door]) -> Door:
    return open_door("base-url", "http")


@pytest.fixture
def https_proxy(open_door: Callable[[str, str], Door]) -> Door:
    return open_door("https-proxy", "https")


@pytest.fixture(scope="module")
def forwarding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that may forward other hosts."""
    folder = tmp_path_factory.mktemp("forwarding")
    with FakeUpstream() as upstream, Proxy(upstream, folder=folder, ccflare_forward_other_hosts=True) as proxy:
        yield proxy


@contextlib.contextmanager
def arriving(upstream: FakeUpstream) -> Iterator[list[Request]]:
    """The requests that reach the upstream within the block, there when it has ended."""
    before, new = len(upstream.requests), list[Request]()
    yield new
    new += upstream.requests[before:]


def ask(door: Door, *targets: str, method: str = "GET", headers: tuple[Header, ...] = (LOGIN,)) -> list[Reply]:
    """The answers to these requests, all on one connection."""
    with door.enter() as client:
        return [client.request(method, target, headers) for target in targets]


@contextlib.contextmanager
def tcp_server() -> Iterator[socket.socket]:
    """A server of another protocol, which has accepted nobody yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def tunnel(proxy: Proxy, port: int) -> RawClient:
    """A CONNECT to this port of this machine, with nothing sent through it yet."""
    client = RawClient("127.0.0.1", proxy.port)
    client.authority = f"127.0.0.1:{port}"
    client.send_request("CONNECT", client.authority)
    assert client.read_head().status == 200
    return client


def is_untouched(server: socket.socket) -> bool:
    """Whether nobody has connected to this server."""
    server.setblocking(False)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return True
    return False


# --- whose credential -----------------------------------------------------------------------------------------------

WITH_AN_ACCOUNT = (
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages?beta=true"),
    ("POST", "/v1/messages/count_tokens?beta=true"),
    ("GET", "/v1/messages/batches"),
    ("POST", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches/msgbatch_1"),
    ("DELETE", "/v1/messages/batches/msgbatch_1"),
    ("POST", "/v1/messages/batches/msgbatch_1/cancel"),
    ("GET", "/v1/messages/batches/msgbatch_1/results"),
    ("POST", "/v1/complete"),
    ("GET", "/v1/models?limit=1000"),
    ("GET", "/v1/models/claude-opus-4-8"),
    ("POST", "/v1/files"),
    ("DELETE", "/v1/files/file_1"),
    ("GET", "/v1/files/file_1/content"),
    ("GET", "/v1/skills"),
    ("POST", "/v1/skills/skill_1/versions"),
    ("GET", "/v1/skills/skill_1/versions/1759178010641129/content"),
)
WITH_THE_CLIENTS_OWN = (
    "/",
    "/api/oauth/usage",
    "/api/oauth/profile",
    "/api/claude_code/settings",
    "/api/event_logging/v2/batch",
    "/v1/code/sessions",
    "/v1/mcp_servers?limit=1000",
    "/v1/messages_of_another_kind",
    "/v1/oauth/authorize",
)
NO_METHODS = (
    *((method, "/v1/messages") for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post")),
    ("PUT", "/v1/messages/count_tokens?beta=true"),
    ("PATCH", "/v1/messages/batches"),
    ("POST", "/v1/messages/batches/msgbatch_1/results"),
    ("TRACE", "/v1/models"),
    ("HEAD", "/v1/models"),
    ("POST", "/v1/models/claude-opus-4-8"),
    ("PUT", "/v1/files/file_1"),
    ("PROPFIND", "/v1/skills"),
    ("TRACE", "/"),
    ("TRACE", "/api/oauth/usage"),
    ("BREW", "/v1/code/sessions"),
)
OTHER_SPELLINGS = (
    "/v1/messages/",
    "/V1/messages",
    "/v1/Messages?beta=true",
    "/v1/messages.",
    "/v1/messages;x",
    "/v1/%6dessages",
    "/v1/%256dessages",
    "/v1/messages%252f",
    "/v1/messages%3Fbeta=true",
    "/v1/messages#x",
    "/v1/x/%252e%252e/messages",
    "/v1/messages/batches/",
    "/v1/messages/batches/x/Cancel",
    "/v1/files/%61",
    "/v1/complete/",
)


def test_the_api_gets_the_accounts_credential(door: Door) -> None:
    with arriving(door.upstream) as requests, door.enter() as client:
        for method, target in WITH_AN_ACCOUNT:
            client.request(method, target, (LOGIN,))

    assert [(request.method, request.target) for request in requests] == list(WITH_AN_ACCOUNT)
    assert {request.credential for request in requests} == {ACCOUNT}
    assert not any(CLIENT.encode() in value for request in requests for _, value in request.headers)


def test_another_method_is_refused_and_nothing_goes_upstream(door: Door) -> None:
    with arriving(door.upstream) as requests:
        for method, target in NO_METHODS:
            (reply,) = ask(door, target, method=method)
            assert (method, target, reply.status) == (method, target, 405)
            assert method not in (reply.header("allow") or method).split(", ")

    assert requests == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "TRACE"])
def test_another_spelling_is_refused_and_nothing_goes_upstream(door: Door, method: str) -> None:
    with arriving(door.upstream) as requests:
        for target in OTHER_SPELLINGS:
            (reply,) = ask(door, target, method=method)
            assert (target, reply.status) == (target, 400)
            assert reply.json()["error"]["message"].startswith("This is another spelling of /v1/")

    assert requests == []


NEAR_MISSES = (
    ("/v1/v1/messages?beta=true", "There is a /v1 too many in the path"),
    ("/v1/api/hello", "There is a /v1 too many in the path"),
    ("//v1/messages", "There is an empty segment (//) in the path"),
    ("/proxy/v1/messages", "There is something in front of /v1/messages in the path"),
    ("/messages/count_tokens", "The path lacks its /v1: the API has /v1/messages/count_tokens."),
    ("/v1/message", "The API has no such path; the nearest one is /v1/messages."),
    ("/ccflare", "The proxy's own pages lie under /ccflare/"),
)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_near_miss_is_answered_with_its_mistake_and_nothing_goes_upstream(door: Door, method: str) -> None:
    with arriving(door.upstream) as requests:
        for target, sentence in NEAR_MISSES:
            (reply,) = ask(door, target, method=method)
            assert (target, reply.status) == (target, 400)
            assert reply.json()["error"]["message"].startswith(sentence)

    assert requests == []


def test_http2_gets_no_further_with_another_method_or_spelling(https_proxy: Door) -> None:
    bad = (*NO_METHODS, *(("POST", target) for target in OTHER_SPELLINGS))
    with arriving(https_proxy.upstream) as requests:
        for method, target in bad:
            with Http2Client.via_connect(https_proxy.proxy, "localhost", https_proxy.upstream.port) as client:
                reply = client.request(method, target, (LOGIN,))
            assert (method, target, reply.status) == (method, target, 405 if (method, target) in NO_METHODS else 400)

    assert requests == []


def test_what_names_another_method_or_path_stays_here(door: Door) -> None:
    fields = (
        (b"X-HTTP-Method-Override", b"DELETE"),
        (b"X-Original-URL", b"/v1/files/file_1"),
        (b"X_Rewrite_Url", b"/v1/organizations/users"),
    )
    with arriving(door.upstream) as requests, door.enter() as client:
        client.request("POST", "/v1/messages", (LOGIN, *fields), b"{}")
        client.request("POST", "/api/oauth/usage", (LOGIN, *fields), b"{}")

    names = [{name for name, _ in request.headers} & {name for name, _ in fields} for request in requests]
    assert [request.credential for request in requests] == [ACCOUNT, CLIENT]
    assert names == [set(), {name for name, _ in fields}]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_paths_take_these_methods_with_the_clients_own(base_url: Door, method: str) -> None:
    with arriving(base_url.upstream) as requests:
        ask(base_url, "/api/oauth/usage", "/v1/code/sessions", method=method)

    assert [(request.method, request.credential) for request in requests] == [(method, CLIENT)] * 2


def test_all_other_paths_keep_the_clients_own(door: Door) -> None:
    sent = (LOGIN, (b"X-API-Key", b"another"), (b"anthropic-beta", b"one,two"), (b"x-App", b"cli"))
    with arriving(door.upstream) as requests:
        ask(door, *WITH_THE_CLIENTS_OWN, method="POST", headers=sent)

    assert [request.target for request in requests] == list(WITH_THE_CLIENTS_OWN)
    assert {request.headers for request in requests} == {((b"Host", door.host), (b"Content-Length", b"0"), *sent)}


def test_what_passes_with_the_clients_own_is_in_the_log_once(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    door = Door("base-url", upstream, start_proxy(upstream, accounts={"max": ACCOUNT}))

    ask(door, "/api/oauth/usage", "/api/oauth/profile", "/api/hello", "/v1/models")

    lines = [line for line in door.proxy.wait_for_log("GET /v1/models 200").splitlines() if "own credential" in line]
    assert [line.rpartition(" · ")[2] for line in lines] == [
        "first request of /api/oauth/… from 127.0.0.1 this hour",
        "first failure of /api/oauth/… from 127.0.0.1 this hour",
        "first failure of /api/hello from 127.0.0.1 this hour",
    ]


def test_requests_arrive_byte_for_byte_with_another_credential(door: Door) -> None:
    odd: tuple[Header, ...] = ((b"X-ODD-case", b"a  b;\tc"), (b"x-twice", b"1"), (b"X-Twice", b"2"), (b"x-empty", b""))
    request = claude_request(4000, credential=LOGIN, extra=(*odd, (b"X-Api-Key", b"sk-ant-api03-too")))
    with arriving(door.upstream) as requests, door.enter() as client:
        assert client.request(*request).status == 200

    expected: list[Header] = [(b"Host", door.host), (b"Content-Length", b"4000")]
    for name, value in request.headers:
        if name == b"anthropic-beta":
            value += b",oauth-2025-04-20"
        if name == b"Authorization":
            value = b"Bearer " + ACCOUNT.encode()
        if name != b"X-Api-Key":
            expected.append((name, value))
    assert list(requests[0].headers) == expected
    assert (requests[0].method, requests[0].target, requests[0].body) == ("POST", request.target, request.body)


@pytest.mark.parametrize("betas", [b"oauth-2025-04-20", b"one, oauth-2025-04-20 ,two"])
def test_the_beta_entry_is_there_once(base_url: Door, betas: bytes) -> None:
    with arriving(base_url.upstream) as requests:
        ask(base_url, "/v1/models", headers=((b"anthropic-beta", betas),))

    assert requests[0].header_values("anthropic-beta") == [betas.decode()]


def test_a_client_without_betas_and_credential_gets_both(base_url: Door) -> None:
    with arriving(base_url.upstream) as requests:
        ask(base_url, "/v1/models", headers=((b"Accept", b"*/*"),))

    assert requests[0].header_values("anthropic-beta") == ["oauth-2025-04-20"]
    assert requests[0].header_values("authorization") == [f"Bearer {ACCOUNT}"]


def test_an_api_key_goes_out_as_x_api_key_alone(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"key": "sk-ant-api03-the-accounts"})
    both = (LOGIN, (b"x-api-key", b"sk-ant-api03-the-clients"), (b"Proxy-Authorization", b"Basic eDp5"))

    ask(Door("base-url", upstream, proxy), "/v1/models", headers=both)

    (request,) = upstream.requests
    assert request.header_values("x-api-key") == ["sk-ant-api03-the-accounts"]
    assert not request.header_values("authorization") + request.header_values("proxy-authorization")
    assert not request.header_values("anthropic-beta")


def test_a_compressed_body_stays_as_it_is(door: Door) -> None:
    body = b"\x1f\x8b\x08\x00 no gzip that anybody could open \x00\xff\r\n\r\n"
    with arriving(door.upstream) as requests, door.enter() as client:
        client.request("POST", "/v1/messages", ((b"Content-Encoding", b"gzip"),), body)

    assert (requests[0].body, requests[0].credential) == (body, ACCOUNT)


def test_an_http2_client_is_served_by_http1_upstream(https_proxy: Door) -> None:
    request = claude_request(4000, credential=LOGIN)
    with (
        arriving(https_proxy.upstream) as requests,
        Http2Client.via_connect(https_proxy.proxy, "localhost", https_proxy.upstream.port) as client,
    ):
        replies = [client.request(*request), client.request("GET", "/api/oauth/usage", (LOGIN,))]

    assert [reply.status for reply in replies] == [200, 200]
    assert event_data(replies[0].body.strip().split(b"\n\n")[-1]) == {"type": "message_stop"}
    assert [(r.protocol, r.credential) for r in requests] == [("HTTP/1.1", ACCOUNT), ("HTTP/1.1", CLIENT)]
    assert requests[0].body == request.body


def test_our_answers_to_a_head_have_no_body_over_http2_either(https_proxy: Door) -> None:
    with Http2Client.via_connect(https_proxy.proxy, "localhost", https_proxy.upstream.port) as client:
        refused, page = client.request("HEAD", "/v1/models"), client.request("HEAD", "/ccflare/health")
        served = client.request("GET", "/v1/models")

    assert [(refused.status, refused.body), (page.status, page.body), served.status] == [(405, b""), (200, b""), 200]
    assert int(page.header("content-length") or 0) > 0


# --- streams --------------------------------------------------------------------------------------------------------


def test_each_event_is_there_before_the_next_is_sent(door: Door) -> None:
    first, second = Gate(), Gate()
    steps = sse(["one", "two", "three"]).chunks
    door.upstream.answer(sse_answer(*steps[:4], first, steps[4], second, *steps[5:]))
    with door.enter() as client:
        client.send_request(*claude_request(3000))
        texts = read_texts(client)

        assert next(texts) == "one"
        first.open()
        assert next(texts) == "two"
        second.open()
        assert list(texts) == ["three"]


def read_texts(client: RawClient) -> Iterator[str]:
    """The text of each delta, as soon as it is here."""
    client.read_head()
    return (event["delta"]["text"] for event in client.events() if event["type"] == "content_block_delta")


# --- what is answered here ------------------------------------------------------------------------------------------


def test_claude_codes_warm_up_is_answered_here_and_its_connection_stays(door: Door) -> None:
    with arriving(door.upstream) as requests, door.enter() as client:
        warm_up = [client.request("HEAD", "/"), client.request("HEAD", "/api/hello")]
        served = client.request(*claude_request(3000))

    assert [reply.status for reply in (*warm_up, served)] == [200, 200, 200]
    assert [request.method for request in requests] == ["POST"]


def test_the_health_and_ready_pages(door: Door) -> None:
    with arriving(door.upstream) as requests:
        health, ready, missing = ask(door, "/ccflare/health", "/ccflare/ready", "/ccflare/other")
        (posted,) = ask(door, "/ccflare/health", method="POST")

    assert [health.status, ready.status, missing.status, posted.status] == [200, 200, 404, 405]
    assert health.json()["ready"] is True
    assert [(a["name"], a["reason"]) for a in health.json()["accounts"]] == [("max", "serving")]
    assert b"sk-ant" not in health.body
    assert requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../v1/messages",
        "/v1/messages/..",
        "/v1/messages/%2e%2e/x",
        "/v1%2fmessages",
        "/v1/messages%00",
        "/v1//messages",
        "/v1\\messages",
        "/v1/models/%zz",
    ],
)
def test_a_path_that_can_be_read_in_two_ways_is_refused(door: Door, path: str) -> None:
    with arriving(door.upstream) as requests:
        (reply,) = ask(door, path)

    assert (reply.status, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert requests == []


def test_the_record_tells_the_door(open_door: Callable[[str, str], Door]) -> None:
    for name in ("base-url", "https-proxy", "reverse"):
        door = open_door(name, "https")
        ask(door, f"/v1/models/{name}")

        sql = "SELECT door, account_name, outcome FROM requests WHERE path = ? AND outcome IS NOT NULL"
        rows = door.proxy.rows(sql, [f"/v1/models/{name}"], until=bool)
        assert [tuple(row.values()) for row in rows] == [(name, "max", "upstream_error")]  # the fake has no such model


# --- other hosts ----------------------------------------------------------------------------------------------------


def test_the_tls_of_another_host_passes_unopened(https_proxy: Door) -> None:
    with (
        FakeUpstream(tls=True) as other,
        via_connect(https_proxy.proxy, "localhost", other.port, other.ca_file) as client,
    ):
        certificate = client.detach()
        assert isinstance(certificate, ssl.SSLSocket)
        seen = certificate.getpeercert(binary_form=True)
        reply = client.request("GET", "/v1/models", (LOGIN,))

        assert reply.status == 200
        assert seen == ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", other.port)))
        assert [request.credential for request in other.requests] == [CLIENT]
        with pytest.raises(ssl.SSLCertVerificationError):
            via_connect(https_proxy.proxy, "localhost", other.port)  # mitmproxy's authority has not signed this


def test_plain_http_for_another_host_is_refused(base_url: Door, upstream: FakeUpstream) -> None:
    (reply,) = ask(base_url, f"{upstream.url}/v1/models")

    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")
    assert "ccflare_forward_other_hosts" in reply.json()["error"]["message"]
    assert upstream.connections == 0


def test_plain_http_in_a_tunnel_to_another_host_is_refused(base_url: Door, upstream: FakeUpstream) -> None:
    with tunnel(base_url.proxy, upstream.port) as client:
        assert client.request("GET", "/v1/models", (LOGIN,)).status == 403

    assert upstream.connections == 0


def test_another_protocol_in_a_tunnel_is_cut_off(base_url: Door) -> None:
    with tcp_server() as server, tunnel(base_url.proxy, server.getsockname()[1]) as client:
        client.send(b"\x00\x01 neither TLS nor HTTP\r\n")
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_head()

        assert is_untouched(server)


def test_other_hosts_are_forwarded_if_asked_to(forwarding: Proxy, upstream: FakeUpstream) -> None:
    upstream.always(json_answer({"from": "another host"}))
    with via_base_url(forwarding) as client:
        plain = client.request("GET", f"{upstream.url}/v1/models", (LOGIN,))
    with tunnel(forwarding, upstream.port) as client:
        tunnelled = client.request("GET", "/v1/messages", (LOGIN,))

    assert [plain.json(), tunnelled.json()] == [{"from": "another host"}] * 2
    assert [request.credential for request in upstream.requests] == [CLIENT, CLIENT]


def test_other_protocols_are_forwarded_if_asked_to(forwarding: Proxy) -> None:
    with tcp_server() as server, tunnel(forwarding, server.getsockname()[1]) as client:
        client.send(b"\x00\x01 neither TLS nor HTTP\r\n")
        peer, _ = server.accept()
        with peer:
            assert peer.recv(100) == b"\x00\x01 neither TLS nor HTTP\r\n"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "api.anthropic.com.evil.example", "localhost"])
def test_a_foreign_host_header_is_refused(base_url: Door, host: str) -> None:
    header = (b"Host", host.format(port=base_url.proxy.port).encode())
    with arriving(base_url.upstream) as requests:
        (reply,) = ask(base_url, "/v1/models", headers=(header, LOGIN))

    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")
    assert requests == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost", "[", ""])
def test_a_foreign_host_header_is_refused_by_the_reverse_proxy_too(
    open_door: Callable[[str, str], Door], host: str
) -> None:
    """mitmproxy has put the upstream's name there before the hooks see it: what counts is what the client said."""
    door = open_door("reverse", "http")
    header = (b"Host", host.format(port=door.proxy.port).encode())
    with arriving(door.upstream) as requests:
        (reply,) = ask(door, "/v1/models", headers=(header, LOGIN))

    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")
    assert requests == []


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_every_name_of_this_machine_will_do(base_url: Door, host: str) -> None:
    header = (b"Host", host.format(port=base_url.proxy.port).encode())
    (reply,) = ask(base_url, "/v1/models", headers=(header,))

    assert reply.status == 200
