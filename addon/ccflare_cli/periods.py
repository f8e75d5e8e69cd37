"""Periods as people name them: `24h`, `today`, `09:00`, `2026-11-01`, `all`."""

import argparse
import re
import time
from typing import NamedTuple

from ccflare_core.reports.traffic import Period

_UNIT = {"m": (60, "min"), "h": (3600, "h"), "d": (86_400, "d"), "w": (7 * 86_400, "weeks")}
WHEN = "24h, 7d, 30m, 2w, today, yesterday, 09:00, a date such as 2026-11-01"
"""What may be said, for helps."""
_DAYS = {"today": 0, "yesterday": 1}
_EARLIEST = 0.0


class Since(NamedTuple):
    """Where a period begins: so many seconds ago, at a time of a day, or at a moment.

    The clock is the console's, so not asked here.
    """

    label: str
    ago: float | None = None
    at: float = _EARLIEST
    days_ago: int | None = None
    """With a `clock`, the day before counts if that has not come yet today."""
    clock: tuple[int, int] = (0, 0)

    @property
    def is_all(self) -> bool:
        """Whether it is the beginning of everything."""
        return self.ago is None and self.days_ago is None and self.at == _EARLIEST

    def moment(self, now: float) -> float:
        """That time, in seconds since the epoch."""
        if self.days_ago is not None:
            today = self._at_clock(now, self.days_ago)
            return today if today <= now else self._at_clock(now, self.days_ago + 1)
        return self.at if self.ago is None else max(now - self.ago, _EARLIEST)

    def _at_clock(self, now: float, days_ago: int) -> float:
        there = time.localtime(now)
        return time.mktime((there.tm_year, there.tm_mon, there.tm_mday - days_ago, *self.clock, 0, 0, 0, -1))

    def period(self, now: float, until: "Since | None" = None) -> Period:
        """From there until the other one; without one, to the present millisecond, which is a part of it."""
        return Period(self.moment(now), until.moment(now) if until else now + 0.001)

    def words(self, until: "Since | None" = None) -> str:
        """The period for a title: `last 24 h`, `since 2026-11-01 until 2026-11-08`."""
        return f"{self.label} until {until.end}" if until else self.label

    @property
    def end(self) -> str:
        """The same as the end of a period: `2026-11-08`, `24 h ago`."""
        return f"{self.label.removeprefix('last ')} ago" if self.ago is not None else self.label.removeprefix("since ")


def span(text: str) -> Since:
    """An argparse type for a beginning, or an end."""
    if text == "all":
        return Since("ever")
    if text in _DAYS:
        return Since(f"since {text}", days_ago=_DAYS[text])
    if match := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text):
        return Since(f"since {text}", days_ago=0, clock=(int(match[1]), int(match[2])))
    if match := re.fullmatch(r"([1-9]\d{0,5})([mhdw])", text):
        seconds, unit = _UNIT[match[2]]
        return Since(f"last {match[1]} {unit}", ago=float(int(match[1]) * seconds))
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
        try:
            return Since(f"since {text}", at=time.mktime(time.strptime(text, form)))
        except (ValueError, OverflowError):
            continue
    raise argparse.ArgumentTypeError(f"give one of {WHEN}, or all")
