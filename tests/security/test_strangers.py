"""What SECURITY.md promises of clients that are not identified, shown by real connections.

`support/foreign.py` makes 127.200.113.N count as 203.0.113.N, another machine; 127.9.9.9 is a trusted proxy.
"""

import contextlib
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import foreign
from ccflare_core.clients.strangers import LINES_PER_MINUTE, PATIENCE_SECONDS, share_of
from ccflare_core.clients.throttle import FREE
from fake_upstream import FakeUpstream, Header
from harness import Http2Client, Proxy, RawClient, Truncated, connections, eventually, trusting
from rig import Rig

CONNECTIONS = 80
SHARE = share_of(CONNECTIONS)
PER_MINUTE = 100
GUESSES = 200
"""Of one address, so many that on a slow machine, too, there are more a minute than that."""
CROWDED = "this address has too many connections without a valid client key"
LOOPBACK, TRUSTED = "127.0.0.1", "127.9.9.9"
WRONG: Header = (b"x-api-key", b"ccf_" + b"w" * 32)


class House(NamedTuple):
    """A running proxy, and the key that it knows."""

    rig: Rig
    key: Header

    @property
    def proxy(self) -> Proxy:
        """The proxy itself."""
        return self.rig.proxy


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    options = {
        "arguments": ("-s", foreign.__file__),
        "ccflare_allow_ips": "127.0.0.0/8, 203.0.113.0/24",
        "ccflare_trusted_proxies": TRUSTED,
        "ccflare_requests_per_minute_per_ip": PER_MINUTE,
        "ccflare_client_connections": CONNECTIONS,
    }
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig:
        rig.fresh("a")
        house = House(rig, (b"x-api-key", rig.proxy.add_client_key("laptop").encode()))
        eventually(lambda: status(house, far(250), house.key) == 200)
        yield house
        assert "Traceback" not in rig.proxy.log()


def far(number: int) -> str:
    """The source of a client that is none of this machine's. Each test has its own: rates and waits are kept."""
    return f"{foreign.HERE}{number}"


def connect(house: House, source: str = LOOPBACK) -> RawClient:
    return RawClient(LOOPBACK, house.proxy.port, source=source)


def status(house: House, source: str, *headers: Header) -> int:
    with connect(house, source) as client:
        return client.request("GET", "/v1/models", headers).status


def seconds_open(client: RawClient) -> float:
    """How long the proxy leaves this connection open."""
    began, sock = time.monotonic(), client.detach()
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65_536):
            pass
    return time.monotonic() - began


def is_open(client: RawClient) -> bool:
    return client.request("HEAD", "/").status == 200


def refusals(house: House, address: str) -> Counter[str]:
    """Why requests and connections of an address were refused, as the audit log counts them; it waits for some."""
    sql = "SELECT detail FROM audit_log WHERE action = 'auth.denied' AND ip = ?"
    entries = [json.loads(row["detail"]) for row in house.proxy.rows(sql, (address,), until=bool)]
    return sum((Counter(entry["reasons"]) for entry in entries), Counter())


# -- many at once


def test_strangers_from_everywhere_leave_room_for_this_machines_programs(house: House) -> None:
    sources = [far(100 + number % 30) for number in range(CONNECTIONS + 10)]
    with contextlib.ExitStack() as crowd:
        for source in sources:
            crowd.enter_context(connect(house, source))
        assert status(house, LOOPBACK, house.key) == 200
    eventually(lambda: connections(house.proxy.port), lambda left: left < SHARE)


# -- closed after 401, 407 and 429


@pytest.mark.parametrize("source", [LOOPBACK, far(1), TRUSTED])
def test_a_401_ends_the_connection(house: House, source: str) -> None:
    with connect(house, source) as client:
        reply = client.request("GET", "/v1/models", (WRONG,))
        assert (reply.status, reply.header("connection")) == (401, "close")
        assert seconds_open(client) < PATIENCE_SECONDS


def test_a_407_ends_the_connection(house: House) -> None:
    with connect(house, far(2)) as client:
        assert client.request("CONNECT", "localhost:443", ((b"Host", b"localhost:443"),)).status == 407
        assert seconds_open(client) < PATIENCE_SECONDS


def test_a_429_ends_the_connection_of_who_has_no_key_and_of_nobody_else(house: House) -> None:
    source = far(3)
    assert [status(house, source, WRONG) for _ in range(FREE)] == [401] * FREE

    def ask_and_be_closed() -> int:
        with connect(house, source) as client:
            found = client.request("GET", "/v1/models", (WRONG,)).status
            assert seconds_open(client) < PATIENCE_SECONDS
            return found

    eventually(ask_and_be_closed, lambda found: found == 429)  # it has to wait, for a second at first
    with connect(house, source) as known:

        def ask_twice() -> list[int]:
            """By the rate, on the same connection."""
            return [known.request("GET", "/v1/models", (house.key,)).status for _ in range(2)]

        assert known.request("GET", "/v1/models", (house.key,)).status == 200
        eventually(ask_twice, lambda found: found == [429, 429])


