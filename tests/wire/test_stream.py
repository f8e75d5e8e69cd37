"""What one stream does without a socket; with real ones it is tested in tests/e2e and tests/security/test_wire.py."""

import logging
import time
from typing import Any

import pytest
from mitmproxy.http import Headers
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import DropStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook

from ccflare_core.accounts.account import Credential, Kind
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.steps import Send
from ccflare_mitm.wire.attempt import Attempt
from ccflare_mitm.wire.deadlines import DeadlinePassed
from ccflare_mitm.wire.layer import LARGE, Writes
from ccflare_mitm.wire.states import Event, State
from exchange_kit import EVENT_ERROR, JSON, MESSAGE
from stream_kit import CONTENT, StreamKit


def to_client(kit: StreamKit, done: list[commands.Command]) -> bytes:
    """The bytes of an answer's body, in whichever way they were sent."""
    parts = []
    for each in done:
        if isinstance(each, SendHttp) and isinstance(each.event, ResponseData) and each.connection is kit.client:
            parts.append(each.event.data)
        elif isinstance(each, commands.SendData) and each.connection is kit.client:
            parts.append(each.data)
    return b"".join(parts)


def upstream_id(kit: StreamKit) -> Any:
    return kit.last(RequestHeaders).stream_id


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_repr_tells_state_and_attempt_and_no_secret() -> None:
    kit = StreamKit().reach(State.JUDGING)

    assert repr(kit.stream) == (
        "FailoverStream(id=1, JUDGING, attempt=Attempt(stream_id=2, credential=account's, head=200, held=0))"
    )
    assert repr(StreamKit().reach(State.READING).stream) == "FailoverStream(id=1, READING, attempt=None)"
    assert repr(StreamKit().reach(State.PIPE).stream) == "FailoverStream(id=1, PIPE)"
    assert "token-" not in repr(kit.stream) + repr(vars(kit.stream))


# --- the credential ---------------------------------------------------------------------------------------------------


def test_credential_is_in_the_copy_that_is_sent_and_not_in_the_flow() -> None:
    kit = StreamKit().reach(State.SENT)

    sent = kit.last(RequestHeaders).request
    assert sent.headers["authorization"].startswith("Bearer token-")
    assert "authorization" not in kit.stream.flow.request.headers


def test_trailers_go_on_with_the_clients_own_credential_alone_and_without_what_is_for_us() -> None:
    sent = []
    for step in (Send(None), Send(Credential(Kind.API_KEY, "sk-ant-x"))):
        kit = StreamKit().reach(State.SENT)
        attempt = Attempt(step, kit.layer, ("POST", "/v1/messages"))
        kit.server.alpn = b"h2"
        attempt.open(kit.server, kit.stream)
        fields = ((b"X-ccflare-Tag", b"ticket=12"), (b"proxy-authorization", b"x"), (b"x-sum", b"1"))
        kit.stream.flow.request.trailers = Headers(fields)
        target = UpstreamTarget.of(kit.settings.upstream, kit.settings.upstream_pins)
        done: list[Any] = [*attempt.send(kit.stream.flow, target)]
        sent.append([each.event.trailers.fields for each in done if isinstance(each.event, RequestTrailers)])

    assert sent == [[((b"x-sum", b"1"),)], []]


def test_request_that_was_not_admitted_gets_a_500_and_no_connection() -> None:
    kit = StreamKit(admitted=False)
    kit.ask()

    assert (kit.last(RequestHeaders), kit.stream.state) == (None, State.ANSWERED)
    assert kit.last(ResponseHeaders).response.status_code == 500


