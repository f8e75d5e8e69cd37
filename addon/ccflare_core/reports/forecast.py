"""When a limit window will be full, judged by its last two hours. Pure.

The pace is the median of the slopes between all pairs of readings (Theil and Sen's estimate): a few odd readings do not
change it. Readings are only kept when they have moved by a percent, so the present is one more, equal to the last.
"""

import itertools
import statistics
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

LOOK_BACK_SECONDS = 7200.0
_SHORTEST_SECONDS = 300.0
_MOST_READINGS = 60


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
    """`full_at` is only known of what FILLS. `pace` is in fractions an hour."""

    course: Course
    utilization: float
    resets_at: float | None
    pace: float | None = None
    full_at: float | None = None


def forecast(readings: Sequence[Reading], now: float) -> Forecast | None:
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
    if full_at is None or (last.resets_at is not None and full_at >= last.resets_at):
        return Forecast(Course.HOLDS, last.utilization, last.resets_at, slope * 3600)
    return Forecast(Course.FILLS, last.utilization, last.resets_at, slope * 3600, full_at)


def _since_reset(readings: Sequence[Reading]) -> Sequence[Reading]:
    """The readings from the last one on that is lower than the one before it: then the window was reset."""
    drops = [
        index for index, (one, two) in enumerate(itertools.pairwise(readings)) if two.utilization < one.utilization
    ]
    return readings[drops[-1] + 1 :] if drops else readings


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """The median slope, a second; None if the points are too few or too close together."""
    if len(points) < 3 or points[-1][0] - points[0][0] < _SHORTEST_SECONDS:
        return None
    some = points[:: -(-len(points) // _MOST_READINGS)]
    slopes = [(two[1] - one[1]) / (two[0] - one[0]) for one, two in itertools.combinations(some, 2) if two[0] > one[0]]
    return statistics.median(slopes) if slopes else None
