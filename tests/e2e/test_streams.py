"""Answers as they come: in order, unchanged, and never with an end that upstream did not give them."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fake_upstream import (
    Answer,
    Cut,
    FakeUpstream,
    Gate,
    Wait,
    cut_after,
    cut_midway,
    encoded,
    event,
    failure,
    huge,
    limited_5h,
    message_json,
    sse,
    sse_answer,
    stall_before_head,
    stall_midway,
)
from harness import Http2Client, RawClient, Truncated, claude_request, eventually
from rig import Rig, visible

ENCODINGS = ("", "gzip", "deflate", "br", "zstd")
LATER = 4_000_000_000.0
HELD = 9.0
"""Seconds that a message's stream without content is held for at the least: what comes sooner was not held."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


def plain(answer: Answer) -> bytes:
    """The body of an answer as upstream sends it."""
    return b"".join(chunk for chunk in answer.chunks if isinstance(chunk, bytes))


def read_until_cut(client: RawClient) -> bytes:
    """What comes before the body breaks off; AssertionError if it does not."""
    body = b""
    try:
        while chunk := client.read_chunk():
            body += chunk
    except (Truncated, ConnectionResetError):
        return body
    raise AssertionError(f"a whole body after all: {body[-200:]!r}")


# Order and bytes


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_chunk_is_with_the_client_before_upstream_has_the_next(rig: Rig, client: RawClient, encoding: str) -> None:
    answer = encoded(sse(6), encoding) if encoding else sse(6)
    gates = [Gate() for _ in answer.chunks]
    gated = [step for pair in zip(answer.chunks, gates, strict=True) for step in pair]
    gates[0].open()  # the head goes out with the first content, which is the second chunk
    rig.script("a", replace(answer, chunks=tuple(gated)))
    rig.send(client)

    assert client.read_head().header("content-encoding") == (encoding or None)
    body, due = b"", b""
    for chunk, gate in zip(answer.chunks, gates, strict=True):
        due += bytes(chunk)  # type: ignore[arg-type]
        while gate is not gates[0] and len(body) < len(due):
            body += client.read_chunk()
        assert gate is gates[0] or not gate.is_open
        gate.open()

    assert body + client.read_body() == plain(answer)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_bytes_and_headers_are_unchanged_and_the_usage_is_read(rig: Rig, encoding: str, stream: bool) -> None:
    answer = sse(3, input_tokens=321, output_tokens=45) if stream else message_json(input_tokens=321, output_tokens=45)
    answer = encoded(answer, encoding) if encoding else answer
    rig.script("a", answer)

    reply = rig.ask(stream=stream)

    assert reply.body == plain(answer)
    assert [header for header in reply.head.headers if header in answer.headers] == list(visible(answer))
    row = rig.row()
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("ok", 321, 45)
    assert row["response_bytes"] == len(reply.body)
    assert row["upstream_request_id"] == reply.header("request-id") == rig.requests[0].id


def test_lines_may_end_as_they_like_and_break_anywhere(rig: Rig) -> None:
    body = plain(sse(["ünï", "cödé"], input_tokens=9)).replace(b"\n", b"\r\n")
    rig.script("a", sse_answer(*(body[at : at + 7] for at in range(0, len(body), 7))))

    assert rig.ask().body == body
    assert (rig.row()["outcome"], rig.row()["input_tokens"]) == ("ok", 9)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\xff\xfe\x00\n\n",
        b"data: {not json\n\n",
        b'data: [1, 2]\n\ndata: "text"\n\ndata: 1e999\n\n',
        b"event: content_block_delta\ndata: \xc3\x28\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b": " + b"x" * 300_000 + b"\n",
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":"many"}}\n\n',
    ],
    ids=["NULs", "no JSON", "no objects", "no UTF-8", "nesting", "a long comment", "wrong types"],
)
@pytest.mark.parametrize("at", [0, 4], ids=["at first", "in between"])
def test_junk_in_a_stream_is_passed_on(rig: Rig, junk: bytes, at: int) -> None:
    chunks = [*sse(3).chunks]
    answer = sse_answer(*chunks[:at], junk, *chunks[at:])
    rig.script("a", answer)

    assert rig.ask().body == plain(answer)
    assert (rig.row()["outcome"], rig.asked) == ("ok", ["a"])


