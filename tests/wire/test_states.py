"""The stream's table of states: what it says, and that the real stream keeps to it for every event in every state."""

import logging
import re
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import DropStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseHeaders,
    ResponseProtocolError,
)

from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.wire import states
from ccflare_mitm.wire.course import LINGER_SECONDS, MEANINGS
from ccflare_mitm.wire.states import TABLE, UNANSWERED, Event, IllegalState, Machine, Part, State
from ccflare_mitm.wire.upload import HELD_BYTES
from stream_kit import StreamKit

# h: handled, l: late and dropped, -: illegal. In the order of Event.
EVENTS = (
    "REQUEST UPLOAD CLIENT_LEFT CONNECTED TIMER HEAD BODY TRAILERS END BROKEN DEADLINE STALLED TUNNEL_OVER "
    "PIECE PIECES_OVER"
)
PLACES = {
    State.READING: "h - h - - - - - - - h h h - -",
    State.WAITING: "- h h l h - - - - - h h h - -",
    State.CONNECTING: "- h h h l - - - - - h h h - -",
    State.UPLOADING: "- h h l h h - - - h h h h - -",
    State.SENT: "- - h l l h - - - h h h h - -",
    State.JUDGING: "- h h l l - h h h h h h h - -",
    State.RELAYING: "- h h l l - h h h h h h h - -",
    State.FEEDING: "- - h - - - - - - - h h h h h",
    State.ANSWERED: "l h h l l l l l l l h h h l l",
    State.LINGERING: "h - h - - - - - - - h h h - -",
    State.PIPE: "l - h l l l l l l l l l l - -",
    State.OVER: "l l h l l l l l l l l l l l l",
}
PAIRS = [
    (state, Event[name], place)
    for state, places in PLACES.items()
    for name, place in zip(EVENTS.split(), places.split(), strict=True)
]
NEVER = {State.PIPE: set(Event), State.UPLOADING: {Event.REQUEST}}
"""What no stream is told: in a pipe mitmproxy takes the events, and while there is an upload, parts are parts of it."""
BY_TABLE = [
    pair
    for pair in PAIRS
    if pair[1] not in NEVER.get(pair[0], ()) and pair[1:] != (Event.UPLOAD, "-")  # without one it is a REQUEST
]


def named(value: Any) -> str:
    return value.name if isinstance(value, State | Event) else str(value)


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_has_all_states_and_events() -> None:
    assert set(TABLE) == set(PLACES) == set(State)
    assert set(EVENTS.split()) == {event.name for event in Event}
    assert set(MEANINGS.values()) | {Event.UPLOAD} == set(Event)


def test_table_says_nothing_twice() -> None:
    for rule in TABLE.values():
        assert not rule.handles & rule.late
        assert not rule.needs & rule.allows


@pytest.mark.parametrize(("state", "event", "place"), PAIRS, ids=named)
def test_table_places_each_event_in_each_state(state: State, event: Event, place: str) -> None:
    machine = Machine()
    machine.state = state

    if place == "-":
        with pytest.raises(IllegalState, match=rf"^{event.value} came in the state {state.name} "):
            machine.handles(event)
    else:
        assert machine.handles(event) is (place == "h")


def test_every_state_is_drawn_and_reached_from_the_first() -> None:
    drawn = set(re.findall(r"[A-Z]{4,}", states.__doc__ or ""))
    reached, todo = set(), {State.READING}
    while todo:
        reached |= todo
        todo = {to for state in todo for to in TABLE[state].leads_to} - reached

    assert reached == set(State) - {State.OVER}
    assert {state.name for state in State} <= drawn


@pytest.mark.parametrize("state", State, ids=named)
def test_ways_that_the_table_does_not_have_are_illegal(state: State) -> None:
    for to in State:
        machine = Machine()
        machine.state = state
        if to in TABLE[state].leads_to or to is State.OVER:
            assert machine.enter(to) is TABLE[to]
            assert machine.state is to
        else:
            with pytest.raises(IllegalState, match=rf"^the state {state.name} \(.*\) does not lead to {to.name}$"):
                machine.enter(to)
            assert machine.state is state


