"""Percentiles, rates, local hours and days, and the order of groups."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.reports.traffic import By, Period, Spread, Traffic, clock_of, labels, ordered, spread, stretches
from history import NOON, at_local


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_percentiles_go_by_the_nearest_rank() -> None:
    assert spread(Counter(dict.fromkeys(range(1, 101), 1))) == Spread(0.050, 0.095)


def test_one_measurement_is_both_percentiles() -> None:
    assert spread(Counter({250: 1})) == Spread(0.25, 0.25)


def test_no_measurement_is_no_percentile() -> None:
    assert spread(Counter()) == Spread(None, None)


def test_success_rate_leaves_out_what_is_open_left_or_refused() -> None:
    traffic = Traffic(requests=14, open=1, client_aborts=2, refused=1, ok=9)

    assert traffic.finished == 10
    assert traffic.success_rate == 0.9


def test_without_a_finished_request_there_is_no_success_rate() -> None:
    assert Traffic(requests=1, open=1).success_rate is None


def test_cache_hit_rate_is_a_share_of_the_whole_prompt() -> None:
    traffic = Traffic(input_tokens=10, cache_read_tokens=80, cache_creation_tokens=10)

    assert traffic.cache_hit_rate == 0.8
    assert Traffic().cache_hit_rate is None


def test_labels_are_those_of_the_hours_that_are_touched() -> None:
    assert labels(Period(at_local(24, 10, 30), at_local(24, 12)), By.HOUR) == ["2026-11-24 10:00", "2026-11-24 11:00"]
    assert labels(Period(at_local(24, 10), at_local(24, 11) + 0.001), By.HOUR)[-1] == "2026-11-24 11:00"


@pytest.mark.parametrize(
    ("hours", "step", "most"),
    [(1, By.MINUTE, 62), (2, By.MINUTE, 122), (6, By.FIVE_MINUTES, 74), (24, By.HOUR, 26), (7 * 24, By.DAY, 9)],
)
def test_a_short_period_goes_by_small_steps(hours: int, step: By, most: int) -> None:
    period = Period(NOON + 7 - 3600 * hours, NOON + 7.001)

    assert clock_of(period) is step
    assert most / 2 < len(labels(period, step)) <= most


def test_minutes_are_named_by_their_beginning() -> None:
    period = Period(at_local(24, 10, 59), at_local(24, 11, 6))

    assert labels(period, By.MINUTE)[:2] == ["2026-11-24 10:59", "2026-11-24 11:00"]
    assert labels(period, By.FIVE_MINUTES) == ["2026-11-24 10:55", "2026-11-24 11:00", "2026-11-24 11:05"]


@pytest.mark.usefixtures("berlin")
def test_the_period_is_cut_where_the_clock_is_changed() -> None:
    def midnight(day: int) -> float:
        return time.mktime((2026, 10, day, 0, 0, 0, 0, 0, -1))

    summer, winter = stretches(Period(midnight(24), midnight(27)))

    assert (summer.ahead, winter.ahead) == (7200, 3600)
    assert summer.period.until == winter.period.since == midnight(25) + 3 * 3600
    assert labels(Period(midnight(24), midnight(27)), By.DAY) == ["2026-10-24", "2026-10-25", "2026-10-26"]
    assert labels(Period(midnight(25), midnight(26)), By.HOUR).count("2026-10-25 02:00") == 1


@given(st.floats(0, 4e9), st.floats(0.001, 40 * 86_400))
def test_stretches_cover_the_period_without_a_gap(since: float, length: float) -> None:
    period = Period(since, since + length)

    parts = [part for part, _ in stretches(period)]

    assert parts[0].since == period.since
    assert parts[-1].until == period.until
    assert all(one.until == two.since for one, two in itertools.pairwise(parts))
    assert all(part.since < part.until for part in parts)


def test_groups_are_ordered_as_one_looks_for_them() -> None:
    groups = [
        Traffic(("b",), requests=1, last_at=NOON),
        Traffic((None,), requests=5, last_at=NOON - 9),
        Traffic(("a",), requests=1, last_at=NOON - 5),
    ]

    def keys(*by: By) -> list[str | None]:
        return [group.keys[0] for group in ordered(groups, by)]

    assert keys(By.MODEL) == [None, "a", "b"]
    assert keys(By.SESSION) == ["b", "a", None]
    assert keys(By.DAY) == ["a", "b", None]
    assert keys(By.MODEL, By.DAY) == ["a", "b", None]