@pytest.mark.parametrize("size", [200_000, 5_000_000], ids=["200 kB", "5 MB"])
@pytest.mark.parametrize("at", [1, 4], ids=["at first", "in between"])
def test_a_huge_event_is_passed_on(rig: Rig, size: int, at: int) -> None:
    big = event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * size}})
    chunks = [*sse(3, output_tokens=7).chunks]
    answer = sse_answer(*chunks[:at], big, *chunks[at:])
    rig.script("a", answer)

    assert rig.ask().body == plain(answer)
    assert (rig.row()["outcome"], rig.row()["output_tokens"]) == ("ok", 7)


def test_a_huge_answer_is_passed_on(rig: Rig) -> None:
    rig.script("a", huge(24 << 20))

    reply = rig.ask(stream=False)

    assert (reply.status, len(reply.body)) == (200, (24 << 20) + 2)
    assert rig.row()["response_bytes"] == (24 << 20) + 2


def test_a_huge_error_is_judged_by_what_can_be_held(rig: Rig) -> None:
    rig.script("a", huge(1 << 20, status=400))

    assert (rig.ask().status, rig.asked) == (400, ["a"])


def test_many_answers_on_one_connection(rig: Rig, client: RawClient) -> None:
    for number in range(20):
        rig.send(client, stream=bool(number % 2))
        assert client.read_head().status == 200
        assert client.read_body()

    assert len({request.connection for request in rig.requests}) == 1
    assert {row["outcome"] for row in rig.rows(20)} == {"ok"}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_requests_may_be_sent_before_the_answers_are_read(rig: Rig, client: RawClient, stream: bool) -> None:
    for _ in range(4):
        rig.send(client, stream=stream)

    for _ in range(4):
        assert client.read_head().status == 200
        assert client.read_body()
    assert rig.asked == ["a"] * 4
    assert {row["outcome"] for row in rig.rows(4)} == {"ok"}


def test_a_client_may_ask_before_it_sends_its_body(rig: Rig, client: RawClient) -> None:
    method, target, headers, body = claude_request(3000, session=rig.session)
    client.send_request(method, target, (*headers, (b"Expect", b"100-continue"), (b"Content-Length", b"3000")))
    assert client._read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    client.send(body)

    assert client.read_head().status == 200
    assert client.read_body()
    assert [(request.body, request.header("expect")) for request in rig.requests] == [(body, None)]


@pytest.mark.parametrize("protocol", [b"websocket", b"other"])
def test_an_upgraded_connection_carries_both_ways(rig: Rig, client: RawClient, protocol: bytes) -> None:
    gate, hello, bye = Gate(), b"\x81\x05hello", b"\x81\x03bye"
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n" % protocol
    switch = Answer(chunks=(head, Wait(0.05), hello, gate, bye, Cut()), raw=True)
    rig.upstream.answer(switch, path="/api/ws/speech")
    fields = ((b"Connection", b"Upgrade"), (b"Upgrade", protocol), (b"Sec-WebSocket-Version", b"13"))
    client.send_request("GET", "/api/ws/speech", fields)
    assert client.read_head().status == 101
    assert client._read_exactly(len(hello)) == hello

    before = rig.upstream.bytes_received
    client.send(b"\x81\x82\0\0\0\0hi")
    eventually(lambda: rig.upstream.bytes_received > before)
    gate.open()

    assert client._read_exactly(len(bye)) == bye


# Ends that upstream did not give


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_cut_stream_is_seen_as_unfinished_and_never_repeated(
    rig: Rig, client: RawClient, reset: bool, encoding: str
) -> None:
    whole = cut_midway(reset=reset)
    answer = encoded(replace(whole, chunks=whole.chunks[:-2]), encoding) if encoding else whole
    answer = replace(answer, chunks=(*answer.chunks[: len(whole.chunks) - 2], Wait(0.05), Cut(reset)))
    rig.script("a", answer)
    rig.send(client)
    assert client.read_head().status == 200

    assert read_until_cut(client) == plain(answer)

    row = rig.row()
    assert (row["outcome"], row["success"], row["input_tokens"], row["account"]) == ("truncated", 0, 12, "a")
    assert row["error_message"]
    assert rig.asked == ["a"]
    assert [(rest.source, 2 < rest.left <= 6) for rest in rig.rests("a")] == [("broken_off", True)]


