"""No client has a word in where a credential goes: everything it can say is tried, at every door.

There are two upstreams. `api` has a certificate for localhost, as `ccflare_upstream` says. The impostor sits at the
same kind of address with a certificate that the same trust store accepts, but for another name: whoever could make the
proxy ask for that name would have it hand over a credential.
"""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.test import tflow
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from ccflare import CCFlare
from connect_proxy import ConnectProxy
from fake_upstream import FakeUpstream, Gate, Header, Request, sse
from harness import ADDON, Http2Client, Proxy, RawClient, Reply, claude_request
from rig import Rig

EVIL = "evil.test"
OWN: Header = (b"Authorization", b"Bearer the-clients-own")
SENTENCE = "no certificate that is good for the name in ccflare_upstream"


class Way(NamedTuple):
    """How a client comes in: the proxy's mode, whether it opens a tunnel, and what it speaks with us."""

    mode: str
    tunnel: bool
    protocol: str

    def __str__(self) -> str:
        return f"{self.mode}{'-tunnel' * self.tunnel}-{self.protocol or 'plain'}"

    @property
    def is_http2(self) -> bool:
        return self.protocol == "h2"


WAYS = [
    Way("regular", False, ""),
    Way("regular", False, "http/1.1"),
    Way("regular", True, "http/1.1"),
    Way("regular", True, "h2"),
    Way("upstream", False, ""),
    Way("upstream", False, "http/1.1"),
    Way("upstream", True, "http/1.1"),
    Way("upstream", True, "h2"),
    Way("reverse", False, ""),
    Way("reverse", False, "http/1.1"),
    Way("reverse", False, "h2"),
]
TUNNELS = [way for way in WAYS if way.tunnel]
EVERY_WAY = pytest.mark.parametrize("way", WAYS, ids=str)
EVERY_TUNNEL = pytest.mark.parametrize("way", TUNNELS, ids=str)


class Place(NamedTuple):
    """An upstream and the proxies in front of it, by mode."""

    upstream: FakeUpstream
    between: ConnectProxy
    rigs: dict[str, Rig]

    def arrive(self, way: Way) -> Rig:
        """The rig of this way, with one account as good as new."""
        rig = self.rigs[way.mode]
        rig.renew("a")
        self.upstream.server_names.clear()
        self.between.heads.clear()
        return rig


@contextlib.contextmanager
def place(hosts: tuple[str, ...], **options: Any) -> Iterator[Place]:
    """Proxies in every mode before an upstream with a certificate for these hosts."""
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(FakeUpstream(tls=True, http2=True, hosts=hosts))
        between = running.enter_context(ConnectProxy(upstream.port))
        modes = {"regular": None, "upstream": between.mode, "reverse": f"reverse:{upstream.url}"}
        rigs = {
            name: running.enter_context(Rig.running(upstream, mode=mode, **options)) for name, mode in modes.items()
        }
        yield Place(upstream, between, rigs)


@pytest.fixture(scope="module")
def api() -> Iterator[Place]:
    with place(("localhost",)) as made:
        yield made


@pytest.fixture(scope="module")
def impostor() -> Iterator[Place]:
    with place((EVIL,)) as made:
        yield made


def enter(way: Way, proxy: Proxy, authority: str, sni: str = EVIL) -> RawClient:
    """A connection that has come this way, with a CONNECT to that authority and a TLS that asks for this name."""
    client = RawClient("127.0.0.1", proxy.port)
    client.authority = f"127.0.0.1:{proxy.port}"
    if way.tunnel:
        client.authority = authority
        client.send_request("CONNECT", authority, [(b"Proxy-Authorization", b"Basic bWluZTptaW5l")])
        assert client.read_head().status == 200
    if way.protocol:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([way.protocol])
        host = client.authority
        client.start_tls(context, sni)
        client.authority = host
    return client


def converse(
    way: Way, rig: Rig, *requests: tuple[Any, ...], authority: str = "", host: str = "", sni: str = EVIL
) -> list[Reply]:
    """The answers to these requests on one connection; `host` is the Host or `:authority` that they say."""
    with enter(way, rig.proxy, authority or f"localhost:{rig.upstream.port}", sni) as client:
        client.authority = host or client.authority
        if not way.is_http2:
            return [client.request(*request) for request in requests]
        http2 = Http2Client(client.detach(), client.authority)
        return [http2.request(*request) for request in requests]


