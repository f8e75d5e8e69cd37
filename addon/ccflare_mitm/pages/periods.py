"""The times that a page can be asked for, as `?since=`."""

from typing import NamedTuple

from ccflare_core.reports.traffic import By, Period, clock_of
from ccflare_mitm.pages.visit import BadQuery, Visit


class Choice(NamedTuple):
    """One of them, in words and as a link has it."""

    value: str
    words: str
    seconds: float


CHOICES = (
    Choice("1h", "1 hour", 3600),
    Choice("6h", "6 hours", 6 * 3600),
    Choice("24h", "24 hours", 86_400),
    Choice("7d", "7 days", 7 * 86_400),
    Choice("30d", "30 days", 30 * 86_400),
)


class Asked(NamedTuple):
    """The period that was asked for."""

    choice: Choice
    period: Period

    @property
    def clock(self) -> By:
        """By what it is split along time."""
        return clock_of(self.period)


def asked(visit: Visit, default: str = "24h") -> Asked:
    """What `?since=` says. Raises BadQuery."""
    value = visit.asked("since") or default
    choice = next((each for each in CHOICES if each.value == value), None)
    if choice is None:
        raise BadQuery(f"since is one of {', '.join(each.value for each in CHOICES)}.")
    return Asked(choice, Period(visit.at - choice.seconds, visit.at + 0.001))