@pytest.mark.parametrize("state", State, ids=named)
def test_parts_that_are_missing_or_foreign_are_illegal(state: State) -> None:
    machine, rule = Machine(), TABLE[state]
    machine.state = state
    machine.check(rule.needs)
    machine.check(rule.needs | rule.allows)

    for part in rule.needs:
        with pytest.raises(IllegalState, match=rf"^the state {state.name} was entered without {part.value}$"):
            machine.check(rule.needs - {part})
    for part in set(Part) - rule.needs - rule.allows:
        with pytest.raises(IllegalState, match=rf"^the state {state.name} was entered with {part.value}$"):
            machine.check(rule.needs | {part})


def test_only_where_nothing_was_delivered_can_another_account_be_asked() -> None:
    asking = {state for state, rule in TABLE.items() if State.CONNECTING in rule.leads_to or state is State.SENT}

    assert asking <= UNANSWERED
    assert not {State.WAITING, State.CONNECTING, State.SENT, State.JUDGING} & TABLE[State.RELAYING].leads_to


def test_repr_names_the_state() -> None:
    assert repr(Machine()) == "Machine(READING)"


# --- the stream -------------------------------------------------------------------------------------------------------


def stream_in(state: State, event: Event | None = None) -> StreamKit:
    """A stream in this state, with an upload if the event, or the state, is about one."""
    return StreamKit(uploads=Event.UPLOAD is event or state is State.UPLOADING).reach(state)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "h"], ids=named)
