"""A client that leaves: its upstream is closed at once, whatever was going on, and nobody is blamed for it."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from fake_upstream import (
    MESSAGES,
    TOKEN,
    Answer,
    FakeUpstream,
    Gate,
    encoded,
    failure,
    limited_5h,
    message_json,
    sse,
    unauthorized,
)
from harness import BlackHole, Http2Client, RawClient, claude_request, eventually
from rig import Rig

Leave = Callable[[RawClient], None]


def half_close(client: RawClient) -> None:
    """Say that nothing more will come, but go on reading: mitmproxy takes that for leaving."""
    client.detach().shutdown(socket.SHUT_WR)


LEAVING = pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, half_close], ids=["FIN", "RST", "half"])


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_retry_delay_ms=60_000) as rig:
        yield rig


def assert_aborted(rig: Rig, attempts: int = 1, a: str = "serving") -> None:
    """The exchange is recorded as left by its client, all is given back, and no account has to rest."""
    row = rig.row()
    assert (row["outcome"], row["success"], row["attempts"]) == ("client_abort", 0, attempts)
    eventually(rig.is_idle)
    assert {name: account["reason"] for name, account in rig.health().items()} == {"a": a, "b": "serving"}
    assert rig.rests("a") == rig.rests("b") == []


def assert_upstream_closed(rig: Rig) -> None:
    (request,) = rig.requests
    rig.upstream.wait_until(lambda: request.aborted)


@LEAVING
@pytest.mark.parametrize("sent", [0, 1000], ids=["before the body", "mid body"])
def test_before_the_request_is_whole(rig: Rig, client: RawClient, leave: Leave, sent: int) -> None:
    method, target, headers, body = claude_request(3000, session=rig.session)
    agent = f"leaves-{rig.session}".encode()
    client.send_request(
        method, target, [(b"User-Agent", agent), (b"Content-Length", b"%d" % len(body)), *headers[3:]], body[:sent]
    )
    eventually(lambda: not rig.is_idle())

    leave(client)

    sql = "SELECT * FROM requests WHERE user_agent = ?"
    (row,) = rig.proxy.rows(sql, (agent.decode(),), until=lambda rows: rows and rows[0]["outcome"])
    assert (row["outcome"], row["status_code"], row["attempts"]) == ("client_abort", None, 0)
    eventually(rig.is_idle)
    assert rig.requests == []


@LEAVING
def test_before_the_answers_head(rig: Rig, client: RawClient, leave: Leave) -> None:
    gate = Gate()
    rig.script("a", Answer(200, before=(gate,)))
    rig.send(client)
    assert gate.reached.wait(60)

    leave(client)

    assert_upstream_closed(rig)
    assert_aborted(rig)


@LEAVING
@pytest.mark.parametrize("status", [200, 429], ids=["a stream", "an error"])
def test_while_the_answer_is_held_back(rig: Rig, client: RawClient, leave: Leave, status: int) -> None:
    gate = Gate()
    answer = sse(gate=gate, gate_at=0)
    rig.script("a", Answer(status, answer.headers, answer.chunks))
    rig.send(client)
    assert gate.reached.wait(60)
    assert client.is_silent(0.1)

    leave(client)

    assert_upstream_closed(rig)
    assert_aborted(rig)


@LEAVING
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_mid_stream(rig: Rig, client: RawClient, leave: Leave, encoding: str) -> None:
    gate = Gate()
    answer = sse(["one", "two"], gate=gate, input_tokens=77)
    rig.script("a", encoded(answer, encoding) if encoding else answer)
    rig.send(client)
    assert client.read_head().status == 200
    assert gate.reached.wait(60)
    assert client.read_chunk()

    leave(client)

    assert_upstream_closed(rig)
    assert_aborted(rig)
    assert rig.row()["input_tokens"] == 77  # what had been told until then


def test_mid_stream_after_a_failover(rig: Rig, client: RawClient) -> None:
    gate = Gate()
    rig.script("a", limited_5h(time.time() + 600))
    rig.script("b", sse(["one", "two"], gate=gate))
    rig.send(client)
    assert client.read_head().status == 200
    assert gate.reached.wait(60)

    client.close()

    first, second = rig.requests
    rig.upstream.wait_until(lambda: second.aborted)
    assert (first.finished, rig.row()["outcome"], rig.rests("b")) == (True, "client_abort", [])


@LEAVING
def test_during_the_pause_before_a_retry(rig: Rig, client: RawClient, leave: Leave) -> None:
    rig.script("a", failure())
    rig.send(client)
    (request,) = rig.wait_for(1)
    rig.upstream.wait_until(lambda: request.finished)
    assert client.is_silent(0.1)

    leave(client)

    assert_aborted(rig)
    assert rig.asked == ["a"]


def test_mid_body_of_a_collected_answer(rig: Rig, client: RawClient) -> None:
    gate = Gate()
    answer = message_json("x" * 1000)
    rig.script("a", Answer(200, answer.headers, (b"{", gate, *answer.chunks)))
    rig.send(client, stream=False)
    assert gate.reached.wait(60)

    client.close()

    assert_upstream_closed(rig)
    assert_aborted(rig)


def test_one_of_many_leaves_and_the_others_go_on(rig: Rig) -> None:
    gate = Gate()
    for name in "ab":
        rig.script(name, always=sse(["one", "two"], gate=gate))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(4)]
        for number, client in enumerate(clients):
            rig.send(client, session=f"{rig.session}-{number}")
            assert client.read_head().status == 200
        clients[2].close()
        rig.upstream.wait_until(lambda: sum(request.aborted for request in rig.requests) == 1)
        gate.open()
        ended = [list(client.events())[-1] for client in clients if client is not clients[2]]

    assert ended == [{"type": "message_stop"}] * 3
    eventually(rig.is_idle)


def test_after_the_whole_answer_it_is_none(rig: Rig, client: RawClient) -> None:
    rig.send(client)
    client.read_head()
    client.read_body()

    client.close()

    assert rig.row()["outcome"] == "ok"


def test_a_retry_budget_is_given_back_by_those_who_leave(rig: Rig) -> None:
    """More leave in the pause before a retry than may be in one: the next failure is retried all the same."""
    rig.script("a", *[failure()] * 5)
    for number in range(5):
        with rig.client() as client:
            rig.send(client, session=f"{rig.session}-{number}")
            rig.wait_for(number + 1)
            rig.upstream.wait_until(lambda: all(request.finished for request in rig.requests))
            assert client.is_silent(0.05)
        eventually(rig.is_idle)

    assert rig.asked == ["a"] * 5
    assert rig.rests("a") == []


@LEAVING
def test_while_a_refused_token_is_renewed(rig: Rig, client: RawClient, leave: Leave) -> None:
    """The renewal goes on, for all the others that wait for it."""
    gate = Gate()
    access, refresh = rig.upstream.logins.new_login()
    rig.fresh("a", "b", each={"a": {"access_token": access, "refresh_token": refresh}})
    rig.script("a", unauthorized())
    rig.upstream.answer(lambda request: replace(rig.upstream.logins.token(request), before=(gate,)), path=TOKEN)
    rig.send(client)
    assert gate.reached.wait(60)
    assert client.is_silent(0.1)

    leave(client)

    assert_aborted(rig, a="refreshing")
    gate.open()
    assert rig.ask().status == 200
    assert [request.path for request in rig.requests] == [MESSAGES, TOKEN, MESSAGES]


@pytest.fixture(scope="module")
def lost() -> Iterator[Rig]:
    """A rig whose upstream never takes a connection."""
    hole = BlackHole()
    with contextlib.ExitStack() as stack:
        stack.callback(hole.release)
        yield stack.enter_context(Rig.running(f"http://127.0.0.1:{hole.number}"))


@LEAVING
def test_while_connecting(lost: Rig, leave: Leave) -> None:
    lost.fresh("a", "b")
    with lost.client() as client:
        lost.send(client)
        eventually(lambda: lost.health()["a"]["in_flight"] == 1)

        leave(client)

        assert_aborted(lost)
        assert lost.row()["response_time_ms"] < 9000  # and not the 10 s that connecting may take


def test_while_shaking_hands() -> None:
    """The upstream's port is open, but it says nothing to our TLS."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Rig.running(f"https://127.0.0.1:{server.getsockname()[1]}") as rig,
        rig.client() as client,
    ):
        rig.fresh("a", "b")
        server.settimeout(30)
        rig.send(client)
        with server.accept()[0] as connection:
            connection.settimeout(30)
            assert connection.recv(65536)

            client.close()

            assert connection.recv(1) == b""
        assert_aborted(rig)


