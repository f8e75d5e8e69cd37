"""Recorded requests as turns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.reports.prompt_cache import cache_uses
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import By, Period
from ccflare_core.simulation.rates import Rates
from ccflare_core.simulation.recorded import read_turns, sessions_before
from ccflare_core.simulation.turns import Turn
from history import NOON, History

DAY = Period(NOON - 86_400, NOON + 1)
USED: dict[str, Any] = {"input_tokens": 10, "output_tokens": 100, "response_time_ms": 5000.0, "first_byte_ms": 1000.0}


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-2")
        yield history


def turns(past: History, *, tagged: bool = False) -> list[Turn]:
    return [*read_turns(past.store.query, Rates(PriceList()), DAY, 18_000.0, tagged=tagged)]


def cached(read: int, written: int) -> dict[str, Any]:
    return {**USED, "cache_read_input_tokens": read, "cache_creation_input_tokens": written}


def test_turn_has_the_sizes_and_the_times_of_its_request(past: History) -> None:
    past.exchange(NOON - 60, cost_usd=0.5, waited_ms=400.0, **cached(1000, 200))

    [turn] = turns(past)

    assert (turn.at, turn.head_seconds, turn.seconds, turn.waited) == (NOON - 60, 0.6, 4.6, 0.4)
    assert turn.tokens == (10, 100, 200, 0, 1000)
    assert (turn.cost, turn.account_id, turn.facts.family) == (0.5, "MAX-1", "opus")


def test_what_a_move_has_lost_is_apart_and_the_same_as_in_the_statistics(past: History) -> None:
    past.exchange(NOON - 90, **cached(0, 50_000))
    past.exchange(NOON - 60, "max-2", cost_usd=1.0, **cached(0, 51_000))

    one, two = turns(past)

    assert (one.moved, two.moved, two.lost_tokens) == (False, True, 50_000)
    assert (two.tokens.read, two.tokens.written_5m) == (50_000, 1000)
    assert two.cost + two.lost_cost == pytest.approx(1.0)
    groups = Reports(past.store.query).traffic(DAY, (By.SESSION, By.MODEL), switches=True)
    assert two.lost_cost == pytest.approx(cache_uses(groups, PriceList(), total=True)[0].rebilled_usd)


def test_limits_are_counted_and_other_failures_are_weather(past: History) -> None:
    moved = past.exchange(NOON - 60, "max-2", attempts=3, failover_attempts=1, **USED)
    past.attempt(moved, NOON - 60, "max-1", "window_spent", "5h window spent", 429)
    past.attempt(moved, NOON - 59, "max-2", "overloaded", "529 overloaded", 529)
    past.attempt(moved, NOON - 58, "max-2", "ok", "ok", 200)

    [turn] = turns(past)

    assert turn.limits == 1
    assert [(each.kind, each.status) for each in turn.weather] == [(Kind.OVERLOADED, 529)]
    assert turn.weather[0].concerns("MAX-7")
    assert turn.seconds == pytest.approx(3.0)


def test_refused_is_there_if_other_accounts_could_help(past: History) -> None:
    past.exchange(NOON - 60, None, outcome="refused", status_code=503, request_bytes=100)
    past.exchange(NOON - 50, None, outcome="refused", status_code=413)
    past.exchange(NOON - 40, None, outcome="refused", status_code=403, error_message="This client key may not.")
    past.exchange(NOON - 30, request_bytes=100, **USED)
    past.exchange(NOON - 20, path="/api/event_logging/batch", model=None)

    one, two = turns(past)

    assert (one.outcome, one.is_sized, one.is_repeat) == ("refused", False, False)
    assert (two.outcome, two.is_repeat) == ("ok", True)


def test_counting_tokens_uses_nothing_of_a_window(past: History) -> None:
    past.exchange(NOON - 60, path="/v1/messages/count_tokens")

    assert not turns(past)[0].facts.spends


def test_pages_have_every_turn_once(past: History) -> None:
    with past.together():
        for number in range(1203):
            past.exchange(NOON - 5000 + number // 3, **USED)

    found = turns(past)

    assert len({turn.id for turn in found}) == len(found) == 1203
    assert [turn.at for turn in found] == sorted(turn.at for turn in found)


def test_tags_come_when_they_are_wanted(past: History) -> None:
    past.exchange(NOON - 60, tags={"team": "blue"}, **USED)

    assert dict(turns(past, tagged=True)[0].tags) == {"team": "blue"}
    assert not turns(past)[0].tags


def test_sessions_before_are_those_of_their_last_account(past: History) -> None:
    past.exchange(NOON - 90_000, "max-1", **USED)
    past.exchange(NOON - 87_000, "max-2", **USED)

    assert sessions_before(past.store.query, DAY, 18_000.0) == [
        ("session-1", "MAX-1", NOON - 90_000),
        ("session-1", "MAX-2", NOON - 87_000),
    ]