def test_stream_handles_what_is_legal(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = stream_in(state, event)

    kit.feed(kit.event(event))

    assert errors(caplog) == []


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "l"], ids=named)
def test_stream_drops_what_is_late(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = stream_in(state, event)

    assert kit.feed(kit.event(event)) == []
    assert (kit.stream.state, errors(caplog)) == (state, [])


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "-"], ids=named)
def test_stream_fails_closed_on_what_is_illegal(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = stream_in(state)

    done = kit.feed(kit.event(event))

    assert [f"{event.value} came in the state {state.name} (" in text for text in errors(caplog)] == [True]
    upstream = [each.event for each in done if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [type(each) for each in upstream] in ([], [RequestProtocolError])
    client = [each.event for each in done if isinstance(each, SendHttp) and each.connection is kit.client]
    if isinstance(client[0], ResponseHeaders):
        assert (state in UNANSWERED, client[0].response.status_code) == (True, 500)
    else:
        assert isinstance(client[0], ResponseProtocolError)
    assert isinstance(done[-1], DropStream)
    assert kit.stream.state is State.OVER
    assert kit.exchange is None or kit.exchange.outcome is not None


@pytest.mark.parametrize("state", [state for state in State if state is not State.PIPE], ids=named)
def test_stream_fails_closed_on_an_event_that_nobody_knows(state: State, caplog: pytest.LogCaptureFixture) -> None:
    kit = stream_in(state)

    kit.feed(events.ConnectionClosed(kit.server))

    assert errors(caplog) == [
        f"ccflare ends a request that is not as it has to be: ConnectionClosed came in the state {state.name}"
    ]
    assert kit.stream.state is State.OVER


@pytest.mark.parametrize("event", [Event.DEADLINE, Event.STALLED, Event.TUNNEL_OVER], ids=named)
def test_pipe_is_not_told_what_is_about_requests(event: Event) -> None:
    kit = StreamKit().reach(State.PIPE)

    assert kit.feed(kit.event(event)) == []


@pytest.mark.parametrize("state", [State.UPLOADING, State.SENT, State.JUDGING, State.RELAYING], ids=named)
def test_leaving_a_state_with_an_open_upstream_cancels_it(state: State) -> None:
    kit = stream_in(state)

    done = kit.feed(kit.event(Event.CLIENT_LEFT))

    cancelled = [each for each in done if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [type(each.event) for each in cancelled] == [RequestProtocolError]
    assert kit.exchange is not None
    assert kit.exchange.outcome is Outcome.CLIENT_ABORT
    assert [type(each) for each in done].count(DropStream) == 1
    assert not [each for each in done if isinstance(each, commands.SendData)]


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_upload_goes_up_as_it_comes() -> None:
    kit = StreamKit(uploads=True).reach(State.CONNECTING)
    kit.feed(RequestData(1, b"before "))
    kit.feed(kit.event(Event.CONNECTED))

    for part in (b"and ", b"after"):
        (sent,) = kit.feed(RequestData(1, part))
        assert isinstance(sent, SendHttp)
        assert sent.event == RequestData(2, part)
    kit.feed(RequestEndOfMessage(1))

    up = [each.event for each in kit.sent if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [type(each) for each in up] == [RequestHeaders, RequestData, RequestData, RequestData, RequestEndOfMessage]
    assert isinstance(up[1], RequestData)
    assert up[1].data == b"before "
    assert (kit.stream.state, kit.exchange and kit.exchange.unkept_bytes) == (State.SENT, 16)


def test_upload_that_waits_is_left_unread_until_there_is_an_upstream() -> None:
    kit = StreamKit(uploads=True).reach(State.CONNECTING)

    kit.feed(RequestData(1, bytes(HELD_BYTES - 1)))
    assert kit.unread == []
    kit.feed(RequestData(1, b"x"))
    kit.feed(RequestData(1, b"x"))
    assert kit.unread == [True]
    kit.feed(kit.event(Event.CONNECTED))
    assert kit.unread == [True, False]


def test_upload_that_is_answered_early_is_dropped_and_its_upstream_closed() -> None:
    kit = StreamKit(uploads=True).reach(State.ANSWERED)

    up = [each.event for each in kit.sent if isinstance(each, SendHttp) and each.connection is kit.server]
    assert isinstance(up[-1], RequestProtocolError)
    assert kit.feed(RequestData(1, b"more")) == []
    assert kit.stream.deadlines.seconds == LINGER_SECONDS
    assert isinstance(kit.feed(RequestEndOfMessage(1))[-1], DropStream)


@pytest.mark.parametrize("state", [State.WAITING, State.CONNECTING, State.UPLOADING], ids=named)
def test_upload_above_its_limit_is_refused(state: State) -> None:
    kit = StreamKit(uploads=True).reach(state)

    kit.feed(RequestData(1, bytes(kit.settings.upload_limit_bytes + 1)))

    assert kit.last(ResponseHeaders).response.status_code == 413
    assert kit.stream.state is State.ANSWERED


class OnDisk:
    """A body on the disk, in pieces that are there at once."""

    size, trouble, is_written = 6, "", True

    def __init__(self) -> None:
        self.is_closed = False

    def add(self, data: bytes) -> bool:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def read(self, number: int) -> Future[bytes | None]:
        done: Future[bytes | None] = Future()
        done.set_result((b"one", b"two", None)[number])
        return done

    def close(self) -> None:
        self.is_closed = True


def spooling() -> tuple[StreamKit, OnDisk]:
    """A stream that has begun to send a body from the disk."""
    kit, spool = StreamKit(), OnDisk()
    assert kit.exchange is not None
    kit.exchange.spool_body(spool)
    return kit.reach(State.CONNECTING), spool


def test_batch_on_the_disk_goes_up_piece_by_piece() -> None:
    kit, spool = spooling()

    kit.feed(kit.event(Event.CONNECTED))
    while kit.stream.state is State.UPLOADING:
        kit.feed(kit.event(Event.TIMER))

    up = [each.event for each in kit.sent if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [each.data for each in up if isinstance(each, RequestData)][-2:] == [b"one", b"two"]
    assert isinstance(up[-1], RequestEndOfMessage)
    assert kit.stream.state is State.SENT
    kit.feed(kit.event(Event.CLIENT_LEFT))
    assert spool.is_closed


def test_timer_of_a_batch_that_was_answered_early_is_late_on_the_way_to_another_account() -> None:
    kit, _ = spooling()
    kit.feed(kit.event(Event.CONNECTED))
    timer = kit.event(Event.TIMER)

    kit.feed(ResponseHeaders(2, kit.head(401, ((b"content-length", b"0"),)), end_stream=True))
    kit.feed(kit.event(Event.TIMER))
    assert kit.stream.state is State.CONNECTING
    assert kit.feed(timer) == []
    assert kit.stream.state is State.CONNECTING
