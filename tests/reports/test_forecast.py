"""When a limit window will be full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.reports.figures import foretell_end
from ccflare_core.reports.forecast import Course, Reading, forecast
from history import NOON

RESET = NOON + 3 * 3600


def readings(*points: tuple[float, float], resets_at: float | None = RESET) -> list[Reading]:
    """Readings at so many minutes before noon."""
    return [Reading(NOON - 60 * minutes, used, resets_at) for minutes, used in points]


def test_a_steady_rise_is_continued() -> None:
    found = forecast(readings((60, 0.2), (45, 0.3), (30, 0.4), (15, 0.5), (0, 0.6)), NOON)

    assert found is not None
    assert found.course is Course.FILLS
    assert found.pace == pytest.approx(0.4)
    assert found.full_at == pytest.approx(NOON + 3600)


def test_a_few_odd_readings_change_little() -> None:
    steady = [(float(minutes), 0.6 - minutes / 150) for minutes in range(60, -1, -5)]
    odd = [(minutes, 0.9 if minutes == 30 else used) for minutes, used in steady]

    expected, found = forecast(readings(*steady), NOON), forecast(readings(*odd[7:]), NOON)

    assert expected is not None
    assert found is not None
    assert found.full_at == pytest.approx(expected.full_at, abs=60)


def test_a_slow_rise_is_not_full_before_the_reset() -> None:
    found = forecast(readings((100, 0.10), (50, 0.11), (0, 0.12)), NOON)

    assert found is not None
    assert (found.course, found.full_at) == (Course.HOLDS, None)


def test_standing_still_since_is_a_part_of_the_pace() -> None:
    found = forecast(readings((110, 0.2), (105, 0.3), (100, 0.4)), NOON)

    assert found is not None
    assert found.pace is not None
    assert found.pace < 1.2


def test_what_was_before_a_reset_does_not_count() -> None:
    found = forecast(readings((90, 0.9), (80, 1.0), (40, 0.0), (20, 0.1), (0, 0.2)), NOON)

    assert found is not None
    assert found.pace == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("points", "resets_at", "course"),
    [
        ([(1, 0.5)], RESET, Course.UNKNOWN),
        ([(3, 0.5), (2, 0.6), (1, 0.7)], RESET, Course.UNKNOWN),
        ([(1, 1.02)], RESET, Course.SPENT),
        ([(90, 0.8)], NOON - 60, Course.EMPTY),
        ([(60, 0.4), (30, 0.5), (0, 0.6)], None, Course.FILLS),
    ],
)
def test_other_courses(points: list[tuple[float, float]], resets_at: float | None, course: Course) -> None:
    found = forecast(readings(*points, resets_at=resets_at), NOON)

    assert found is not None
    assert found.course is course


def test_nothing_is_foretold_without_a_reading() -> None:
    assert forecast([], NOON) is None


FILLING = ((60.0, 0.2), (40.0, 0.4), (20.0, 0.6), (0.0, 0.8))


@pytest.mark.parametrize(("turns", "left"), [(4, None), (5, 1.6666), (12, 4), (3600, 1200)])
def test_what_is_left_is_told_in_turns_once_there_were_enough(turns: int, left: float | None) -> None:
    found = forecast(readings(*FILLING), NOON, lambda since, until: turns)

    assert found is not None
    assert found.turns_left == (left if left is None else pytest.approx(left, abs=1e-3))


def test_turns_are_counted_between_the_readings_since_the_last_reset() -> None:
    asked = []

    def turns(since: float, until: float) -> int:
        asked.append((NOON - since, NOON - until))
        return 9

    forecast(readings((90, 0.9), (60, 0.1), (30, 0.2), (9, 0.3)), NOON, turns)
    assert asked == [(3600, 540)]
    for few in ((30, 0.2), (9, 0.3)), ((60, 0.2), (30, 0.2), (9, 0.2)):
        forecast(readings(*few), NOON, turns)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (0, "full at 12:20"),
        (12, "full at 12:20, about 4 turns left"),
        (6, "full at 12:20, about 2 turns left"),
        (3737, "full at 12:20, about 1,200 turns left"),
    ],
)
def test_the_end_is_told_with_the_turns_that_are_left(turns: int, words: str) -> None:
    assert foretell_end(forecast(readings(*FILLING), NOON, lambda *_: turns), NOON) == words


def test_what_does_not_fill_has_no_end() -> None:
    holds = forecast(readings((100, 0.10), (50, 0.11), (0, 0.12)), NOON, lambda *_: 99)
    assert [foretell_end(found, NOON) for found in (None, holds)] == ["", ""]


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1.2)), min_size=1, max_size=200))
def test_it_always_has_an_answer(points: list[tuple[float, float]]) -> None:
    found = forecast(readings(*sorted(points, reverse=True)), NOON)

    assert found is not None
    assert found.full_at is None or NOON <= found.full_at < RESET
