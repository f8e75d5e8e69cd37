"""Times and durations, for people and for programs."""

import time
from collections.abc import Iterator

import pytest

from ccflare_core.text import iso, local_time, some, span

NOW = 1_800_000_000.0  # Friday, 2027-01-15 08:00:00 UTC


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone that is not UTC: there it is 09:00."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("moment", "text"),
    [(None, None), (0.9, "1970-01-01T00:00:00Z"), (NOW, "2027-01-15T08:00:00Z"), (NOW + 0.999, "2027-01-15T08:00:00Z")],
)
def test_programs_are_told_times_in_utc(moment: float | None, text: str | None) -> None:
    assert iso(moment) == text


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (119, "09:01:59"),
        (-5, "08:59:55"),
        (120, "09:02"),
        (14 * 3600, "23:00"),
        (16 * 3600, "Sat 01:00"),
        (6 * 86_400, "Thu 21 Jan 09:00"),
    ],
)
def test_people_are_told_local_times_as_short_as_can_be(ahead: float, text: str) -> None:
    assert local_time(NOW + ahead, NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (1500, "25 min"),
        (3600, "1 h"),
        (6 * 3600, "6 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (72 * 3600, "3 days"),
    ],
)
def test_spans_have_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1204, "entry", "1,204 entries"),
        (2, "key", "2 keys"),
        (2, "address", "2 addresses"),
        (1, "address", "1 address"),
    ],
)
def test_some_is_one_or_many(number: int, noun: str, text: str) -> None:
    assert some(number, noun) == text