def test_a_refusal_does_not_wait_for_the_body(house: House) -> None:
    with connect(house, far(4)) as client:
        client.send(
            b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 9\r\n\r\n{" % house.proxy.port
        )
        assert client.read_head().status == 401


def test_over_http2_a_401_ends_the_connection_once_nothing_else_is_open_in_it(house: House) -> None:
    with over_http2(house, far(5)) as client:
        assert client.request("GET", "/v1/models", (WRONG,)).status == 401
        with pytest.raises(Truncated, match="ended"):
            client.wait_for_end()
    with over_http2(house, far(5)) as client:
        assert client.request("GET", "/v1/models", (house.key,)).status == 200
        assert client.request("HEAD", "/").status == 200


def over_http2(house: House, source: str) -> Http2Client:
    """HTTP/2 within TLS to the proxy itself."""
    sock = socket.create_connection((LOOPBACK, house.proxy.port), 30, (source, 0))
    tls = trusting(house.proxy.ca_file, "h2").wrap_socket(sock, server_hostname="localhost")
    return Http2Client(tls, f"localhost:{house.proxy.port}")


# -- closed after a few seconds


def test_who_is_not_identified_within_seconds_is_closed_and_others_stay(house: House) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        known, warmed_up, silent, local = (
            stack.enter_context(connect(house, source)) for source in (far(6), far(6), far(6), LOOPBACK)
        )
        assert known.request("GET", "/v1/models", (house.key,)).status == 200
        assert is_open(warmed_up)  # Claude Code connects ahead of time, without its key …
        assert is_open(local)
        assert seconds_open(silent) < 60
        assert time.monotonic() - began > PATIENCE_SECONDS / 2
        seconds_open(warmed_up)
        assert known.request("GET", "/v1/models", (house.key,)).status == 200
        assert is_open(local)  # … and on this machine keeps that connection
        assert local.request("GET", "/v1/models", (house.key,)).status == 200


# -- a share of connections


def test_an_address_has_a_share_and_who_has_a_key_does_not_count(house: House) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(SHARE + 2):
            client = stack.enter_context(connect(house, far(7)))
            assert client.request("GET", "/v1/models", (house.key,)).status == 200
        for _ in range(SHARE):
            assert is_open(stack.enter_context(connect(house, far(7))))
        excess = stack.enter_context(connect(house, far(7)))
        with pytest.raises((Truncated, ConnectionError)):
            excess.request("HEAD", "/")
        assert is_open(stack.enter_context(connect(house, far(8))))
        for _ in range(SHARE + 2):
            assert is_open(stack.enter_context(connect(house, LOOPBACK)))
    eventually(lambda: connections(house.proxy.port) == 0)
    assert refusals(house, "203.0.113.7")[CROWDED] == 1


def test_a_forwarded_client_has_a_share_and_the_proxy_that_names_it_has_none(house: House) -> None:
    def ask(client: RawClient, number: int, *headers: Header) -> int:
        return client.request("HEAD", "/", ((b"X-Forwarded-For", b"203.0.113.%d" % number), *headers)).status

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(house, TRUSTED)) for _ in range(SHARE)]
        assert {ask(client, 30) for client in clients} == {200}
        with connect(house, TRUSTED) as excess:
            assert ask(excess, 30) == 429
            seconds_open(excess)
        others = [stack.enter_context(connect(house, TRUSTED)) for _ in range(SHARE)]
        assert {ask(client, 31) for client in others} == {200}
        with connect(house, TRUSTED) as known:
            forwarded = (b"X-Forwarded-For", b"203.0.113.30")
            assert known.request("GET", "/v1/models", (forwarded, house.key)).status == 200
        assert ask(clients[0], 31) == 429  # for it is at its share too


# -- what it leaves


def test_a_flood_leaves_no_row_no_line_and_some_entries(house: House) -> None:
    began, log = int(time.time() * 1000), len(house.proxy.log())
    source, address = far(9), "203.0.113.9"
    host = b"Host: 127.0.0.1:%d\r\n" % house.proxy.port
    requests = (
        *(b"GET /v1/models HTTP/1.1\r\n%sx-api-key: ccf_%032d\r\n\r\n" % (host, number) for number in range(GUESSES)),
        *(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n",) * 10,
        *(b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",) * 10,
        *(b"nonsense\r\n\r\n",) * 10,
    )
    for request in requests:
        with connect(house, source) as client:
            client.send(request)
            seconds_open(client)
    for _ in range(20):
        with connect(house, source) as client, pytest.raises(ssl.SSLError):
            client.start_tls(ssl.create_default_context(), "localhost")
    for number in range(10):
        assert status(house, TRUSTED, (b"X-Forwarded-For", b"198.51.100.%d" % number)) == 403
        assert status(house, TRUSTED, (b"X-Forwarded-For", b"203.0.113.9"), (b"Forwarded", b"for=1.2.3.4")) == 400

    told = refusals(house, address)
    untold = told.pop("a connection that came to nothing")
    assert told["an unknown key"] >= PER_MINUTE
    assert told[f"More than {PER_MINUTE} requests a minute came from this address."] > 0
    assert sum(told.values()) == GUESSES + 10 + 10
    assert refusals(house, "198.51.100.0") == {"Requests of this address are not served.": 1}
    assert house.proxy.rows("SELECT * FROM requests WHERE timestamp >= ?", (began,)) == []
    lines = house.proxy.log()[log:].splitlines()
    handshakes = [line for line in lines if "TLS handshake failed" in line]
    assert LINES_PER_MINUTE <= len(handshakes) == 20 - untold < 20
    assert sum(address in line for line in lines) == len(handshakes) + 1  # that there are requests without a key
    assert house.rig.ask(credential=house.key).status == 200