def test_request_stops_where_the_upstream_breaks_off() -> None:
    kit = StreamKit().reach(State.CONNECTING)
    done: list[commands.Command] = []
    for command in kit.stream.handle_event(kit.event(Event.CONNECTED)):
        done.append(command)
        if isinstance(command, SendHttp) and isinstance(command.event, RequestHeaders):
            broken = ResponseProtocolError(command.event.stream_id, "gone", ErrorCode.GENERIC_SERVER_ERROR)
            done += kit.feed(broken)

    upstream = [type(each.event) for each in done if isinstance(each, SendHttp) and each.connection is kit.server]
    assert upstream == [RequestHeaders]
    assert kit.stream.state is State.WAITING


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answer_is_held_until_its_first_event_tells() -> None:
    kit = StreamKit().reach(State.JUDGING)

    assert kit.feed(ResponseData(upstream_id(kit), CONTENT[:20])) == []
    before = kit.stream.state
    done = kit.feed(ResponseData(upstream_id(kit), CONTENT[20:]))

    assert to_client(kit, done) == b"14\r\n%s\r\n2d\r\n%s\r\n" % (CONTENT[:20], CONTENT[20:])
    assert [before, kit.stream.state] == [State.JUDGING, State.RELAYING]


def test_answer_that_was_held_in_vain_has_been_silent_since_its_last_byte() -> None:
    kit = StreamKit().reach(State.JUDGING)
    deadlines, now = kit.stream.deadlines, time.monotonic()
    deadlines.clock = lambda: now + 4
    kit.feed(ResponseData(upstream_id(kit), CONTENT[:20]))
    deadlines.clock = lambda: now + 11

    kit.feed(kit.event(Event.DEADLINE))

    assert (kit.stream.state, deadlines.heard_at) == (State.RELAYING, now + 4)


def test_answer_that_begins_with_an_empty_block_is_held_for_a_second_more() -> None:
    kit = StreamKit().reach(State.JUDGING)
    deadlines, now = kit.stream.deadlines, time.monotonic()
    block = b'data: {"type":"content_block_start","content_block":{"type":"text","text":""}}\n\n'
    deadlines.clock = lambda: now + 4
    assert kit.feed(ResponseData(upstream_id(kit), block)) == []
    assert (kit.stream.state, deadlines.seconds, deadlines.heard_at) == (State.JUDGING, 1.0, now + 4)
    deadlines.clock = lambda: now + 4.5
    assert kit.feed(ResponseData(upstream_id(kit), b": a comment\n\n")) == []
    assert deadlines.heard_at == now + 4
    deadlines.clock = lambda: now + 5

    assert block in to_client(kit, kit.feed(kit.event(Event.DEADLINE)))
    assert kit.stream.state is State.RELAYING


def test_answer_that_begins_with_an_error_is_dropped_and_another_attempt_made() -> None:
    kit = StreamKit().reach(State.JUDGING)
    first = upstream_id(kit)

    done = kit.feed(ResponseData(first, EVENT_ERROR.body))

    assert to_client(kit, done) == b""
    assert kit.last(RequestProtocolError).stream_id == first
    assert kit.stream.state is State.WAITING
    kit.feed(kit.event(Event.TIMER))
    while kit.stream.state is State.WAITING:
        kit.feed(kit.event(Event.TIMER))
    kit.feed(kit.event(Event.CONNECTED))
    assert (kit.stream.state, upstream_id(kit)) == (State.SENT, first + 2)


def test_chunks_to_an_http1_client_are_framed_here_and_empty_ones_dropped() -> None:
    kit = StreamKit().reach(State.RELAYING)

    (written,) = kit.feed(ResponseData(upstream_id(kit), b"data: 1\n\n"))
    assert isinstance(written, commands.SendData)
    assert (written.connection, written.data) == (kit.client, b"9\r\ndata: 1\n\n\r\n")
    assert kit.feed(ResponseData(upstream_id(kit), b"")) == []


def test_chunks_are_framed_by_mitmproxy_where_it_keeps_them() -> None:
    kit = StreamKit(store_streamed_bodies=True).reach(State.RELAYING)

    (sent,) = kit.feed(ResponseData(upstream_id(kit), b"data: 1\n\n"))
    assert isinstance(sent, SendHttp)
    assert (sent.connection, sent.event) == (kit.client, ResponseData(1, b"data: 1\n\n"))


