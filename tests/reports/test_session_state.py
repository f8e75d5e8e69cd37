"""A session as it stands, on every engine: who serves it, how full that is, what it has cost; and whose it is."""

from collections.abc import Iterator
from math import inf, nan
from typing import Any

import pytest

from ccflare_core.accounts.account import Kind
from ccflare_core.config.location import Location
from ccflare_core.reports.session_state import Limit, SessionState, as_record, is_made_by, of_record, read_session
from history import NOON, History


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        for name in ("max-1", "max-2"):
            history.account(name)
        history.account("key-1", kind=Kind.API_KEY, api_key="sk-ant-PLANTED", needs_login=True)
        history.account("off", paused=True)
        history.cooldown("max-1", NOON + 60, "5h window spent")
        history.cooldown("max-2", NOON + 60, "opus spent", family="opus")
        for minute, account in enumerate(("max-1", "max-2", "max-2", "max-1")):
            history.exchange(NOON - 3600 + minute * 60, account, cost_usd=0.5)
        history.exchange(NOON - 60, None, outcome="no_account")
        history.exchange(NOON, "max-2", session="session-2", key="laptop")
        history.exchange(NOON, "max-2", session="session-4", key="laptop")
        history.exchange(NOON, "max-2", session="session-4", key="ci")
        history.exchange(NOON, "max-2", session="session-5", key="laptop")
        history.exchange(NOON, "max-2", session="session-5")
        history.window("max-1", "5h", 0.2, NOON + 60, at=NOON - 60)
        history.window("max-1", "5h", 0.5, NOON + 60)
        history.window("max-1", "7d", 0.9, NOON - 1)
        yield history


def test_a_session_has_its_account_limits_cost_and_moves(past: History) -> None:
    assert read_session(past.store.query, "session-1", NOON) == SessionState(
        "max-1", {"5h": Limit(0.5, NOON + 60), "7d": Limit(0.0, None)}, 1, 4, 2.0, 2, ()
    )


def test_an_account_without_readings_has_no_limits(past: History) -> None:
    state = read_session(past.store.query, "session-2", NOON)

    assert (state.account, state.limits, state.moved, state.cost) == ("max-2", {}, 0, None)


def test_a_session_that_is_not_known_tells_of_the_pool(past: History) -> None:
    for session in ("session-3", None):
        assert read_session(past.store.query, session, NOON) == SessionState(None, {}, 1, 4, None, 0, ())


def test_a_session_is_that_of_the_key_that_has_made_all_of_it(past: History) -> None:
    ((key,),) = past.store.query("SELECT DISTINCT client_id FROM requests WHERE client_name = ?", ("laptop",))
    found = [is_made_by(past.store.query, f"session-{number}", key) for number in range(1, 6)]

    assert found == [False, True, False, False, False]


@pytest.mark.parametrize(
    "state",
    [
        SessionState("max-1", {"5h": Limit(0.5, NOON + 60), "7d": Limit(0.0, None)}, 1, 4, 2.0, 2, ("a needs login",)),
        SessionState(None, {}, 0, 0, None, 0, ()),
    ],
)
def test_what_a_program_is_told_is_all_of_it(state: SessionState) -> None:
    assert of_record(as_record("session-1", state)) == state


@pytest.mark.parametrize("told", [inf, -inf, nan, 1e300, -1, "1", None, []])
@pytest.mark.parametrize("name", ["free", "accounts", "moved", "cost_usd", "utilization"])
def test_what_is_no_figure_makes_no_state_of_a_session(name: str, told: object) -> None:
    record: dict[str, Any] = as_record("s", SessionState("a", {"5h": Limit(0.5, NOON)}, 1, 2, 1.0, 0, ()))
    (record if name in record else record["windows"][0])[name] = told

    if (name, told) == ("cost_usd", None):
        assert of_record(record).cost is None
    else:
        with pytest.raises((TypeError, ValueError)):
            of_record(record)


@pytest.mark.parametrize("told", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "noon", 7])
def test_a_moment_that_not_every_zone_has_makes_no_state_of_a_session(told: object) -> None:
    record: dict[str, Any] = as_record("s", SessionState("a", {"5h": Limit(0.5, NOON)}, 1, 2, 1.0, 0, ()))
    record["windows"][0]["resets_at"] = told

    with pytest.raises((TypeError, ValueError)):
        of_record(record)