def test_a_stream_that_ends_without_message_stop_is_truncated(rig: Rig) -> None:
    answer = sse_answer(*sse(3).chunks[:5])
    rig.script("a", answer)

    assert rig.ask().body == plain(answer)
    assert rig.row()["outcome"] == "truncated"


@pytest.mark.parametrize("framed", [True, False], ids=["content-length", "chunked"])
def test_a_short_body_is_asked_of_one_other_account_once(rig: Rig, framed: bool) -> None:
    short = cut_after(message_json("x" * 500), 100)
    short = short if framed else replace(short, headers=((b"content-type", b"application/json"),))
    rig.script("a", always=short)

    assert rig.ask(stream=False).json()["content"] == [{"type": "text", "text": "Hello."}]
    assert (rig.asked, rig.row()["outcome"], rig.kinds()) == (["a", "b"], "ok", ["broken_off", "ok"])
    assert [(rest.source, 2 < rest.left <= 6) for rest in rig.rests("a")] == [("broken_off", True)]


def test_a_short_body_of_all_is_our_502(bench: Rig) -> None:
    bench.fresh("a", "b", "c")
    for name in "abc":
        bench.script(name, always=cut_after(message_json("x" * 500), 100))

    reply = bench.ask(stream=False)

    assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
    row = bench.row()
    assert (row["outcome"], row["id"]) == ("upstream_error", reply.header("request-id"))
    assert bench.asked == ["a", "b"]


def test_a_batch_whose_answer_is_short_is_not_made_twice(rig: Rig) -> None:
    rig.script("a", cut_after(message_json("x" * 500), 100))
    with rig.client() as client:
        reply = client.request(
            "POST", "/v1/messages/batches", [(b"content-type", b"application/json")], b'{"requests":[]}'
        )

    assert (reply.status, rig.asked) == (502, ["a"])


def test_a_short_big_body_is_seen_as_unfinished(rig: Rig, client: RawClient) -> None:
    rig.script("a", cut_after(message_json("x" * 2_000_000), 1_500_000))
    rig.send(client, stream=False)
    assert client.read_head().status == 200

    assert len(read_until_cut(client)) == 1_500_000
    assert rig.row()["outcome"] == "truncated"


def test_garbage_in_the_chunking_ends_the_answer(rig: Rig, client: RawClient) -> None:
    body = plain(sse_answer(*sse(2).chunks[:4]))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    rig.script("a", Answer(chunks=(head + b"%x\r\n%s\r\n" % (len(body), body), Wait(0.05), b"ZZ\r\n"), raw=True))
    rig.send(client)
    assert client.read_head().status == 200

    assert read_until_cut(client) == body
    assert (rig.row()["outcome"], rig.asked) == ("truncated", ["a"])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_body_may_last_until_upstream_closes(rig: Rig, stream: bool) -> None:
    """HTTP/1.0's way: the end of the connection is the end of the body."""
    kind, body = (b"text/event-stream", plain(sse(2))) if stream else (b"application/json", plain(message_json()))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n" % kind
    rig.script("a", Answer(chunks=(head, body[:50], Wait(0.02), body[50:], Cut()), raw=True))

    reply = rig.ask(stream=stream)

    assert (reply.body, rig.row()["outcome"]) == (body, "ok")


# Silence


def test_silence_is_waited_out(rig: Rig) -> None:
    rig.script("a", stall_before_head(0.6, message_json()), stall_midway(0.6))

    assert rig.ask(stream=False).status == 200
    assert rig.ask().events()[-1] == {"type": "message_stop"}
    assert rig.asked == ["a", "a"]


def test_what_is_held_is_not_held_for_ever(rig: Rig) -> None:
    """A stream without content is let go 10 s after its head; an error without a body is judged after 5 s."""
    gate = Gate()
    limited = limited_5h(LATER)
    rig.script("a", sse(1, gate=gate, gate_at=0), replace(limited, chunks=(gate, *limited.chunks)))
    with contextlib.ExitStack() as stack:
        slow, moved = (stack.enter_context(rig.client()) for _ in range(2))
        for number, client in enumerate((slow, moved), 1):
            rig.send(client)
            rig.wait_for(number)
        assert moved.read_head().status == 200
        assert rig.asked == ["a", "a", "b"]
        assert slow.read_head().status == 200
        assert not gate.is_open
        gate.open()
        assert list(slow.events())[-1] == {"type": "message_stop"}


