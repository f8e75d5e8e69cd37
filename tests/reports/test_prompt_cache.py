"""The prompt cache: its hits, and what it costs that a session moves to another account."""

from collections.abc import Iterator
from typing import Any

import pytest

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.config.location import Location
from ccflare_core.reports.prompt_cache import CacheUse, cache_uses
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import By, Period
from history import NOON, History

DAY = Period(NOON - 86_400, NOON + 0.001)


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        yield history


def turn(past: History, at: float, account: str, read: int, written: int, **more: Any) -> None:
    used = {"input_tokens": 0, "output_tokens": 1, "cache_read_input_tokens": read}
    past.exchange(at, account, **{**used, "cache_creation_input_tokens": written, **more})


def use(past: History) -> CacheUse:
    groups = Reports(past.store.query).traffic(DAY, (By.MODEL,), latencies=False, switches=True)
    return cache_uses(groups, PriceList())[0]


def test_the_hit_rate_is_the_share_that_was_read(past: History) -> None:
    turn(past, NOON - 60, "max-1", 0, 1000)
    turn(past, NOON - 30, "max-1", 1000, 0)
    turn(past, NOON - 20, "max-1", 1000, 500, input_tokens=500)

    found = use(past)

    assert (found.hit_rate, found.switches, found.rebilled_tokens, found.rebilled_usd) == (0.5, 0, 0, 0.0)


@pytest.mark.parametrize("is_added_up", [False, True])
def test_after_a_switch_the_former_prefix_is_billed_again_and_no_more(past: History, is_added_up: bool) -> None:
    start = NOON - 7200
    turn(past, start, "max-1", 90_000, 10_000)
    turn(past, start + 60, "max-2", 0, 105_000)  # 5,000 are new, so they had to be written anyhow
    turn(past, start + 90, "max-2", 105_000, 2000)
    if is_added_up:
        past.add_up()

    found = use(past)

    assert (found.switches, found.rebilled_tokens) == (1, 100_000)
    assert found.rebilled_usd == pytest.approx(0.1 * (6.25 - 0.5))


def test_an_hour_long_cache_has_its_own_price_and_life(past: History) -> None:
    turn(past, NOON - 3000, "max-1", 0, 100_000, cache_creation_1h_input_tokens=100_000)
    turn(past, NOON, "max-2", 0, 100_000, cache_creation_1h_input_tokens=100_000)

    assert use(past).rebilled_usd == pytest.approx(0.1 * (10 - 0.5))


@pytest.mark.parametrize(
    "first",
    [
        {"at": NOON - 301},
        {"session": "another"},
        {"model": "claude-haiku-4-5"},
        {"agent": "reviewer"},
        {"account": "max-2"},
        {"output_tokens": None},
    ],
)
def test_what_is_no_switch(past: History, first: dict[str, Any]) -> None:
    turn(past, **{"at": NOON - 60, "account": "max-1", "read": 0, "written": 1000, **first})
    turn(past, NOON, "max-2", 0, 1000)

    assert use(past).switches == 0


def test_a_model_without_a_price_is_told_apart(past: History) -> None:
    for at, account in ((NOON - 60, "max-1"), (NOON, "max-2")):
        turn(past, at, account, 0, 1000, model="claude-zephyr-1")

    found = use(past)

    assert (found.rebilled_tokens, found.unpriced_tokens, found.rebilled_usd) == (1000, 1000, 0.0)


HAIKU: dict[str, Any] = {"model": "claude-haiku-5-5-20260801", "cache_creation_input_tokens": None}


@pytest.mark.parametrize("is_added_up", [False, True])
def test_a_move_loses_what_the_former_account_has_thought(past: History, is_added_up: bool) -> None:
    start = NOON - 3600
    for at, account in ((0, "max-1"), (60, "max-1"), (120, "max-2"), (180, "max-2"), (2400, "max-1")):
        past.exchange(start + at, account, output_tokens=9, thinking_tokens=1_000, **HAIKU)
    if is_added_up:
        past.add_up()

    found = use(past)

    assert (found.switches, found.rebilled_tokens, found.lost_thinking_tokens) == (2, 0, 2_000 + 2_000)
    assert found.lost_thinking_usd == found.cost_usd == pytest.approx(4_000 * 0.5e-6)


@pytest.mark.parametrize(
    ("model", "lost"),
    [
        ("claude-sonnet-5-5", 500),
        ("claude-haiku-5-5", 500),
        ("claude-opus-4-8", 0),
        ("claude-haiku-4-5", 0),
        ("claude-sonnet-5", 0),
        (None, 0),
    ],
)
def test_some_models_tie_thinking_to_the_account(past: History, model: str | None, lost: int) -> None:
    for at, account in ((NOON - 60, "max-1"), (NOON, "max-2")):
        past.exchange(at, account, model=model, output_tokens=9, thinking_tokens=500)

    assert (use(past).lost_thinking_tokens, use(past).switches) == (lost, int(bool(lost)))


def test_a_move_costs_the_cache_and_the_thinking(past: History) -> None:
    more = {"model": "claude-sonnet-5-5", "thinking_tokens": 2_000}
    turn(past, NOON - 60, "max-1", 0, 100_000, **more)
    turn(past, NOON, "max-2", 0, 100_000, **more)

    found = use(past)

    assert (found.switches, found.rebilled_tokens, found.lost_thinking_tokens) == (1, 100_000, 2_000)
    assert found.cost_usd == pytest.approx(0.1 * (2.5 - 0.1) + 2_000 * 10e-6)


def test_thinking_that_was_asked_for_elsewhere_is_not_lost(past: History) -> None:
    for number, (session, agent) in enumerate((("one", None), ("two", None), ("two", "reviewer"))):
        past.exchange(NOON - 9 + number, f"max-{number}", session=session, agent=agent, output_tokens=9, **HAIKU)

    assert use(past).switches == 0
