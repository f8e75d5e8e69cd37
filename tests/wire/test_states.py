"""The stream's table of states: what it says, and that the real stream keeps to it for every event in every state."""

import logging
import re
from typing import Any

import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import DropStream, SendHttp
from mitmproxy.proxy.layers.http._events import RequestProtocolError, ResponseHeaders, ResponseProtocolError

from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.wire import states
from ccflare_mitm.wire.course import MEANINGS
from ccflare_mitm.wire.states import TABLE, UNANSWERED, Event, IllegalState, Machine, Part, State
from stream_kit import StreamKit

# h: handled, l: late and dropped, -: illegal. In the order of Event.
EVENTS = "REQUEST CLIENT_LEFT CONNECTED TIMER HEAD BODY TRAILERS END BROKEN DEADLINE STALLED TUNNEL_OVER"
PLACES = {
    State.READING: "h h - - - - - - - h h h",
    State.WAITING: "- h l h - - - - - h h h",
    State.CONNECTING: "- h h - - - - - - h h h",
    State.SENT: "- h l - h - - - h h h h",
    State.JUDGING: "- h l - - h h h h h h h",
    State.RELAYING: "- h l - - h h h h h h h",
    State.ANSWERED: "l h l l l l l l l h h h",
    State.LINGERING: "h h - - - - - - - h h h",
    State.PIPE: "l h l l l l l l l l l l",
    State.OVER: "l h l l l l l l l l l l",
}
PAIRS = [
    (state, Event[name], place)
    for state, places in PLACES.items()
    for name, place in zip(EVENTS.split(), places.split(), strict=True)
]
BY_TABLE = [pair for pair in PAIRS if pair[0] is not State.PIPE]
"""In a pipe mitmproxy takes the events."""


def named(value: Any) -> str:
    return value.name if isinstance(value, State | Event) else str(value)


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_has_all_states_and_events() -> None:
    assert set(TABLE) == set(PLACES) == set(State)
    assert set(EVENTS.split()) == {event.name for event in Event}
    assert set(MEANINGS.values()) == set(Event)


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


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "h"], ids=named)
def test_stream_handles_what_is_legal(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = StreamKit().reach(state)

    kit.feed(kit.event(event))

    assert errors(caplog) == []


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "l"], ids=named)
def test_stream_drops_what_is_late(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = StreamKit().reach(state)

    assert kit.feed(kit.event(event)) == []
    assert (kit.stream.state, errors(caplog)) == (state, [])


@pytest.mark.parametrize(("state", "event"), [pair[:2] for pair in BY_TABLE if pair[2] == "-"], ids=named)
def test_stream_fails_closed_on_what_is_illegal(state: State, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    kit = StreamKit().reach(state)

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
    assert (kit.stream.state, kit.exchange and kit.exchange.outcome is not None) == (State.OVER, True)


@pytest.mark.parametrize("state", [state for state in State if state is not State.PIPE], ids=named)
def test_stream_fails_closed_on_an_event_that_nobody_knows(state: State, caplog: pytest.LogCaptureFixture) -> None:
    kit = StreamKit().reach(state)

    kit.feed(events.ConnectionClosed(kit.server))

    assert errors(caplog) == [
        f"ccflare ends a request that is not as it has to be: ConnectionClosed came in the state {state.name}"
    ]
    assert kit.stream.state is State.OVER


@pytest.mark.parametrize("event", [Event.DEADLINE, Event.STALLED, Event.TUNNEL_OVER], ids=named)
def test_pipe_is_not_told_what_is_about_requests(event: Event) -> None:
    kit = StreamKit().reach(State.PIPE)

    assert kit.feed(kit.event(event)) == []


@pytest.mark.parametrize("state", [State.SENT, State.JUDGING, State.RELAYING], ids=named)
def test_leaving_a_state_with_an_open_upstream_cancels_it(state: State) -> None:
    kit = StreamKit().reach(state)

    done = kit.feed(kit.event(Event.CLIENT_LEFT))

    cancelled = [each for each in done if isinstance(each, SendHttp) and each.connection is kit.server]
    assert [type(each.event) for each in cancelled] == [RequestProtocolError]
    assert kit.exchange is not None
    assert kit.exchange.outcome is Outcome.CLIENT_ABORT
    assert [type(each) for each in done].count(DropStream) == 1
    assert not [each for each in done if isinstance(each, commands.SendData)]