# What is not held


OWN = (b"Authorization", b"Bearer the-clients-own")


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/v1/sessions/sesn_1/events"), ("POST", "/v1/code/sessions/1/run")]
)
def test_an_event_stream_that_passes_is_with_the_client_at_once(
    rig: Rig, client: RawClient, method: str, target: str
) -> None:
    gate, first = Gate(), event({"type": "session.status_idle"})
    rig.upstream.answer(sse_answer(first, gate, event({"type": "ping"})), path=target)
    began = time.monotonic()
    client.send_request(method, target, (OWN, (b"Content-Length", b"0")))

    assert (client.read_head().status, client.read_chunk()) == (200, first)
    assert (gate.is_open, time.monotonic() - began < HELD) == (False, True)
    gate.open()
    assert client.read_body() == event({"type": "ping"})


def test_an_accounts_event_stream_that_is_no_message_is_with_the_client_at_once(rig: Rig, client: RawClient) -> None:
    gate, first = Gate(), event({"type": "entry"})
    rig.script("a", sse_answer(first, gate, event({"type": "ping"})))
    began = time.monotonic()
    client.send_request("GET", "/v1/files/file_1/content", (OWN,))

    assert (client.read_head().status, client.read_chunk()) == (200, first)
    assert (gate.is_open, time.monotonic() - began < HELD) == (False, True)
    gate.open()
    assert client.read_body() == event({"type": "ping"})
    assert rig.asked == ["a"]


def test_a_message_with_the_clients_own_credential_is_not_held(bench: Rig) -> None:
    bench.fresh()
    gate = Gate()
    answer = sse(1, gate=gate, gate_at=0)
    bench.upstream.answer(answer, path="/v1/messages")
    began = time.monotonic()
    with bench.client() as client:
        bench.send(client, credential=OWN)

        assert (client.read_head().status, client.read_chunk()) == (200, answer.chunks[0])
        assert (gate.is_open, time.monotonic() - began < HELD) == (False, True)
        gate.open()
        assert list(client.events())[-1] == {"type": "message_stop"}
    assert [request.credential for request in bench.requests] == ["the-clients-own"]


# HTTP/2


@pytest.fixture(scope="module", params=[True, False], ids=["h2 upstream", "h1 upstream"])
def tls_bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with FakeUpstream(tls=True, http2=request.param) as upstream, Rig.running(upstream) as rig:
        yield rig


@pytest.fixture
def tls_rig(tls_bench: Rig) -> Rig:
    tls_bench.renew("a", "b")
    return tls_bench


@pytest.fixture
def h2_client(tls_rig: Rig) -> Iterator[Http2Client]:
    with Http2Client.via_connect(tls_rig.proxy, "localhost", tls_rig.upstream.port) as client:
        yield client


def begin(rig: Rig, client: Http2Client, size: int = 3000, stream: bool = True) -> int:
    return client.send_request(*claude_request(size, session=rig.session, stream=stream))


def test_http2_streams_chunk_by_chunk_also_after_a_failover(tls_rig: Rig, h2_client: Http2Client) -> None:
    gate = Gate()
    answer = sse(["one", "two"], gate=gate)
    tls_rig.script("a", failure(), limited_5h(LATER))
    tls_rig.script("b", answer)
    stream = begin(tls_rig, h2_client)

    assert h2_client.read_head(stream).status == 200
    body = b""
    while b"one" not in body:
        body += h2_client.read_data(stream)
    assert not gate.is_open
    gate.open()

    assert body + h2_client.read_body(stream) == plain(answer)
    assert tls_rig.asked == ["a", "a", "b"]
    assert len({request.body for request in tls_rig.requests}) == 1
    assert (tls_rig.row()["outcome"], tls_rig.row()["door"]) == ("ok", "https-proxy")


