"""What windows take, by what was read of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.reports.traffic import Period
from ccflare_core.simulation.capacities import FEWEST_READINGS, fit, starting
from ccflare_core.simulation.plans import Plan
from ccflare_core.simulation.rates import Rates
from ccflare_core.simulation.recorded import read_turns
from history import NOON, History

DAY = Period(NOON - 86_400, NOON + 1)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        yield history


def fitted(past: History) -> dict[str, Plan]:
    turns = read_turns(past.store.query, Rates(PriceList()), DAY, 18_000.0, tagged=False)
    found = fit(past.store.query, turns, {"MAX-1": "max-1"}, DAY)
    return {plan.name: plan for plan in found.get("MAX-1", ())}


def serve(past: History, number: int, *, percent: float, usd: float = 0.5, name: str = "5h", since: int = 0) -> None:
    """So many requests, each of which fills the window by that much."""
    reset = NOON - NOON % 3600 + 7200
    with past.together():
        for step in range(since, since + number):
            at = NOON - 20_000 + step * 100
            past.exchange(at, output_tokens=10, cost_usd=usd, response_time_ms=2000.0, first_byte_ms=500.0)
            past.window("max-1", name, int(step * percent) / 100, reset, at=at + 3)


def test_capacity_is_what_fills_the_window(past: History) -> None:
    serve(past, 50, percent=1.25)

    plan = fitted(past)["5h"]

    assert plan.capacity == pytest.approx(40.0, rel=0.01)
    assert plan.error is not None
    assert 0 < plan.error < 0.01
    assert plan.readings == 50
    assert plan.step == 3600.0


def test_few_readings_tell_nothing(past: History) -> None:
    serve(past, FEWEST_READINGS - 1, percent=3)
    past.account("max-2")
    past.exchange(NOON - 20_000, "max-2", output_tokens=10, cost_usd=50.0)

    plan = fitted(past)["5h"]

    assert (plan.capacity, plan.is_known, plan.readings) == (None, False, FEWEST_READINGS - 1)


def test_window_that_hardly_rises_is_known_to_be_wide(past: History) -> None:
    serve(past, 100, percent=0.04, usd=0.01, name="7d")

    plan = fitted(past)["7d"]

    assert (plan.capacity, plan.is_wide, plan.is_known) == (None, True, True)


def test_readings_of_a_full_window_do_not_count(past: History) -> None:
    serve(past, 50, percent=1.25)
    before = fitted(past)["5h"].capacity
    past.exchange(NOON - 1000, output_tokens=10, cost_usd=500.0)
    past.window("max-1", "5h", 1.0, NOON - NOON % 3600 + 7200, status="rejected", at=NOON - 900)

    assert fitted(past)["5h"].capacity == before


def test_buckets_of_a_model_count_that_model_alone(past: History) -> None:
    serve(past, 50, percent=1.25, name="7d_opus")
    with past.together():
        for step in range(200):
            past.exchange(NOON - 20_000 + step * 20, model="claude-sonnet-5", output_tokens=10, cost_usd=9.0)

    assert fitted(past)["7d_opus"].capacity == pytest.approx(40.0, rel=0.01)


def test_windows_of_models_that_nobody_asks_for_are_never_full(past: History) -> None:
    serve(past, 30, percent=2, name="7d_oi")

    assert fitted(past)["7d_oi"].is_wide


def test_windows_of_another_kind_are_left_out(past: History) -> None:
    past.window("max-1", "requests", 0.5, NOON + 60)

    assert fitted(past) == {}


def test_simulation_begins_with_what_was_used_then(past: History) -> None:
    serve(past, 50, percent=1.25)
    plan = fitted(past)["5h"]

    [begun] = starting(past.store.query, [plan], "MAX-1", NOON - 17_900)
    [later] = starting(past.store.query, [plan], "MAX-1", NOON + 86_400)

    assert (begun.used, begun.resets_at) == (0.25, NOON - NOON % 3600 + 7200)
    assert (later.used, later.resets_at) == (0.0, None)
