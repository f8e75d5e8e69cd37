"""Connections to the upstream: who uses which of them, what is opened ahead, and when they end."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from fake_upstream import FakeUpstream, Gate, message_json, sse
from harness import Truncated, claude_request, eventually, via_connect
from rig import Rig

MOST_IDLE = 4
FEEDBACK = "/api/claude_cli_feedback"
OWN = (b"Authorization", b"Bearer sk-ant-oat01-the-clients-own")

# Writes down what mitmweb shows of a flow's server connection.
NOTES = """
import json, pathlib

def response(flow):
    server = flow.server_conn
    if not server.address:
        return
    told = [server.id, server.address[1], server.tls_established, server.timestamp_start, server.timestamp_end]
    with pathlib.Path("servers").open("a") as file:
        file.write(json.dumps(told) + "\\n")
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def bench(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    script = tmp_path_factory.mktemp("notes") / "notes.py"
    script.write_text(NOTES)
    with Rig.running(upstream, arguments=("-s", str(script))) as rig:
        yield rig


@pytest.fixture
def rig(bench: Rig, upstream: FakeUpstream) -> Rig:
    """The bench, with two accounts as good as new and no connection left from before."""
    bench.renew("a", "b")
    upstream.end_kept()
    return bench


def by(rig: Rig) -> list[int]:
    """The connections that this test's requests have come by."""
    return [request.connection for request in rig.requests]


def test_the_end_of_a_clients_connection_is_its_own(rig: Rig) -> None:
    genuine = claude_request(3000, session=rig.session)
    fields = [(name, b"close" if name == b"Connection" else value) for name, value in genuine.headers]

    for _ in range(2):
        with rig.client() as client:
            reply = client.request(genuine.method, genuine.target, fields, genuine.body)
            with pytest.raises(Truncated):
                client.read_head()
        assert (reply.status, reply.header("connection")) == (200, "close")

    assert [request.header_values("connection") for request in rig.requests] == [[], []]
    assert len(set(by(rig))) == 1


def test_a_client_uses_what_another_has_left_and_its_flow_tells_of_it(rig: Rig, upstream: FakeUpstream) -> None:
    with via_connect(rig.proxy, "localhost", upstream.port) as client:
        rig.send(client)
        assert client.read_head().status == 200
        client.read_body()
    assert rig.ask().status == 200

    assert len(set(by(rig))) == 1
    lines = (rig.proxy.folder / "servers").read_text().splitlines()[-2:]
    (id, port, is_tls, begun, end), second = (json.loads(line) for line in lines)
    assert second == [id, port, is_tls, begun, end]
    assert (port, is_tls, begun is not None, end) == (upstream.port, True, True, None)


def test_what_passes_with_a_clients_own_credential_shares_no_connection(rig: Rig) -> None:
    with rig.client() as client:
        rig.send(client)
        assert client.read_head().status == 200
        client.read_body()
        client.request("GET", FEEDBACK, (OWN,))
    with rig.client() as client:
        client.request("GET", FEEDBACK, (OWN,))
    assert rig.ask().status == 200

    first, own, others_own, last = by(rig)
    assert (first == own, len({own, others_own, last})) == (True, 3)


def test_no_client_gets_what_an_upstream_has_said_unasked(rig: Rig, upstream: FakeUpstream) -> None:
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

    for _ in range(10):
        upstream.say_unasked(forged)
        reply = rig.ask(stream=False)
        assert (reply.status, reply.body != b"forged") == (200, True)


def test_few_connections_wait_and_none_is_lost(rig: Rig, upstream: FakeUpstream) -> None:
    gate = Gate()
    rig.script("a", *[sse(["one"], gate=gate)] * (MOST_IDLE + 2))
    clients = [rig.client() for _ in range(MOST_IDLE + 2)]
    for client in clients:
        rig.send(client)
    rig.wait_for(len(clients))
    assert upstream.open_connections == len(clients)

    gate.open()
    for client in clients[1:]:
        assert client.read_head().status == 200
        client.read_body()
    for client in clients:  # the first one leaves in the middle
        client.close()

    eventually(lambda: upstream.open_connections == MOST_IDLE)


def test_a_connection_is_opened_ahead_of_a_client_that_is_not_a_stranger(rig: Rig, upstream: FakeUpstream) -> None:
    before = upstream.connections, upstream.bytes_received
    with rig.client() as client:
        eventually(lambda: upstream.open_connections == 1)
        assert (upstream.connections, upstream.bytes_received) == (before[0] + 1, before[1])
        rig.send(client)
        assert client.read_head().status == 200

    assert by(rig) == [upstream.connections] == [before[0] + 1]


def test_nothing_is_opened_ahead_while_no_account_is_free(rig: Rig, upstream: FakeUpstream) -> None:
    for name in "ab":
        rig.change(name, paused=True)
        rig.wait_for_reason(name, "paused")
    before = upstream.connections

    with rig.client() as client:
        assert client.is_silent(0.5)

    assert upstream.connections == before


class Crossing:
    """An upstream that ends a kept connection with a request on its way there, and answers on any other.

    It takes no more of that request than its small buffer has room for, so that it cannot have read it.
    """

    def __init__(self) -> None:
        self.whole = 0
        """How many requests have come as a whole."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for number in range(2):
            peer, _ = self._listener.accept()
            self._kept.append(peer)
            self._answer(peer)
            if number == 0:
                peer.recv(1, socket.MSG_PEEK)
                peer.shutdown(socket.SHUT_WR)

    def _answer(self, peer: socket.socket) -> None:
        read = peer.makefile("rb")
        length = 0
        while line := read.readline().strip():
            name, _, value = line.partition(b": ")
            length = int(value) if name.lower() == b"content-length" else length
        if length and len(read.read(length)) == length:
            self.whole += 1
            body = b"".join(chunk for chunk in message_json().chunks if isinstance(chunk, bytes))
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            peer.sendall(head % len(body) + body)

    def close(self) -> None:
        for each in (self._listener, *self._kept):
            each.close()


def test_a_request_that_crosses_the_end_of_a_kept_connection_is_sent_again_and_read_once() -> None:
    crossing = Crossing()
    with Rig.running(crossing.url, ccflare_retry_attempts=0) as rig:
        rig.fresh("a")
        assert rig.ask(stream=False).status == 200
        assert rig.ask(stream=False, size=8_000_000).status == 200

        assert [row["outcome"] for row in rig.rows(2)] == ["ok", "ok"]
        assert (rig.kinds(), crossing.whole) == (["ok", "ok"], 2)
    crossing.close()