def ask(rig: Rig) -> tuple[Any, ...]:
    """A request that gets a credential."""
    return claude_request(3000, session=rig.session)


def assert_went_to_the_api(place: Place, requests: list[Request], secret: str) -> None:
    """It came where the options say, under the name that they say, as HTTP/1.1, by the way that they say."""
    port = place.upstream.port
    assert requests
    for request in requests:
        assert (request.protocol, request.header_values("host")) == ("HTTP/1.1", [f"localhost:{port}"])
        assert request.credential == secret
        assert request.target.startswith("/v1/messages")
    assert set(place.upstream.server_names) == {"localhost"}


# --- what the client says of itself -----------------------------------------------------------------------------------


@EVERY_WAY
def test_the_clients_sni_and_alpn_do_not_reach_the_upstream(way: Way, api: Place) -> None:
    rig = api.arrive(way)

    (reply,) = converse(way, rig, ask(rig))

    assert reply.status == 200
    assert_went_to_the_api(api, rig.requests, rig.secret("a"))


@EVERY_WAY
def test_the_clients_sni_makes_no_other_certificate_good(way: Way, impostor: Place) -> None:
    rig = impostor.arrive(way)

    (reply,) = converse(way, rig, ask(rig))

    assert (reply.status, rig.requests) == (502, [])
    assert SENTENCE in reply.json()["error"]["message"]
    assert "nothing was sent" in reply.json()["error"]["message"]
    assert (rig.row()["outcome"], rig.kinds(), rig.rests("a")) == ("upstream_error", ["not_trusted"], [])
    assert rig.health()["a"]["reason"] == "serving"
    assert rig.is_idle()


@EVERY_WAY
def test_the_clients_own_credential_does_not_go_to_an_impostor_either(way: Way, impostor: Place) -> None:
    rig = impostor.arrive(way)
    before = len(impostor.upstream.requests)

    (reply,) = converse(way, rig, ("GET", "/api/oauth/profile", (OWN,)))

    assert reply.status == 502
    assert len(impostor.upstream.requests) == before


@EVERY_TUNNEL
def test_a_connect_in_capitals_is_the_same_upstream(way: Way, api: Place, impostor: Place) -> None:
    for place_ in (api, impostor):
        rig = place_.arrive(way)
        (reply,) = converse(way, rig, ask(rig), authority=f"LOCALHOST:{place_.upstream.port}")

        if place_ is api:
            assert reply.status == 200
            assert_went_to_the_api(api, rig.requests, rig.secret("a"))
        else:
            assert (reply.status, rig.requests) == (502, [])


@pytest.mark.parametrize("way", [way for way in WAYS if way.mode == "reverse" and not way.is_http2], ids=str)
def test_a_connect_in_reverse_mode_leads_nowhere(way: Way, api: Place, impostor: Place) -> None:
    rig = api.arrive(way)
    before = impostor.upstream.connections
    with enter(way, rig.proxy, "") as client:
        client.send_request("CONNECT", f"localhost:{impostor.upstream.port}")
        assert client.read_head().status >= 400

    assert impostor.upstream.connections == before
    assert rig.requests == []


@EVERY_TUNNEL
@pytest.mark.parametrize("host", [EVIL, "localhost", f"{EVIL}:443", "LOCALHOST:1"])
def test_the_host_in_a_tunnel_is_replaced(way: Way, host: str, api: Place) -> None:
    rig = api.arrive(way)

    (reply,) = converse(way, rig, ask(rig), host=host)

    assert reply.status == 200
    assert_went_to_the_api(api, rig.requests, rig.secret("a"))


@pytest.mark.parametrize("way", [way for way in WAYS if not way.tunnel], ids=str)
@pytest.mark.parametrize("host", [EVIL, f"{EVIL}:443", "127.0.0.1:443"])
def test_another_host_outside_of_a_tunnel_is_refused(way: Way, host: str, api: Place) -> None:
    rig = api.arrive(way)

    (reply,) = converse(way, rig, ask(rig), host=host)

    assert (reply.status, rig.requests) == (403, [])


@pytest.mark.parametrize("way", [way for way in WAYS if not way.is_http2], ids=str)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [EVIL, "localhost:{port}", "localhost:{own}"])
def test_an_absolute_target_says_nothing_new(way: Way, scheme: str, host: str, api: Place) -> None:
    rig = api.arrive(way)
    method, path, *rest = ask(rig)
    absolute = f"{scheme}://{host.format(port=api.upstream.port, own=rig.proxy.port)}{path}"

    (reply,) = converse(way, rig, (method, absolute, *rest))

    assert reply.status in (200, 400, 403)
    assert bool(rig.requests) == (reply.status == 200)
    if rig.requests:
        assert_went_to_the_api(api, rig.requests, rig.secret("a"))


