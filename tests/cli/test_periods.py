"""Periods as people name them."""

import argparse
import time

import pytest

from ccflare_cli.periods import span
from ccflare_core.reports.traffic import Period

NOW = time.mktime((2026, 11, 15, 14, 20, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "ago"), [("90m", 5_400), ("24h", 86_400), ("7d", 7 * 86_400), ("2w", 14 * 86_400), ("999999w", NOW)]
)
def test_spans_reach_back_from_now(text: str, ago: float) -> None:
    assert span(text).moment(NOW) == NOW - ago


@pytest.mark.parametrize("text", ["2026-11-15", "2026-11-15T14:20", "2026-11-15 14:20"])
def test_dates_are_local_times(text: str) -> None:
    midnight = NOW - 14 * 3600 - 20 * 60
    assert span(text).moment(0) == (NOW if ":" in text else midnight)


@pytest.mark.parametrize(
    ("text", "hours_ago"),
    [("today", 14 + 1 / 3), ("yesterday", 38 + 1 / 3), ("09:00", 5 + 1 / 3), ("9:00", 5 + 1 / 3), ("14:20", 0)],
)
def test_days_and_times_are_the_last_ones(text: str, hours_ago: float) -> None:
    assert span(text).moment(NOW) == pytest.approx(NOW - hours_ago * 3600)
    assert not span(text).is_all


def test_a_time_that_has_not_come_yet_was_yesterday() -> None:
    assert span("14:30").moment(NOW) == NOW - 86_400 + 600
    assert span("today").moment(NOW - 14 * 3600 - 20 * 60) == NOW - 14 * 3600 - 20 * 60


def test_all_is_the_beginning_of_everything() -> None:
    assert span("all").is_all
    assert not span("7d").is_all
    assert span("all").moment(NOW) == 0


@pytest.mark.parametrize(
    "text", ["", "0d", "-1d", "7", "d", "7 d", "1000000d", "2026-13-01", "2026-02-30", "tomorrow", "24:00", "9:5"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="24h, 7d"):
        span(text)


def test_periods_end_with_the_present_millisecond_or_where_they_are_told_to() -> None:
    assert span("24h").period(NOW) == Period(NOW - 86_400, NOW + 0.001)
    assert span("7d").period(NOW, span("24h")) == Period(NOW - 7 * 86_400, NOW - 86_400)


def test_periods_have_words() -> None:
    assert span("7d").words(span("24h")) == "last 7 d until 24 h ago"
    assert span("2026-11-01").words() == "since 2026-11-01"
    assert span("yesterday").words(span("today")) == "since yesterday until today"
    assert span("09:00").words() == "since 09:00"
    assert span("all").words(span("2026-11-01")) == "ever until 2026-11-01"
