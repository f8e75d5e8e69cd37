"""A limit window as it is fitted to the record, and as it fills in a simulation. Pure.

What fills a window is counted in USD of list prices: they weigh a model's kinds of tokens against each other. So a
window's capacity is an amount of dollars, which nobody has to pay.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from ccflare_core.anthropic.rate_limit_headers import Window

_NAME = re.compile(r"(\d{1,4})([smhdw])(?:_([a-z]+))?")
_UNIT: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


class Span(NamedTuple):
    """What a window's name says: how long it lasts (seconds), and which model family it is for ("": all)."""

    seconds: float
    family: str

    @classmethod
    def of(cls, name: str) -> Self | None:
        """That of "5h", "7d" or "7d_opus"; None for a name of another form, such as "requests"."""
        found = _NAME.fullmatch(name)
        return cls(float(found[1]) * _UNIT[found[2]], found[3] or "") if found else None

    def counts(self, family: str) -> bool:
        """Whether a request for that family counts in it."""
        return not self.family or self.family == family


@dataclass(frozen=True, slots=True)
class Plan:
    """A limit window of an account, fitted to the record."""

    account: str
    """The account's name."""
    name: str
    span: Span
    readings: int
    capacity: float | None
    """How many USD fill it; None: the readings do not tell."""
    error: float | None = None
    """The standard error of that, as a fraction of it; None: unknown."""
    is_wide: bool = False
    """Without a capacity: whether all traffic of the record together would not have filled it."""
    phase: float | None = None
    """A moment (epoch seconds) at which it is reset, where it is reset at fixed times."""
    step: float = 1.0
    """It begins with the first use after a reset, at a whole multiple of so many seconds before that."""
    used: float = 0.0
    """How full it is when the simulation begins, as a fraction."""
    resets_at: float | None = None
    """And when that ends."""

    @property
    def is_known(self) -> bool:
        """Whether a simulation can go by it."""
        return self.capacity is not None or self.is_wide

    def end_after(self, now: float) -> float:
        """When a window ends that is first used now."""
        seconds = self.span.seconds
        if self.phase is None:
            return now - now % self.step + seconds
        return now + seconds - (now - self.phase) % seconds


class Meter:
    """How full a window of an account is."""

    __slots__ = ("_capacity", "_end", "_used", "plan")

    def __init__(self, plan: Plan, capacity: float) -> None:
        self.plan = plan
        self._capacity = capacity
        self._used = plan.used * capacity
        self._end = plan.resets_at

    def touch(self, now: float) -> None:
        """There is a request: if no window goes on, one begins."""
        if self._end is None or now >= self._end:
            self._used, self._end = 0.0, self.plan.end_after(now)

    def use(self, dollars: float, now: float) -> None:
        """So much was used."""
        self.touch(now)
        self._used += dollars

    def fraction(self, now: float) -> float:
        """How full it is."""
        return 0.0 if self._end is None or now >= self._end else self._used / self._capacity

    @property
    def resets_at(self) -> float | None:
        """When it ends; None before its first use."""
        return self._end

    def reading(self, now: float) -> Window:
        """What an answer says of it; only what is full is said to be full."""
        used = self.fraction(now)
        if used >= 1:
            return Window(self.plan.name, "rejected", used, self._end)
        return Window(self.plan.name, "allowed", int(used * 100) / 100, self._end)
