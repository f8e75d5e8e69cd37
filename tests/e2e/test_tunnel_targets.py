"""Where the tunnels of client keys may lead, what they begin with, what they count for, and what is kept of them."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ccflare_core.audit.bursts import QUIET_SECONDS
from ccflare_mitm.wire.guarded_tunnel import CLOSED, HELLO_BYTES, NO_TLS, SILENT, TOO_LONG
from connect_proxy import ConnectProxy
from fake_upstream import FakeUpstream
from harness import Proxy, RawClient, Reply, connections, eventually, via_connect
from tunnel_kit import Echo, client_hello, is_cut, proof, read_exactly


class House(NamedTuple):
    """A proxy whose tunnels may lead to `localhost`, and to no other name or address of this machine."""

    proxy: Proxy
    upstream: FakeUpstream
    open: str
    """The secret of a key with `--tunnels`."""
    closed: str
    """That of one without."""

    def connect(self, target: str, secret: str | None = None) -> Reply:
        """The answer to a CONNECT."""
        with RawClient("127.0.0.1", self.proxy.port) as client:
            client.authority = target
            return client.request("CONNECT", target, proof(secret or self.open))

    def tunnel(self, port: int, secret: str | None = None) -> RawClient:
        """A tunnel to localhost, with nothing sent through it yet."""
        client = RawClient("127.0.0.1", self.proxy.port)
        target = f"localhost:{port}"
        assert client.request("CONNECT", target, proof(secret or self.open)).status == 200
        return client

    def row(self, port: int) -> dict[str, object]:
        """What is kept of the tunnel to this port, once it is over."""
        sql = "SELECT * FROM tunnels WHERE port = ? AND ended IS NOT NULL"
        (row,) = self.proxy.rows(sql, (port,), until=bool)
        return row


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with FakeUpstream(tls=True) as upstream, Proxy(upstream, ccflare_tunnel_targets="localhost") as proxy:
        open_, closed = proxy.add_client_key("open", "--tunnels"), proxy.add_client_key("closed")
        house = House(proxy, upstream, open_, closed)
        eventually(lambda: house.connect(f"localhost:{upstream.port}", closed).status == 200)
        yield house


@pytest.fixture
def other() -> Iterator[Echo]:
    with Echo() as server:
        yield server


def test_a_key_without_tunnels_reaches_the_upstream_and_nothing_else(house: House, other: Echo) -> None:
    assert house.connect(f"localhost:{house.upstream.port}", house.closed).status == 200

    refused = house.connect(f"localhost:{other.port}", house.closed)

    assert refused.status == 403
    assert b"client change closed --tunnels" in refused.body
    assert b"git, npm and Bash" in refused.body
    told = f"no tunnel to localhost:{other.port} for closed: This client key opens no tunnels"
    assert told in house.proxy.wait_for_log(told)


INSIDE = (
    *("127.0.0.1", "127.0.0.2", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "printer.localhost"),
)


@pytest.mark.parametrize("host", INSIDE)
def test_no_tunnel_leads_into_this_machine_or_its_networks(house: House, host: str) -> None:
    refused = house.connect(f"{host}:9")

    assert refused.status == 403
    assert b"ccflare_tunnel_targets" in refused.body


def test_refusals_become_one_entry_of_the_audit_log(house: House) -> None:
    (last,) = house.proxy.rows("SELECT max(id) AS id FROM audit_log")
    for _ in range(3):
        house.connect("10.0.0.7:9")

    sql = "SELECT actor FROM audit_log WHERE id > ? AND action = 'auth.denied' AND detail LIKE '%private network%'"
    rows = house.proxy.rows(sql, (last["id"],), until=bool, timeout=QUIET_SECONDS + 30)
    assert {row["actor"] for row in rows} == {"client:open"}
    assert len(rows) < 3


def test_a_tunnel_that_may_be_is_connected_and_kept(house: House) -> None:
    with FakeUpstream(tls=True) as server:
        with via_connect(house.proxy, "localhost", server.port, server.ca_file, headers=proof(house.open)) as tunnel:
            assert tunnel.request("GET", "/v1/models").status == 200
            opened = house.proxy.rows("SELECT * FROM tunnels WHERE port = ?", (server.port,), until=bool)
            assert (opened[0]["ended_at"], opened[0]["ended"]) == (None, None)

        row = house.row(server.port)

    assert (row["client_name"], row["client_ip"], row["host"], row["ended"]) == (
        "open",
        "127.0.0.1",
        "localhost",
        CLOSED,
    )
    assert row["address"] == "127.0.0.1"
    assert isinstance(row["sent_bytes"], int)
    assert row["sent_bytes"] > 300
    assert isinstance(row["received_bytes"], int)
    assert row["received_bytes"] > 300


def hello_that_never_ends() -> bytes:
    """The beginning of a ClientHello of 64 KiB, in records of the greatest size."""
    message = b"\x01\x01\x00\x00" + bytes(0x10000)
    return b"".join(b"\x16\x03\x01\x40\x00" + message[at : at + 0x4000] for at in range(0, 0x8000, 0x4000))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", NO_TLS),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", NO_TLS),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", NO_TLS),
        (hello_that_never_ends(), TOO_LONG),
        (client_hello("a.example")[:-1], SILENT),
        (b"", SILENT),
    ],
)
def test_what_does_not_begin_with_a_whole_client_hello_reaches_nobody(
    house: House, other: Echo, sent: bytes, why: str
) -> None:
    with house.tunnel(other.port) as client:
        began = time.monotonic()
        client.send(sent)

        assert is_cut(client)

    assert time.monotonic() - began < 30
    assert house.row(other.port)["ended"] == why
    assert connections(other.port) == 0


def test_a_client_hello_may_come_in_pieces(house: House, other: Echo) -> None:
    hello = client_hello("a.example")
    assert len(hello) < HELLO_BYTES
    with house.tunnel(other.port) as client:
        for at in range(0, len(hello), 50):
            client.send(hello[at : at + 50])
        with other.accept() as peer:
            assert read_exactly(peer, len(hello)) == hello


def test_a_tunnel_counts_as_a_request_for_as_long_as_it_is_open(house: House, other: Echo) -> None:
    few = house.proxy.add_client_key("few", "--tunnels", "--concurrency", "1")
    eventually(lambda: house.connect(f"localhost:{house.upstream.port}", few).status == 200)
    with house.tunnel(other.port, few):
        assert house.connect(f"localhost:{other.port}", few).status == 429
    eventually(lambda: house.connect("localhost:9", few).status == 200)

    rare = house.proxy.add_client_key("rare", "--tunnels", "--requests-per-minute", "2")
    eventually(lambda: house.connect(f"localhost:{house.upstream.port}", rare).status == 200)
    assert [house.connect(f"localhost:{other.port}", rare).status for _ in range(3)] == [200, 200, 429]


def test_a_key_that_loses_its_tunnels_has_none_any_more(house: House, other: Echo) -> None:
    secret = house.proxy.add_client_key("loser", "--tunnels")
    eventually(lambda: house.connect(f"localhost:{house.upstream.port}", secret).status == 200)
    with house.tunnel(other.port, secret) as client:
        client.send(client_hello("a.example"))
        with other.accept():
            house.proxy.run_script("keys.py", "client", "change", "loser", "--tunnels", "no")

            assert is_cut(client)


def test_behind_another_proxy_only_addresses_are_looked_at() -> None:
    with (
        FakeUpstream(tls=True) as upstream,
        ConnectProxy(upstream.port) as between,
        Proxy(upstream, mode=between.mode) as proxy,
    ):
        secret = proxy.add_client_key("open", "--tunnels")
        eventually(lambda: via_a_proxy(proxy, "git.example.test:443", secret).status == 200)

        assert via_a_proxy(proxy, "10.0.0.1:443", secret).status == 403
        assert via_a_proxy(proxy, "localhost:443", secret).status == 403
        with RawClient("127.0.0.1", proxy.port) as client:
            assert client.request("CONNECT", "git.example.test:443", proof(secret)).status == 200
            client.send(client_hello("git.example.test"))
            eventually(lambda: between.heads)

    assert between.heads[0].startswith(b"CONNECT git.example.test:443 ")
    assert len(between.heads) == 1


def via_a_proxy(proxy: Proxy, target: str, secret: str) -> Reply:
    with RawClient("127.0.0.1", proxy.port) as client:
        client.authority = target
        return client.request("CONNECT", target, proof(secret))


def test_without_a_key_tunnels_are_as_they_were(other: Echo) -> None:
    with FakeUpstream() as upstream, Proxy(upstream, ccflare_forward_other_hosts=True) as proxy:
        with RawClient("127.0.0.1", proxy.port) as client:
            assert client.request("CONNECT", f"127.0.0.1:{other.port}").status == 200
            client.send(b"\0\1 hello")
            with other.accept() as peer:
                assert peer.recv(100) == b"\0\1 hello"
        with contextlib.closing(sqlite3.connect(proxy.database)) as database:
            assert database.execute("SELECT COUNT(*) FROM tunnels").fetchone() == (0,)
