"""Whoever keeps a request waiting: how long that may last, what the client is told, and what is recorded as the cause.

Named after R63. Most deadlines are `SHORT` here, and mitmproxy's own comes later, but for the last proxies.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fake_upstream import Answer, FakeUpstream, Gate, Request, bad_request, encoded, message_json, sse, sse_answer
from harness import (
    BlackHole,
    Http2Client,
    RawClient,
    Reply,
    Truncated,
    claude_request,
    event_data,
    eventually,
    via_connect,
)
from rig import Rig

SHORT, WHOLE = 2, 6
"""Seconds: a deadline, which an exchange that is not late meets also where one side stands still for a while; and how
long a whole exchange may take."""
SECONDS = {
    "ccflare_client_head_seconds": SHORT,
    "ccflare_client_body_idle_seconds": SHORT,
    "ccflare_client_body_seconds": 2 * SHORT,
    "ccflare_client_stall_seconds": SHORT,
    "ccflare_client_idle_seconds": SHORT,
    "ccflare_first_byte_seconds": SHORT,
    "ccflare_stream_idle_seconds": SHORT,
    "ccflare_exchange_seconds": WHOLE,
    "tcp_timeout": 2 * SHORT + 1,
}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream, **SECONDS) as rig:
        yield rig
        assert "Traceback" not in rig.proxy.log()


def assert_nobody_is_blamed(rig: Rig) -> None:
    """All is given back, no account has to rest, and the next request is served."""
    eventually(rig.is_idle)
    assert {name: account["reason"] for name, account in rig.health().items()} == {"a": "serving", "b": "serving"}
    assert rig.rests("a") == rig.rests("b") == []
    assert rig.ask().status == 200


def assert_timeout(reply: Reply, status: int) -> None:
    """The reply is Anthropic's kind of error."""
    assert (reply.status, reply.header("content-type")) == (status, "application/json")
    assert (reply.json()["type"], reply.json()["error"]["type"]) == ("error", "timeout_error")


def read(client: RawClient) -> Reply:
    head = client.read_head()
    return Reply(head.status, head, client.read_body())


def trickle(client: RawClient, data: bytes, pause: float = 0.3) -> None:
    """Send a byte now and then, until the other side has had enough."""
    with contextlib.suppress(OSError):
        for byte in data:
            client.send(bytes([byte]))
            if not client.is_silent(pause):
                return


def is_closed(client: RawClient) -> bool:
    """Whether the proxy has closed the connection; it waits for that."""
    try:
        return client.detach().recv(1) == b""
    except ConnectionResetError:
        return True


def is_reset(client: RawClient) -> bool:
    """Whether the connection was closed with all that was on its way."""
    with contextlib.suppress(ConnectionResetError):
        while client.detach().recv(MEGABYTE):
            pass
        return False
    return True


def rest_of(client: RawClient) -> bytes:
    """The body of an answer that gets no proper end."""
    body = b""
    with contextlib.suppress(Truncated, ConnectionResetError):
        while chunk := client.read_chunk():
            body += chunk
        raise AssertionError("the body came to its end")
    return body


def row_by(rig: Rig, column: str, value: str) -> dict[str, Any]:
    sql = f"SELECT * FROM requests WHERE {column} = ? AND outcome IS NOT NULL"
    (row,) = rig.proxy.rows(sql, (value,), until=bool)
    return row


# The client


