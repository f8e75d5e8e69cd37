"""When a limit window will be full, judged by its last two hours. Pure.

The pace is the median of the slopes between all pairs of readings (Theil and Sen's estimate): a few odd readings do not
change it. Readings are only kept when they have moved by a percent, so the present is one more, equal to the last.

How many turns are left goes by what the turns between the first and the last of these readings have used on average.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

LOOK_BACK_SECONDS = 7200.0
_SHORTEST_SECONDS = 300.0
_MOST_READINGS = 60
_FEWEST_READINGS, _FEWEST_TURNS = 3, 5

type Turns = Callable[[float, float], int]
"""How many requests the account has answered from one time up to, not including, another."""


def no_turns(_since: float, _until: float) -> int:
    """That of a record without requests."""
    return 0


class Reading(NamedTuple):
    """How full a window was (a fraction) at a time (epoch seconds), and when it is empty again."""

    at: float
    utilization: float
    resets_at: float | None


class Course(StrEnum):
    """What is to be expected of a window."""

    SPENT = "spent"
    FILLS = "fills"
    """It is full before its reset."""
    HOLDS = "holds"
    """It is not."""
    UNKNOWN = "unknown"
    """There are too few readings since its last reset."""
    EMPTY = "empty"
    """It has been reset and not used since."""


class Forecast(NamedTuple):
    """`full_at` is only known of what FILLS. `pace` is in fractions an hour; `turns_left` go into what is left."""

    course: Course
    utilization: float
    resets_at: float | None
    pace: float | None = None
    full_at: float | None = None
    turns_left: float | None = None


def forecast(readings: Sequence[Reading], now: float, turns: Turns = no_turns) -> Forecast | None:
    """What the readings, oldest first, let expect; None without any."""
    if not readings:
        return None
    last = readings[-1]
    if last.resets_at is not None and last.resets_at <= now:
        return Forecast(Course.EMPTY, 0.0, None)
    if last.utilization >= 1:
        return Forecast(Course.SPENT, last.utilization, last.resets_at)
    recent = _since_reset([reading for reading in readings if reading.at >= now - LOOK_BACK_SECONDS])
    slope = _slope([*((reading.at, reading.utilization) for reading in recent), (now, last.utilization)])
    if slope is None:
        return Forecast(Course.UNKNOWN, last.utilization, last.resets_at)
    full_at = now + (1 - last.utilization) / slope if slope > 0 else None
    is_early = full_at is not None and (last.resets_at is None or full_at < last.resets_at)
    return Forecast(
        Course.FILLS if is_early else Course.HOLDS,
        last.utilization,
        last.resets_at,
        slope * 3600,
        full_at if is_early else None,
        _turns_left(recent, turns),
    )


def _turns_left(recent: Sequence[Reading], turns: Turns) -> float | None:
    """How many turns like those between these readings the window still takes; None if there were too few."""
    if len(recent) < _FEWEST_READINGS:
        return None
    first, last = recent[0], recent[-1]
    used = last.utilization - first.utilization
    number = turns(first.at, last.at) if used > 0 else 0
    return (1 - last.utilization) * number / used if number >= _FEWEST_TURNS else None


def _since_reset(readings: Sequence[Reading]) -> Sequence[Reading]:
    """The readings from the last one on that is lower than the one before it: then the window was reset."""
    drops = [
        index for index, (one, two) in enumerate(itertools.pairwise(readings)) if two.utilization < one.utilization
    ]
    return readings[drops[-1] + 1 :] if drops else readings


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """The median slope, a second; None if the points are too few or too close together."""
    if len(points) < _FEWEST_READINGS or points[-1][0] - points[0][0] < _SHORTEST_SECONDS:
        return None
    some = points[:: -(-len(points) // _MOST_READINGS)]
    slopes = [(two[1] - one[1]) / (two[0] - one[0]) for one, two in itertools.combinations(some, 2) if two[0] > one[0]]
    return statistics.median(slopes) if slopes else None
