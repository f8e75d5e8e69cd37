"""The gate knows a replay by its connection's ends, once, and takes it for its client's."""

from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.host.replays import Ends, Replay, Replays
from exchange_kit import EPOCH, Bench
from flow_kit import asked
from guard_kit import SECRET, a_gate, a_key, an_authenticator, ring_of

REPLAY = Replay("req_1", None, "max-1")
HERE = Ends(("127.0.0.1", 50_000), ("127.0.0.1", 8080))


def test_the_next_request_from_there_is_the_replay_and_no_other() -> None:
    replays, flow, next_flow = Replays(), asked(), asked()
    replays.expect(HERE, REPLAY)

    assert replays.recognise(asked(peer="127.0.0.2")) is None
    assert replays.recognise(flow) == REPLAY
    assert (flow.is_replay, replays.of(flow)) == ("request", REPLAY)

    assert replays.recognise(next_flow) is None
    assert (next_flow.is_replay, replays.of(next_flow)) == (None, None)


@pytest.mark.parametrize("here", [("127.0.0.1", 8081), ("127.0.0.2", 8080)])
def test_the_same_port_on_its_way_to_another_of_ours_is_no_replay(here: tuple[str, int]) -> None:
    """The kernel gives a port to several connections, and another program can ask for it (IP_LOCAL_PORT_RANGE)."""
    replays, flow = Replays(), asked()
    replays.expect(HERE, REPLAY)
    flow.client_conn.sockname = here
    assert replays.recognise(flow) is None
    assert flow.is_replay is None


def test_what_was_forgotten_is_expected_no_more() -> None:
    replays, flow = Replays(), asked()
    replays.expect(HERE, REPLAY)
    replays.forget(HERE)
    replays.forget(HERE)
    assert replays.recognise(flow) is None


def test_a_flow_without_an_address_is_no_replay() -> None:
    replays, flow = Replays(), tflow.tflow()
    replays.expect(HERE, REPLAY)
    flow.client_conn.peername = None  # type: ignore[assignment]
    assert replays.recognise(flow) is None


# --- through the gate -------------------------------------------------------------------------------------------------

KEYED = (b"x-api-key", SECRET.encode())


def repeated(gate: Gate, flow: http.HTTPFlow) -> http.HTTPFlow:
    """The same request, of which the client key is not known any more, once more."""
    exchange = gate.find(flow)
    assert exchange is not None
    again = asked()
    gate.replays.expect(HERE, Replay(exchange.id, gate.tunnels.asker(flow), "max-b"))
    gate.enter(again)
    return again


def test_a_replay_is_its_clients_and_says_what_it_repeats() -> None:
    key = a_key()
    gate, flow = a_gate(Bench("ab"), an_authenticator(key)), asked(headers=(KEYED,))
    gate.enter(flow)
    first = gate.find(flow)
    assert first is not None

    exchange = gate.find(repeated(gate, flow))

    assert exchange is not None
    opening = exchange.opening
    assert (opening.key, opening.only_account, opening.replay_of) == (key, "max-b", first.id)


@pytest.mark.parametrize("over", [{"revoked_at": EPOCH}, {"expires_at": EPOCH - 1}])
def test_a_replay_is_refused_once_its_key_is_over(over: dict[str, Any]) -> None:
    authenticator = an_authenticator(a_key())
    gate, flow = a_gate(Bench("ab"), authenticator), asked(headers=(KEYED,))
    gate.enter(flow)
    authenticator.replace(ring_of(a_key(**over)))

    again = repeated(gate, flow)

    assert gate.find(again) is None
    assert again.response is not None
    assert again.response.status_code == 403


def test_a_replay_without_a_key_is_refused_where_one_is_needed() -> None:
    authenticator = an_authenticator()
    gate, flow = a_gate(Bench("ab"), authenticator), asked()
    gate.enter(flow)
    authenticator.replace(ring_of(a_key()))

    again = repeated(gate, flow)

    assert again.response is not None
    assert gate.find(again) is None