def test_r63_a_head_that_never_ends_gets_a_408(rig: Rig) -> None:
    started = time.monotonic()
    with rig.client() as client:
        trickle(client, b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert_timeout(read(client), 408)

        assert time.monotonic() - started > 0.8 * SHORT
        assert is_closed(client)
    assert f"no whole head of a request within {SHORT} s" in rig.proxy.log()
    assert rig.requests == []


@pytest.mark.parametrize("tunnel", [False, True], ids=["plain", "in a tunnel"])
def test_r63_a_connection_without_a_request_is_closed(rig: Rig, tunnel: bool) -> None:
    started = time.monotonic()
    with rig.client() as client:
        if tunnel:
            client.send_request("CONNECT", f"127.0.0.1:{rig.upstream.port}")
            assert client.read_head().status == 200

        assert is_closed(client)
    assert time.monotonic() - started > 0.8 * SHORT


def test_r63_an_idle_connection_is_closed_after_its_last_answer(rig: Rig, client: RawClient) -> None:
    for _ in range(5):
        assert client.request(*claude_request(3000)).status == 200
        time.sleep(0.25 * SHORT)  # each request begins it anew

    assert client.request(*claude_request(3000)).status == 200
    assert is_closed(client)
    assert f"idle for {SHORT} s" in rig.proxy.log()


@pytest.mark.parametrize(
    ("pause", "why"),
    [
        (10.0, f"Nothing came of the request's body for {SHORT} s."),
        (0.3, f"The request's body took longer than {2 * SHORT} s."),
    ],
    ids=["silent", "slow"],
)
def test_r63_a_body_that_does_not_come_gets_a_408(rig: Rig, client: RawClient, pause: float, why: str) -> None:
    agent = f"body {pause}"
    head = f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{rig.proxy.port}\r\nUser-Agent: {agent}\r\n"
    client.send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    trickle(client, b" " * 50, pause)
    reply = read(client)

    assert_timeout(reply, 408)
    assert reply.json()["error"]["message"] == why
    row = row_by(rig, "user_agent", agent)
    assert (row["outcome"], row["status_code"], row["error_message"]) == ("refused", 408, why)
    assert rig.requests == []
    assert_nobody_is_blamed(rig)


def endless(size: int = 64 * MEGABYTE) -> Answer:
    """A stream of far more than all buffers on the way can hold."""
    event = b"event: ping\ndata: " + b" " * (MEGABYTE // 4 - 20) + b"\n\n"
    return sse_answer(*sse(1).chunks[:4], *([event] * (size // len(event))), *sse(1).chunks[4:])


def test_r63_a_client_that_reads_nothing_is_cut_off_and_called_that(rig: Rig, client: RawClient) -> None:
    rig.script("a", endless())
    client.detach().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    rig.send(client)
    (request,) = rig.wait_for(1)

    with rig.client() as other:
        assert other.request(*claude_request(3000)).status == 200
    rig.upstream.wait_until(lambda: request.aborted)
    row = rig.row()
    told = f"the client read nothing for {SHORT} s; it was cut off"
    assert (row["outcome"], row["error_message"]) == ("client_abort", told)
    assert is_reset(client)
    assert_nobody_is_blamed(rig)


# The upstream


def test_r63_no_answer_gets_a_504_and_is_not_asked_for_again(rig: Rig, client: RawClient) -> None:
    gate = Gate()
    rig.script("a", replace(sse(), before=(gate,)))
    rig.send(client)
    assert gate.reached.wait(60)
    with rig.client() as other:
        assert other.request(*claude_request(3000)).status == 200  # nobody else waits
    reply = read(client)

    assert_timeout(reply, 504)
    row = rig.row()
    assert (row["outcome"], row["status_code"], row["attempts"]) == ("upstream_error", 504, 1)
    assert row["error_message"] == f"The request was given up: the upstream sent no answer within {SHORT} s."
    assert rig.kinds() == ["upstream_failure"]
    aborted(rig, rig.requests[0])
    assert client.request(*claude_request(3000)).status == 200  # the client's connection goes on
    assert_nobody_is_blamed(rig)


def aborted(rig: Rig, request: Request) -> None:
    rig.upstream.wait_until(lambda: request.aborted)


def test_r63_a_stream_that_falls_silent_ends_with_an_error_event(rig: Rig, client: RawClient) -> None:
    rig.script("a", sse(["one", "two"], gate=Gate()))
    rig.send(client)
    assert client.read_head().status == 200
    last = event_data(rest_of(client).split(b"\n\n")[-2])

    assert last["type"] == "error"
    assert last["error"] == {
        "type": "timeout_error",
        "message": f"The stream ends here: the upstream sent nothing for {SHORT} s.",
    }
    row = rig.row()
    assert (row["outcome"], row["error_message"]) == ("truncated", f"the upstream sent nothing for {SHORT} s")
    assert last["request_id"] == row["id"]
    aborted(rig, rig.requests[0])
    assert_nobody_is_blamed(rig)


@pytest.mark.parametrize("kind", ["compressed", "inside an event"])
def test_r63_where_no_event_can_stand_a_silent_stream_is_only_cut(rig: Rig, client: RawClient, kind: str) -> None:
    whole = sse(["one"]).chunks
    answer = sse_answer(*whole[:4], b"event: content_block_delta\ndata: {", Gate())
    if kind == "compressed":
        answer = encoded(sse(["one", "two"], gate=Gate()), "gzip")
    rig.script("a", answer)
    rig.send(client)
    assert client.read_head().status == 200
    body = rest_of(client)

    assert b"timeout_error" not in body
    assert body
    assert rig.row()["error_message"] == f"the upstream sent nothing for {SHORT} s"


def test_r63_a_whole_answer_that_falls_silent_gets_a_504(rig: Rig, client: RawClient) -> None:
    answer = message_json()
    (body,) = answer.chunks
    assert isinstance(body, bytes)
    rig.script("a", replace(answer, chunks=(body[:50], Gate())))
    rig.send(client, stream=False)

    assert_timeout(read(client), 504)
    row = rig.row()
    assert (row["outcome"], row["status_code"]) == ("upstream_error", 504)
    assert_nobody_is_blamed(rig)


def test_r63_an_exchange_has_an_end_however_lively_it_is(rig: Rig, client: RawClient) -> None:
    rig.script("a", sse(60, delay=0.3))
    started = time.monotonic()
    rig.send(client)
    assert client.read_head().status == 200
    body = rest_of(client)

    assert WHOLE - 0.5 < time.monotonic() - started < 18  # which is how long it would go on
    assert f"the exchange took longer than {WHOLE} s".encode() in body
    assert rig.row()["error_message"] == f"the exchange took longer than {WHOLE} s"


def test_r63_what_keeps_talking_is_left_alone(rig: Rig) -> None:
    rig.script("a", sse(6, delay=0.5))
    assert len(rig.ask().events()) > 6
    assert rig.row()["outcome"] == "ok"


def test_r63_an_unopened_tunnel_has_mitmproxys_time_limit(rig: Rig) -> None:
    with FakeUpstream(tls=True) as other, via_connect(rig.proxy, "localhost", other.port, other.ca_file) as client:
        time.sleep(1.4 * SHORT)
        started = time.monotonic()
        assert client.request("GET", "/v1/models").status == 200
        assert is_closed(client)
        assert time.monotonic() - started > 2 * SHORT


# HTTP/2


@pytest.fixture(scope="module")
def secure() -> Iterator[Rig]:
    with FakeUpstream(tls=True) as upstream, Rig.running(upstream, **SECONDS) as rig:
        yield rig
        assert "Traceback" not in rig.proxy.log()


@pytest.fixture
def h2_client(secure: Rig) -> Iterator[Http2Client]:
    secure.renew("a", "b")
    with Http2Client.via_connect(secure.proxy, "localhost", secure.upstream.port) as client:
        yield client


def test_r63_one_slow_body_leaves_the_connection_to_the_others(secure: Rig, h2_client: Http2Client) -> None:
    secure.script("a", sse(5, delay=0.3 * SHORT))
    slow = h2_client.begin_request("POST", "/v1/messages", ((b"user-agent", b"slow h2"),))
    quick = h2_client.send_request(*claude_request(3000, session=secure.session))

    assert h2_client.read_head(slow).status == 408
    assert h2_client.read_body(quick).endswith(b'"message_stop"}\n\n')
    assert (
        row_by(secure, "user_agent", "slow h2")["error_message"] == f"Nothing came of the request's body for {SHORT} s."
    )


def test_r63_a_window_that_stays_shut_ends_its_stream_alone(secure: Rig, h2_client: Http2Client) -> None:
    secure.script("a", endless(MEGABYTE))
    h2_client.acknowledges = False
    stream = h2_client.send_request(*claude_request(3000, session=secure.session))

    assert h2_client.read_head(stream).status == 200
    with pytest.raises(Truncated, match="reset"):
        h2_client.read_body(stream)
    assert h2_client.request("HEAD", "/").status == 200
    eventually(secure.is_idle)


def test_r63_an_idle_http2_connection_is_told_to_go_away(secure: Rig, h2_client: Http2Client) -> None:
    assert h2_client.request("HEAD", "/").status == 200
    with pytest.raises(Truncated, match="ended"):
        h2_client.wait_for_end()


# Other proxies


def test_r63_an_upstream_that_takes_no_connection_is_a_failure() -> None:
    with contextlib.ExitStack() as stack:
        hole = BlackHole()
        stack.callback(hole.release)
        options = {"ccflare_connect_seconds": 1, "ccflare_retry_attempts": 0, "tcp_timeout": 1}
        rig = stack.enter_context(Rig.running(f"http://127.0.0.1:{hole.number}", **options))
        rig.fresh("a")
        reply = rig.ask()

        assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
        assert "no connection within 1 s" in rig.row()["error_message"]


def test_r63_mitmproxys_time_limit_is_not_ours() -> None:
    """It would cut a quiet exchange off and call that "Client disconnected"."""
    options = {"tcp_timeout": 1, "ccflare_exchange_seconds": 2}
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig, rig.client() as client:
        rig.fresh("a", "b")
        rig.script("a", replace(bad_request(), before=(Gate(),)))
        rig.send(client)

        assert_timeout(read(client), 504)
        assert rig.row()["error_message"] == "The request was given up: the exchange took longer than 2 s."
        assert rig.row()["outcome"] == "upstream_error"
        assert_nobody_is_blamed(rig)


def test_r63_a_client_that_reads_slowly_is_not_one_that_reads_nothing_and_nor_is_its_upstream() -> None:
    seconds = 3
    options = {"ccflare_client_stall_seconds": seconds, "ccflare_stream_idle_seconds": seconds}
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig, rig.client() as client:
        rig.fresh("a")
        rig.script("a", endless(12 * MEGABYTE))
        client.detach().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MEGABYTE // 8)  # the less, the sooner it shows
        rig.send(client)
        until = time.monotonic() + 1.5 * seconds
        assert client.read_head().status == 200
        while time.monotonic() < until:
            client.read_chunk()
            time.sleep(0.2)

        assert client.read_body().endswith(b'"message_stop"}\n\n')
        assert rig.row()["outcome"] == "ok"