def test_http2_requests_share_a_connection_while_one_of_them_fails_over(tls_rig: Rig, h2_client: Http2Client) -> None:
    gate = Gate()
    tls_rig.script("a", sse(["slow"], gate=gate), always=limited_5h(LATER))
    slow = begin(tls_rig, h2_client)
    assert h2_client.read_head(slow).status == 200

    moved = [begin(tls_rig, h2_client, stream=False) for _ in range(3)]

    assert [h2_client.read_head(stream).status for stream in moved] == [200] * 3
    assert all(h2_client.read_body(stream) for stream in moved)
    gate.open()
    assert h2_client.read_body(slow).endswith(b'"message_stop"}\n\n')
    assert tls_rig.asked[:2] == ["a", "a"]
    assert tls_rig.asked.count("b") == 3
    assert {row["outcome"] for row in tls_rig.rows(4)} == {"ok"}


def test_http2_carries_large_bodies_both_ways(tls_rig: Rig, h2_client: Http2Client) -> None:
    answer = message_json("x" * 3_000_000)
    tls_rig.script("a", limited_5h(LATER))
    tls_rig.script("b", answer)
    stream = begin(tls_rig, h2_client, 400_000, stream=False)

    assert h2_client.read_body(stream) == plain(answer)
    assert [len(request.body) for request in tls_rig.requests] == [400_000] * 2


def test_http2_a_body_without_a_length_is_framed_for_the_upstream(tls_rig: Rig, h2_client: Http2Client) -> None:
    """Unframed it would be a request of its own to an HTTP/1 upstream, with whatever credential it brings."""
    smuggled = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

    h2_client.request("POST", "/v1/messages", [], smuggled)

    assert [(request.body, request.credential) for request in tls_rig.requests] == [(smuggled, tls_rig.secret("a"))]
    assert tls_rig.upstream.malformed == []


def test_http2_trailers_do_no_harm(tls_rig: Rig, h2_client: Http2Client) -> None:
    connection, stream = h2_client._h2, h2_client._h2.get_next_available_stream_id()
    pseudo = ((":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/v1/messages"))
    connection.send_headers(stream, pseudo)
    connection.send_data(stream, b'{"model":"claude-opus-4-8"}')
    connection.send_headers(stream, [("x-checksum", "1")], end_stream=True)
    h2_client._flush()

    assert h2_client.read_head(stream).status == 200
    assert h2_client.read_body(stream)
    assert [request.body for request in tls_rig.requests] == [b'{"model":"claude-opus-4-8"}']


def test_http2_a_cut_stream_is_seen_as_unfinished(tls_rig: Rig, h2_client: Http2Client) -> None:
    tls_rig.script("a", cut_midway(stream=True))
    stream = begin(tls_rig, h2_client)
    assert h2_client.read_head(stream).status == 200

    with pytest.raises(Truncated):
        h2_client.read_body(stream)

    assert (tls_rig.row()["outcome"], tls_rig.asked) == ("truncated", ["a"])
    second = begin(tls_rig, h2_client)  # the client's connection goes on
    assert h2_client.read_head(second).status == 200
    assert h2_client.read_body(second)


def test_http2_a_short_body_is_no_whole_answer(tls_rig: Rig, h2_client: Http2Client) -> None:
    tls_rig.script("a", cut_after(message_json("x" * 500), 100))

    reply = h2_client.request(*claude_request(3000, session=tls_rig.session, stream=False))

    assert (reply.status, reply.json()["type"]) == (200, "message")
    assert (tls_rig.row()["outcome"], tls_rig.asked) == ("ok", ["a", "b"])


@pytest.mark.parametrize("cut", [Cut(), Cut(reset=True), Cut(stream=True)], ids=["FIN", "RST", "RST_STREAM"])
def test_http2_a_loss_before_the_head_is_retried_unseen(tls_rig: Rig, h2_client: Http2Client, cut: Cut) -> None:
    tls_rig.script("a", Answer(before=(cut,)))
    stream = begin(tls_rig, h2_client)

    assert h2_client.read_head(stream).status == 200
    assert h2_client.read_body(stream).endswith(b'"message_stop"}\n\n')
    assert tls_rig.asked == ["a", "a"]


def test_http2_our_own_errors_are_whole_answers(tls_rig: Rig, h2_client: Http2Client) -> None:
    for name in "ab":
        tls_rig.script(name, limited_5h(LATER))

    reply = h2_client.request(*claude_request(3000, session=tls_rig.session))

    assert (reply.status, reply.json()["error"]["type"]) == (503, "api_error")
    assert h2_client.request("GET", "/ccflare/health").json()["status"] == "ok"
