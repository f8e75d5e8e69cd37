"""A tunnel lives as long as the secret that it was opened with, whatever goes on inside."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from fake_upstream import FakeUpstream, Gate, limited_for, sse
from harness import Http2Client, Proxy, RawClient, claude_request, eventually, via_connect
from rig import Rig
from tunnel_kit import ENDED, Echo, client_hello, is_cut, proof, read_exactly


class Key(NamedTuple):
    """A client key of one test's own."""

    rig: Rig
    name: str
    secret: str = ""

    @property
    def proxy(self) -> Proxy:
        return self.rig.proxy

    def tunnel(self, secret: str | None = None) -> RawClient:
        """A tunnel to the upstream, opened with this key."""
        return via_connect(self.proxy, "localhost", self.rig.upstream.port, headers=proof(secret or self.secret))

    def add(self, name: str) -> str:
        """One more key; its secret, which counts by now."""
        with self._store() as store:
            secret = store.clients.add(new_key(name, time.time(), tunnels=True))
        eventually(lambda: opens(self, secret))
        return secret

    def revoke(self) -> None:
        with self._store() as store:
            store.clients.revoke(self.name)

    def rotate(self, grace: float = 0) -> str:
        with self._store() as store:
            return store.clients.rotate(self.name, grace)

    def expire(self) -> None:
        with self._store() as store:
            store.clients.change(self.name, expires_at=time.time() + 0.5)

    def _store(self) -> contextlib.closing[Store]:
        path = self.proxy.database
        return contextlib.closing(Store.open(path, KeyFile(path.with_suffix(".key"))))


END = pytest.mark.parametrize("end", [Key.revoke, Key.rotate, Key.expire], ids=["revoked", "rotated", "expired"])
Ending = Callable[[Key], object]


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream(tls=True, http2=True) as upstream:
        options: dict[str, object] = {"ccflare_hold_seconds": 60, "ccflare_open_loopback": True}
        options |= {"ccflare_forward_other_hosts": True, "ccflare_tunnel_targets": "127.0.0.0/8 localhost"}
        with Rig.running(upstream, **options) as rig:
            yield rig


@pytest.fixture
def key(rig: Rig, request: pytest.FixtureRequest) -> Key:
    name = f"k{abs(hash(request.node.nodeid))}"
    key = Key(rig, name)
    return key._replace(secret=key.add(name))


def opens(key: Key, secret: str | None = None) -> bool:
    """Whether a tunnel can be opened with it."""
    try:
        key.tunnel(secret).close()
    except ConnectionRefusedError:
        return False
    return True


def serves(client: RawClient) -> bool:
    return client.request("GET", "/v1/models").status == 200


@END
def test_an_idle_tunnel_ends_with_its_secret_and_no_other_does(key: Key, end: Ending) -> None:
    bystander = key.add(f"{key.name}-other")
    with key.tunnel() as tunnel, key.tunnel(bystander) as other:
        assert serves(tunnel)

        end(key)

        assert is_cut(tunnel)
        assert serves(other)
    assert not opens(key)


@END
@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_tunnel_ends_in_the_middle_of_its_streams(key: Key, end: Ending, protocol: str) -> None:
    count = 2 if protocol == "h2" else 1
    key.rig.script("a", *[sse(["one", "two"], gate=Gate(), gate_at=1)] * count)
    asked = claude_request(3000, session=key.rig.session)
    with contextlib.closing(h2_tunnel(key) if protocol == "h2" else key.tunnel()) as tunnel:
        for _ in range(count):
            tunnel.send_request(*asked)
        requests = key.rig.wait_for(count)

        end(key)

        key.rig.upstream.wait_until(lambda: all(request.aborted for request in requests))
        with pytest.raises(ENDED):
            read_all(tunnel)
    for row in key.rig.rows(len(requests)):
        assert (row["outcome"], row["error_message"]) == (
            "client_abort",
            "the client key that the tunnel was opened with is over",
        )
    eventually(key.rig.is_idle)
    assert key.rig.rests("a") == []


def h2_tunnel(key: Key) -> Http2Client:
    return Http2Client.via_connect(key.proxy, "localhost", key.rig.upstream.port, headers=proof(key.secret))


def read_all(tunnel: RawClient | Http2Client) -> None:
    if isinstance(tunnel, Http2Client):
        tunnel.read_head(1)
        tunnel.read_body(1)
    else:
        tunnel.read_head()
        tunnel.read_body()


def test_a_tunnel_whose_client_reads_nothing_ends_too(key: Key) -> None:
    key.rig.script("a", sse(["x" * 60_000] * 200, gate=Gate(), gate_at=200))  # all buffers together may hold that much
    with key.tunnel() as tunnel:
        tunnel.send_request(*claude_request(3000, session=key.rig.session))
        (request,) = key.rig.wait_for(1)

        key.revoke()

        key.rig.upstream.wait_until(lambda: request.aborted)
        assert key.rig.row()["outcome"] == "client_abort"