@EVERY_WAY
@pytest.mark.parametrize("path", [f"//{EVIL}/v1/messages", f"/@{EVIL}/v1/messages", "/v1/messages@evil"])
def test_a_path_with_a_host_in_it_gets_no_credential(way: Way, path: str, api: Place) -> None:
    rig = api.arrive(way)
    method, _, *rest = ask(rig)

    (reply,) = converse(way, rig, (method, path, *rest))

    assert reply.status >= 200
    assert rig.secret("a") not in [request.credential for request in rig.requests]
    assert set(api.upstream.server_names) <= {"localhost"}


@EVERY_WAY
def test_a_connection_that_is_used_again_is_the_upstreams(way: Way, api: Place) -> None:
    rig = api.arrive(way)
    profile = ("GET", "/api/oauth/profile", (OWN,))

    replies = converse(way, rig, profile, ask(rig), ask(rig))

    assert [reply.status for reply in replies[1:]] == [200, 200]
    assert len(rig.requests) == 2
    assert_went_to_the_api(api, rig.requests, rig.secret("a"))


@EVERY_WAY
def test_a_connection_that_was_refused_is_not_used_again(way: Way, impostor: Place) -> None:
    rig = impostor.arrive(way)

    replies = converse(way, rig, ("GET", "/api/oauth/profile", (OWN,)), ask(rig), ask(rig))

    assert [reply.status for reply in replies] == [502, 502, 502]
    assert rig.requests == []


@pytest.mark.parametrize("way", [way for way in WAYS if way.mode == "upstream"], ids=str)
def test_the_proxy_on_the_way_hears_of_the_upstream_only(way: Way, api: Place) -> None:
    rig = api.arrive(way)

    (reply,) = converse(way, rig, ask(rig), host=EVIL if way.tunnel else "")

    assert reply.status == 200
    authority = f"localhost:{api.upstream.port}".encode()
    assert api.between.heads
    for head in api.between.heads:
        assert head.startswith(b"CONNECT " + authority + b" HTTP/1.1\r\n")
        assert b"authorization" not in head.lower()
        assert EVIL.encode() not in head