@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2 offered", "HTTP/1 only"])
def test_a_reset_http2_stream_leaves_the_connection_to_the_others(http2: bool) -> None:
    gate = Gate()
    with FakeUpstream(tls=True, http2=http2) as upstream, Rig.running(upstream) as rig:
        rig.fresh("a", "b")
        for name in "ab":
            rig.script(name, always=sse(["one", "two"], gate=gate))
        with Http2Client.via_connect(rig.proxy, "localhost", upstream.port) as client:
            streams = [client.send_request(*claude_request(3000, session=rig.session)) for _ in range(2)]
            assert [client.read_head(stream).status for stream in streams] == [200, 200]
            client.reset_stream(streams[0])
            upstream.wait_until(lambda: [request.aborted for request in rig.requests].count(True) == 1)
            gate.open()
            assert client.read_body(streams[1]).endswith(b'message_stop"}\n\n')

        assert sorted(row["outcome"] for row in rig.rows(2)) == ["client_abort", "ok"]
        assert rig.rests("a") == rig.rests("b") == []


def held_back(gate: Gate, streamed: bool) -> Answer:
    return sse(["one", "two"], gate=gate) if streamed else Answer(200, before=(gate,))


@pytest.mark.parametrize("streamed", [False, True], ids=["before the head", "in the stream"])
def test_same_request_at_once_tells_that_the_upstream_was_silent(rig: Rig, client: RawClient, streamed: bool) -> None:
    gate = Gate()
    rig.fresh("a", "b")
    rig.script("a", held_back(gate, streamed))
    rig.send(client)
    assert gate.reached.wait(60)
    if streamed:
        assert client.read_head().status == 200
        while b'"one"' not in client.read_chunk():
            pass
        assert client.is_silent(0.4)
    client.close()
    row = rig.rows()[0]
    assert row["outcome"] == "client_abort"

    assert [rig.ask().status, rig.ask().status] == [200, 200]

    gate.open()
    assert rig.asked == ["a", "b", "a"]
    sql = "SELECT * FROM requests WHERE id = ?"
    (row,) = rig.proxy.rows(sql, (row["id"],), until=lambda rows: rows[0]["outcome"] == "upstream_error")
    assert row["error_message"].endswith(" s, and the client asked again")
    assert (row["success"], rig.rests("a"), rig.health()["a"]["reason"]) == (0, [], "serving")


def test_another_request_at_once_tells_nothing(rig: Rig, client: RawClient) -> None:
    gate = Gate()
    rig.fresh("a", "b")
    rig.script("a", Answer(200, before=(gate,)))
    rig.send(client)
    assert gate.reached.wait(60)
    client.close()
    rig.rows()

    assert rig.ask(size=3001).status == 200

    gate.open()
    assert rig.asked == ["a", "a"]
    assert [row["outcome"] for row in rig.rows(2)] == ["client_abort", "ok"]