def test_whole_answer_ends_its_exchange_once() -> None:
    kit = StreamKit().reach(State.SENT)
    kit.feed(ResponseHeaders(upstream_id(kit), kit.head(fields=(*JSON, (b"content-length", b"%d" % len(MESSAGE))))))
    kit.feed(ResponseData(upstream_id(kit), MESSAGE))

    done = kit.feed(ResponseEndOfMessage(upstream_id(kit)))

    assert to_client(kit, done) == MESSAGE
    assert [type(each) for each in done].count(DropStream) == 1
    assert kit.exchange is not None
    assert (kit.exchange.outcome, kit.bench.notes.finished_ones) == ("ok", [kit.exchange])


def test_flow_that_is_killed_as_its_answer_begins_lets_go_of_the_upstream() -> None:
    kit = StreamKit().reach(State.JUDGING)
    kit.killed_in = HttpResponseHeadersHook

    done = kit.feed(ResponseData(upstream_id(kit), CONTENT))

    cancelled = [each.event for each in done if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [type(each) for each in cancelled] == [RequestProtocolError]
    assert (kit.stream.state, type(done[-1])) == (State.OVER, DropStream)
    assert to_client(kit, done) == b""


# --- when it fails ----------------------------------------------------------------------------------------------------


def test_error_of_ours_is_logged_with_the_state_and_without_the_credential(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kit = StreamKit().reach(State.SENT)
    secret = kit.last(RequestHeaders).request.headers["authorization"].removeprefix("Bearer ")

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"quoting {secret}")

    monkeypatch.setattr(Attempt, "take_head", fail)
    done = kit.feed(kit.event(Event.HEAD))

    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert told.startswith("ccflare failed inside in the state SENT; the request ends here\n")
    assert secret not in told
    assert b"The proxy failed inside" in to_client(kit, done)


def test_step_that_delivers_what_is_not_there_fails_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kit = StreamKit().reach(State.WAITING)
    assert kit.exchange is not None
    monkeypatch.setattr(kit.exchange, "next_step", Deliver)

    done = kit.feed(kit.event(Event.TIMER))

    assert "there is nothing to deliver in the state WAITING" in caplog.text
    assert b"The proxy failed inside" in to_client(kit, done)
    assert kit.last(RequestHeaders) is None


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (State.SENT, b"the upstream sent no answer within"),
        (State.RELAYING, b"the upstream sent nothing for"),
        (State.READING, b"Nothing came of the request's body for"),
    ],
)
def test_deadline_is_told_by_the_state(state: State, told: bytes) -> None:
    kit = StreamKit().reach(state)
    kit.stream.note_progress()
    kit.stream.deadlines.heard_at -= 10_000

    done = kit.feed(DeadlinePassed())

    assert told in to_client(kit, done)
    assert kit.stream.state in (State.ANSWERED, State.OVER, State.LINGERING)


def test_a_tunnel_has_a_server_of_its_own() -> None:
    """mitmproxy gives all of a client's tunnels over HTTP/2 the same one, and so the address of the last."""
    kit = StreamKit().reach(State.PIPE)

    own = kit.stream.context.server
    assert own is not kit.layer.context.server
    assert kit.stream.flow.server_conn is own
    assert own.address is not None
    assert kit.layer.context.server.address is None


# --- what is written --------------------------------------------------------------------------------------------------


def test_writes_are_joined_unless_they_are_large() -> None:
    kit, writes = StreamKit(), Writes()
    parts = (b"head", b"beginning", b"x" * LARGE, b"the", b"end")
    done = [each for part in parts for each in writes.add(commands.SendData(kit.client, part))]
    done += writes.flush()

    assert [each.data for each in done if isinstance(each, commands.SendData)] == [
        b"headbeginning",
        b"x" * LARGE,
        b"theend",
    ]