@EVERY_TUNNEL
def test_without_sni_the_upstream_is_asked_for_its_name(way: Way, api: Place) -> None:
    rig = api.arrive(way)

    (reply,) = converse(way, rig, ask(rig), sni="127.0.0.1")  # an address: TLS says no name then

    assert reply.status == 200
    assert_went_to_the_api(api, rig.requests, rig.secret("a"))


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["h2", "http/1.1"], "http/1.1"), (["h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)],
    ids=["both", "HTTP/2", "HTTP/1.1", "nothing"],
)
def test_what_a_client_offers_is_agreed_on_with_it_alone(offered: list[str], agreed: str | None, api: Place) -> None:
    rig = api.arrive(WAYS[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(offered)
    with enter(Way("regular", True, ""), rig.proxy, f"localhost:{api.upstream.port}") as client:
        client.start_tls(context, EVIL)
        inner = client.detach()
        assert isinstance(inner, ssl.SSLSocket)
        assert inner.selected_alpn_protocol() == agreed
        reply = Http2Client(inner, EVIL).request(*ask(rig)) if agreed == "h2" else client.request(*ask(rig))

    assert reply.status == 200
    assert_went_to_the_api(api, rig.requests, rig.secret("a"))


def test_the_streams_of_an_http2_client_do_not_wait_for_each_other(api: Place) -> None:
    """Each has its own connection upstream, and mitmproxy would open no more than five of them."""
    way = next(way for way in TUNNELS if way.is_http2)
    rig, gate = api.arrive(way), Gate()
    rig.script("a", *[sse(["one", "two"], gate=gate) for _ in range(12)])
    with enter(way, rig.proxy, f"localhost:{api.upstream.port}") as client:
        http2 = Http2Client(client.detach(), EVIL)
        streams = [http2.send_request(*ask(rig)) for _ in range(12)]
        assert [http2.read_head(stream).status for stream in streams] == [200] * 12
        gate.open()
        assert all(http2.read_body(stream).endswith(b'message_stop"}\n\n') for stream in streams)

    assert len({request.connection for request in rig.requests}) == 12


# --- what the owner says ----------------------------------------------------------------------------------------------


def test_reverse_modes_own_target_gets_no_credential(api: Place, impostor: Place) -> None:
    mode = f"reverse:https://{EVIL}:{impostor.upstream.port}"
    with Rig.running(api.upstream, mode=mode, connection_strategy="lazy") as rig:
        rig.fresh("a")
        for way in (way for way in WAYS if way.mode == "reverse"):
            api.upstream.server_names.clear()
            (reply,) = converse(way, rig, ask(rig))

            assert reply.status == 200
            assert_went_to_the_api(api, rig.requests, rig.secret("a"))
    assert not any(request.credential == rig.secret("a") for request in impostor.upstream.requests)


# --- what comes between -----------------------------------------------------------------------------------------------

RENAMING = f"""
def tls_start_server(data):
    data.conn.sni = "{EVIL}"
"""
UNVERIFIED = """
from OpenSSL import SSL


def tls_start_server(data):
    data.ssl_conn = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    data.ssl_conn.set_connect_state()
"""
UNNAMED = """
from mitmproxy import ctx
from OpenSSL import SSL


def tls_start_server(data):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER)
    context.load_verify_locations(ctx.options.ssl_verify_upstream_trusted_ca)
    data.ssl_conn = SSL.Connection(context)
    data.ssl_conn.set_connect_state()
"""
HTTP2 = """
def tls_start_server(data):
    data.conn.alpn_offers = [b"h2"]
"""
RETOLD = f"""
def request(flow):
    flow.request.headers["host"] = "{EVIL}"
    flow.request.authority = "{EVIL}"
"""


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize(
    ("script", "of"),
    [
        (RENAMING, "impostor"),
        (UNVERIFIED, "impostor"),
        (UNVERIFIED, "api"),
        (UNNAMED, "impostor"),
        (HTTP2, "api"),
    ],
    ids=["renaming", "unverified", "unverified but right", "verified for no name", "another protocol"],
)
def test_another_addon_gets_no_credential_to_another_name(
    script: str, of: str, where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    upstream = request.getfixturevalue(of).upstream
    other = tmp_path / "other.py"
    other.write_text(script)
    scripts = [other, ADDON] if where == "before" else [ADDON, other]
    loaded = [word for each in scripts for word in ("-s", str(each))]
    database = tmp_path / "ccflare.db"
    with Rig.running(upstream, script=None, database=database, arguments=loaded, ccflare_database=database) as rig:
        rig.fresh("a")
        for way in (way for way in WAYS if way.mode == "regular"):
            (reply,) = converse(way, rig, ask(rig))

            if where == "before" and script == HTTP2:
                assert reply.status == 200  # what is only said, our hook says after it
                assert rig.requests[-1].protocol == "HTTP/1.1"
                continue
            assert (reply.status, rig.requests) == (502, []), way
            assert SENTENCE in reply.json()["error"]["message"]
        assert rig.rests("a") == []


def test_another_addons_host_does_not_go_out_with_a_credential(api: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(RETOLD)
    with Rig.running(api.upstream, arguments=["-s", str(other)]) as rig:
        rig.fresh("a")
        for way in (way for way in WAYS if way.mode == "regular"):
            api.upstream.server_names.clear()
            (reply,) = converse(way, rig, ask(rig))

            assert reply.status == 200
            assert_went_to_the_api(api, rig.requests, rig.secret("a"))


def test_a_failing_hook_leaves_a_handshake_that_trusts_nobody(api: Place) -> None:
    """Else mitmproxy's own would follow, which asks for the client's name."""
    client = tflow.tclient_conn()
    data = TlsData(tflow.tserver_conn(), Context(client, Options()))

    with pytest.raises(RuntimeError):
        CCFlare().tls_start_server(data)

    ours: Any = data.ssl_conn
    server = SSL.Context(SSL.TLS_SERVER_METHOD)
    server.use_certificate_chain_file(str(api.upstream.chain_file))
    server.use_privatekey_file(str(api.upstream.chain_file.with_name("server.key")))
    theirs = SSL.Connection(server)
    theirs.set_accept_state()
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        shake_hands(ours, theirs)


def shake_hands(*ends: SSL.Connection) -> None:
    """Carry the bytes of a handshake between two ends in memory until one of them fails."""
    for _ in range(10):
        for end, other in (ends, ends[::-1]):
            with contextlib.suppress(SSL.WantReadError):
                end.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(65536))
