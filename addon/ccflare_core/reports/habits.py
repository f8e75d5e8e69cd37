"""What is usual of one client key or account: how much of something on its days, and which names. Pure.

It is learned from the days of the look-back on which there was anything. So a weekend, a holiday or a job that runs
once a night do not count as days with nothing, and what is compared is never one hour of the day with another: a day's
own busiest stretch stands for it, whenever that was.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

SLOT_SECONDS = 300
SLOTS_A_DAY = 288
LOOK_BACK_DAYS = 28

_MAD_OF_NORMAL = 1.4826
"""So many median absolute deviations (MAD) are a standard deviation, where chance is normal."""
_DEVIATIONS = 4
_LEAST_SPREAD, _MOST_SPREAD = 0.25, 0.6
"""Of the logarithms. Days that are all alike (MAD 0) may be followed by one of e times as much, and even the most
uneven ones let nothing pass that is 11 times their median and half as much again as the second busiest."""
_FEW_DAYS = 3
_MARGIN = 1.5
_MOST_NAMES = 1000


class Numbers:
    """How many there were by slot (five minutes, counted since the epoch), and in the busiest stretches of each day.

    Slots are kept for a day and a half at least, and days, of UTC, for the look-back. A day without a slot, even one of
    none, is no day of use.
    """

    def __init__(self, *stretches: int) -> None:
        """The stretches, in slots, whose busiest of a day is wanted."""
        self._stretches = stretches
        self._slots: dict[int, int] = {}
        self._days: dict[int, dict[int, int]] = {}
        """By day and stretch. Days whose slots are still here are worked out when they are asked for."""
        self._today = 0

    def put(self, first: int, until: int, numbers: Mapping[int, int]) -> None:
        """Take this as all there is of the slots from `first` on and before `until`, which none is behind."""
        for slot in range(first, until):
            self._slots.pop(slot, None)
        self._slots.update(numbers)
        today = (until - 1) // SLOTS_A_DAY
        for day in range(first // SLOTS_A_DAY, today + 1):
            self._days.pop(day, None)
        if today != self._today:
            self._today = today
            self._let_go(today - 1)

    def _let_go(self, yesterday: int) -> None:
        for day in {slot // SLOTS_A_DAY for slot in self._slots} - {yesterday, self._today}:
            self._days[day] = self._busiest(day)
        self._slots = {slot: number for slot, number in self._slots.items() if slot // SLOTS_A_DAY >= yesterday}
        self._days = {day: busiest for day, busiest in self._days.items() if day >= self._today - LOOK_BACK_DAYS}

    def recent(self, stretch: int, now: int) -> int:
        """How many there were in the last slots, the one of `now` included."""
        return sum(self._slots.get(slot, 0) for slot in range(now - stretch + 1, now + 1))

    def peaks(self, stretch: int, now: int) -> list[int]:
        """How many the busiest stretch of each day had, of the days before the one of `now`."""
        yesterday = now // SLOTS_A_DAY - 1
        if yesterday not in self._days:
            self._days[yesterday] = self._busiest(yesterday)
        return [busiest[stretch] for day, busiest in self._days.items() if busiest and day <= yesterday]

    def _busiest(self, day: int) -> dict[int, int]:
        """By stretch; empty if the day is none of use."""
        begin = day * SLOTS_A_DAY
        numbers = [self._slots.get(slot) for slot in range(begin, begin + SLOTS_A_DAY)]
        if all(number is None for number in numbers):
            return {}
        counts = [number or 0 for number in numbers]
        return {stretch: _busiest(counts, stretch) for stretch in self._stretches}


def _busiest(counts: Sequence[int], stretch: int) -> int:
    """The largest sum of so many numbers in a row."""
    found = window = sum(counts[:stretch])
    for coming, going in zip(counts[stretch:], counts, strict=False):
        window += coming - going
        found = max(found, window)
    return found


def limit(peaks: Sequence[int], least: int) -> int:
    """From which number on a stretch is unusual, given those of the busiest ones on other days; never below `least`.

    Busy days are some times as busy as others, so this is about logarithms: their median and four robust standard
    deviations. What a second day has nearly had is usual, however rare: a job that runs once a week is a habit.
    """
    if len(peaks) < _FEW_DAYS:
        return max(2 * least, math.ceil(_MARGIN * max(peaks, default=0)))
    logs = [math.log1p(peak) for peak in peaks]
    center = statistics.median(logs)
    spread = _MAD_OF_NORMAL * statistics.median(abs(each - center) for each in logs)
    typical = math.expm1(center + _DEVIATIONS * min(max(spread, _LEAST_SPREAD), _MOST_SPREAD))
    return max(least, math.ceil(typical), math.ceil(_MARGIN * sorted(peaks)[-2]))


def middle(peaks: Sequence[int]) -> int:
    """Their median, for people."""
    return round(statistics.median(peaks)) if peaks else 0


class Names:
    """Which names there were within the look-back, and the first and the last slot of each."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def see(self, name: str, slot: int) -> None:
        """It was there then. Of more names than anybody has, the last ones are not looked at."""
        first, last = self._seen.get(name, (slot, slot))
        if slot - last > LOOK_BACK_DAYS * SLOTS_A_DAY:
            first = slot  # it is as good as new
        if name in self._seen or len(self._seen) < _MOST_NAMES:
            self._seen[name] = min(first, slot), max(last, slot)

    def forget(self, before: int) -> None:
        """Let go what was not seen from that slot on."""
        for name in [name for name, (_, last) in self._seen.items() if last < before]:
            del self._seen[name]

    def new(self, since: int) -> list[tuple[int, str]]:
        """The names that were first seen in that slot or later, with the slot, in order."""
        return sorted((first, name) for name, (first, _) in self._seen.items() if first >= since)

    def days_with_new(self, since: int, before: int) -> int:
        """On how many days a name was seen for the first time, from the slot `since` on and before the other's day."""
        firsts: Iterable[int] = (first for first, _ in self._seen.values() if first >= since)
        return len({first // SLOTS_A_DAY for first in firsts} - {before // SLOTS_A_DAY})
