"""A client key's limits, as they are divided among several proxies: their names and their units. Pure.

Tokens and requests are counted, dollars in millionths, rounded up.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol, Self

from ccflare_core.clients.budgets import Budgeted
from ccflare_core.clients.sharing import Limit, Resource

_SCOPE = "key:"
OPEN, RATE = "open", "requests a minute"
AHEAD_SECONDS = 60.0
"""How long before a window begins its limits are divided."""
_MICRO = 1_000_000


class Limited(Budgeted, Protocol):
    """What limits a client key. None does not limit."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...


class BudgetWindow(NamedTuple):
    """A day or a month of UTC, in which tokens or dollars are counted."""

    unit: str
    period: str
    """`2027-01-15` or `2027-01`."""

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The one that was written so; None if it is none."""
        unit, _, period = text.partition("/")
        return cls(unit, period) if period else None

    @property
    def is_tokens(self) -> bool:
        """Whether it counts tokens, and no dollars."""
        return self.unit == "tokens"

    def bounds(self) -> tuple[float, float]:
        """Its beginning and its end, in epoch seconds."""
        is_month = self.period.count("-") == 1
        began = datetime.fromisoformat(self.period + ("-01" if is_month else "")).replace(tzinfo=UTC)
        until = (began + timedelta(days=31)).replace(day=1) if is_month else began + timedelta(days=1)
        return began.timestamp(), until.timestamp()

    @property
    def of(self) -> str:
        """What a person calls it."""
        return "this month" if self.period.count("-") == 1 else "today"


def scope_of(key_id: str) -> str:
    """What the limits of a client key are the limits of."""
    return _SCOPE + key_id


def key_of(scope: str) -> str:
    """The id of the client key; "" if it is something else's scope."""
    return scope.removeprefix(_SCOPE) if scope.startswith(_SCOPE) else ""


def to_micro(dollars: Decimal) -> int:
    """Millionths of a dollar, rounded up: unknown is never nothing, and neither is little."""
    return math.ceil(dollars * _MICRO)


def budgets_of(key: Limited, wall: float) -> Iterable[tuple[BudgetWindow, int]]:
    """The windows of the key's budgets at this moment, and their amounts."""
    moment = datetime.fromtimestamp(wall, UTC)
    day, month = f"{moment:%Y-%m-%d}", f"{moment:%Y-%m}"
    if key.tokens_per_day is not None:
        yield BudgetWindow("tokens", day), key.tokens_per_day
    if key.dollars_per_day is not None:
        yield BudgetWindow("dollars", day), int(key.dollars_per_day * _MICRO)
    if key.dollars_per_month is not None:
        yield BudgetWindow("dollars", month), int(key.dollars_per_month * _MICRO)


def limits_of(key: Limited, wall: float) -> Iterable[Limit]:
    """All that is to be divided of the key's limits now; near the end of a window the next one too."""
    scope = scope_of(key.id)
    if key.concurrency is not None:
        yield Limit(scope, OPEN, key.concurrency, Resource.OPEN)
    if key.requests_per_minute is not None:
        yield Limit(scope, RATE, key.requests_per_minute, Resource.RATE)
    for window, amount in {**dict(budgets_of(key, wall)), **dict(budgets_of(key, wall + AHEAD_SECONDS))}.items():
        yield Limit(scope, str(window), amount, Resource.SPEND, window.bounds()[1])