@pytest.mark.parametrize("sent", [0, 1000], ids=["before the body", "mid body"])
def test_a_tunnel_ends_while_a_request_comes_in(key: Key, sent: int) -> None:
    method, target, headers, body = claude_request(3000, session=key.rig.session)
    with key.tunnel() as tunnel:
        length = (b"Content-Length", b"%d" % len(body))
        tunnel.send_request(method, target, (length, *headers), body[:sent])
        eventually(lambda: not key.rig.is_idle())

        key.revoke()

        assert is_cut(tunnel)
    eventually(key.rig.is_idle)
    assert key.rig.requests == []


def test_a_request_that_waits_for_an_account_goes_with_its_tunnel(key: Key) -> None:
    for name in ("a", "b"):
        key.rig.script(name, limited_for(45))
    with key.tunnel() as tunnel:
        tunnel.send_request(*claude_request(3000, session=key.rig.session))
        key.rig.wait_for(2)

        key.revoke()

        assert is_cut(tunnel)
    assert key.rig.row()["outcome"] == "client_abort"
    eventually(key.rig.is_idle)


@END
def test_a_foreign_tunnel_that_nobody_looks_into_ends_while_it_is_busy(key: Key, end: Ending) -> None:
    with FakeUpstream(tls=True) as other:
        other.answer(sse(["one", "two"], gate=Gate(), gate_at=1))
        with via_connect(key.proxy, "localhost", other.port, other.ca_file, headers=proof(key.secret)) as tunnel:
            tunnel.send_request(*claude_request(3000))
            (request,) = other.wait_for(1)
            assert tunnel.read_head().status == 200

            end(key)

            other.wait_until(lambda: request.aborted)
            assert is_cut(tunnel)
        other.wait_until(lambda: not other.open_connections)


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_raw_tunnel_ends_though_its_server_would_stay(key: Key, half_closed: bool) -> None:
    with Echo() as server, RawClient("127.0.0.1", key.proxy.port) as client:
        target = f"127.0.0.1:{server.port}"
        assert client.request("CONNECT", target, proof(key.secret)).status == 200
        hello = client_hello("a.example")
        client.send(hello)
        with server.accept() as peer:
            assert read_exactly(peer, len(hello)) == hello
            if half_closed:
                client.detach().shutdown(socket.SHUT_WR)
                assert peer.recv(100) == b""

            key.revoke()

            with contextlib.suppress(ConnectionError):
                while peer.recv(100):
                    pass
            assert is_cut(client)


def test_a_grace_period_holds_in_tunnels_and_so_does_its_end(key: Key) -> None:
    with key.tunnel() as old:
        new = key.rotate(3600)
        eventually(lambda: opens(key, new))
        assert opens(key)
        with key.tunnel(new) as tunnel:
            assert serves(old)
            assert serves(tunnel)

            newest = key.rotate(8)  # the grace of the one before last is over by that

            assert is_cut(old)
            assert serves(tunnel)
            eventually(lambda: opens(key, newest))
            assert is_cut(tunnel)
        assert not opens(key, new)
        assert opens(key, newest)


def test_a_new_data_key_ends_no_tunnel(key: Key) -> None:
    with key.tunnel() as tunnel:
        before = heads(key)
        key.proxy.run_script("keys.py", "rotate")

        eventually(lambda: opens(key) and heads(key) != before)  # the digest was made anew meanwhile

        assert serves(tunnel)


def heads(key: Key) -> list[object]:
    sql = "SELECT hex(substr(digest, 2, 8)) AS head FROM client_keys WHERE name = ?"
    return [row["head"] for row in key.proxy.rows(sql, (key.name,))]


def test_what_a_tunnel_without_a_key_was_let_in_by_ends_with_the_first_key(tls_upstream: FakeUpstream) -> None:
    with (
        Proxy(tls_upstream) as proxy,
        FakeUpstream(tls=True) as other,
        via_connect(proxy, "localhost", tls_upstream.port) as tunnel,
        via_connect(proxy, "localhost", other.port, other.ca_file) as foreign,
    ):
        assert serves(tunnel)
        assert serves(foreign)

        proxy.add_client_key("first")

        assert is_cut(tunnel)
        assert is_cut(foreign)


def test_a_key_that_may_do_less_by_now_ends_its_tunnels(key: Key) -> None:
    with (
        FakeUpstream(tls=True) as other,
        via_connect(key.proxy, "localhost", other.port, other.ca_file, headers=proof(key.secret)) as tunnel,
    ):
        assert serves(tunnel)

        key.proxy.run_script("keys.py", "client", "change", key.name, "--role", "viewer")

        assert is_cut(tunnel)
