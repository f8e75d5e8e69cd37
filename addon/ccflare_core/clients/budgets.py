"""What each client key has used of its budgets: tokens and dollars of a day, dollars of a month. Pure.

Days and months are those of UTC, and an exchange belongs to the day on which it began. What it used counts once it has
ended, so a client may go over its budget by what it had open at that moment.

A batch counts as it is made, by an estimate, and for what it really took later: its state stands in the database, where
every proxy finds it. From the moment at which it is let in until the database has it, it is reserved here.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import NamedTuple, Protocol

from ccflare_core.http.rejection import Rejection
from ccflare_core.text import some

LONGEST_MONTH = 31


class Budgeted(Protocol):
    """Whose budgets: a client key. None does not limit."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def tokens_per_day(self) -> int | None: ...
    @property
    def dollars_per_day(self) -> Decimal | None: ...
    @property
    def dollars_per_month(self) -> Decimal | None: ...


class Use(NamedTuple):
    """What a client has used on a day. `unpriced` are exchanges with tokens whose price nobody knows."""

    client: str
    day: date
    tokens: int
    dollars: Decimal
    unpriced: int


class Reserved(NamedTuple):
    """What a batch of a client may take, until the database knows of it."""

    client: str
    day: date
    tokens: int
    dollars: Decimal


class _Limit(NamedTuple):
    """One of a key's budgets, and how much of it is used."""

    most: Decimal
    used: Decimal
    unit: str
    of: str
    until: datetime

    def told(self, amount: Decimal) -> str:
        """An amount of what it limits."""
        return f"{amount:f} tokens" if self.unit == "tokens" else f"${amount:f}"


@dataclass(slots=True)
class _Day:
    tokens: int = 0
    dollars: Decimal = field(default_factory=Decimal)
    unpriced: int = 0

    def add(self, tokens: int, dollars: Decimal, unpriced: int) -> None:
        self.tokens += tokens
        self.dollars += dollars
        self.unpriced += unpriced


class Budgets:
    """See the module. `warn` gets sentences for the log."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.is_stale = False
        """Whether a batch has changed, so that the database knows better than this."""
        self._warn = warn
        self._elsewhere: dict[str, dict[date, _Day]] = {}
        self._here: dict[str, dict[date, _Day]] = {}
        self._reserved: dict[str, Reserved] = {}
        self._usual: dict[str, tuple[int, Decimal]] = {}
        self.on_made: Callable[[Reserved], object] = lambda reserved: None
        """Told of what was reserved for a batch that the database has by now."""

    def restore(self, uses: Iterable[Use], made: Collection[str] = ()) -> None:
        """Count what the record has of this month and this run has not counted itself, in place of the last time.

        `made` are the exchanges whose batches are in it.
        """
        self._elsewhere = {}
        for use in uses:
            _day_of(self._elsewhere, use.client, use.day).add(use.tokens, use.dollars, use.unpriced)
        for exchange_id in made:
            if (reserved := self._reserved.pop(exchange_id, None)) is not None:
                self.on_made(reserved)

    def used_here(self, client: str, period: str) -> tuple[Use, Use]:
        """What this run has let a client use on a day or in a month, `2027-01-15`; and what it has reserved."""
        used, reserved = _Day(), _Day()
        for day, each in self._here.get(client, {}).items():
            if day.isoformat().startswith(period):
                used.add(each.tokens, each.dollars, each.unpriced)
        for batch in self._reserved.values():
            if batch.client == client and batch.day.isoformat().startswith(period):
                reserved.add(batch.tokens, batch.dollars, 0)
        day = date.min
        return tuple(Use(client, day, each.tokens, each.dollars, each.unpriced) for each in (used, reserved))  # type: ignore[return-value]

    def usual(self, client: str) -> tuple[int, Decimal] | None:
        """The tokens and dollars that one of its exchanges uses, going by the last ones; None: nobody knows."""
        return self._usual.get(client)

    def used(self, client: str, day: date) -> tuple[Use, Use]:
        """What this client has used on this day, and in its month."""
        today, month = _Day(), _Day()
        for use in self._uses_of(client):
            if (use.day.year, use.day.month) == (day.year, day.month):
                month.add(use.tokens, use.dollars, use.unpriced)
            if use.day == day:
                today.add(use.tokens, use.dollars, use.unpriced)
        return tuple(Use(client, day, each.tokens, each.dollars, each.unpriced) for each in (today, month))  # type: ignore[return-value]

    def _uses_of(self, client: str) -> Iterable[Use]:
        for source in (self._elsewhere, self._here):
            for day, each in source.get(client, {}).items():
                yield Use(client, day, each.tokens, each.dollars, each.unpriced)
        for reserved in self._reserved.values():
            if reserved.client == client:
                yield Use(*reserved, unpriced=0)

    def spent(self, key: Budgeted, wall: float, *, known: Collection[tuple[str, str]] = ()) -> Rejection | None:
        """Why a key whose budget is used up gets nothing more. `known` are others that are: ("tokens", "today")."""
        if not has_budget(key):
            return None
        now = datetime.fromtimestamp(wall, UTC)
        unpriced = self.used(key.id, now.date())[1].unpriced
        on_top = f" ({unpriced} exchanges without a known price come on top)" if unpriced else ""
        for limit in self._limits(key, now):
            if limit.used >= limit.most or (limit.unit, limit.of) in known:
                more = "" if limit.unit == "tokens" else on_top
                message = f"The client key {key.name} has used its {limit.told(limit.most)} of {limit.of}{more}."
                return _refusal(message, now, limit.until)
        return None

    def too_large(self, key: Budgeted, requests: int, tokens: int, dollars: Decimal, wall: float) -> Rejection | None:
        """Why a key may not make a batch of which that is the estimate."""
        now = datetime.fromtimestamp(wall, UTC)
        for limit in self._limits(key, now):
            asked = Decimal(tokens) if limit.unit == "tokens" else dollars
            left = max(Decimal(), limit.most - limit.used)
            if asked > left:
                message = (
                    f"This batch of {some(requests, 'request')} may take {limit.told(_readable(asked))}, by the size "
                    f"of its prompts and its max_tokens, and the client key {key.name} has "
                    f"{limit.told(_readable(left))} left of its {limit.told(limit.most)} of {limit.of}."
                )
                return _refusal(message, now, limit.until if asked <= limit.most else None)
        return None

    def _limits(self, key: Budgeted, now: datetime) -> Iterable[_Limit]:
        """Those that the key has, the one that ends first first."""
        day, month = self.used(key.id, now.date())
        tomorrow = _midnight(now.date() + timedelta(days=1))
        if key.tokens_per_day is not None:
            yield _Limit(Decimal(key.tokens_per_day), Decimal(day.tokens), "tokens", "today", tomorrow)
        if key.dollars_per_day is not None:
            yield _Limit(key.dollars_per_day, day.dollars, "dollars", "today", tomorrow)
        if key.dollars_per_month is not None:
            yield _Limit(key.dollars_per_month, month.dollars, "dollars", "this month", _next_month(now))

    def reserve(self, exchange_id: str, key: Budgeted, began_at: float, tokens: int, dollars: Decimal) -> None:
        """A batch is let in that may take so much."""
        self._reserved[exchange_id] = Reserved(key.id, _day(began_at), tokens, dollars)

    def batch_ended(self, exchange_id: str, *, may_be_made: bool) -> None:
        """An exchange about batches is over; the database has, or will have, what is true of them."""
        self.is_stale = True
        if not may_be_made:
            self._reserved.pop(exchange_id, None)

    def add(self, key: Budgeted, began_at: float, tokens: int | None, dollars: Decimal | None) -> None:
        """An exchange used that much (None: unknown)."""
        if not tokens and dollars is None:
            return
        day = _day(began_at)
        self._forget(key.id, day)
        today = _day_of(self._here, key.id, day)
        is_unpriced = dollars is None
        if is_unpriced and not today.unpriced and (key.dollars_per_day or key.dollars_per_month):
            self._warn(
                f"the client key {key.name} uses a model without a known price, which no budget in dollars sees: "
                "add it with ccflare_prices"
            )
        today.add(tokens or 0, dollars or Decimal(), is_unpriced)
        self._learn(key.id, tokens or 0, dollars or Decimal())

    def _learn(self, client: str, tokens: int, dollars: Decimal) -> None:
        of_tokens, of_dollars = self._usual.get(client, (tokens, dollars))
        # It rises faster than it falls: many may be in flight that turn out larger than the last one.
        of_tokens += math.ceil((tokens - of_tokens) / (4 if tokens > of_tokens else 32))
        of_dollars += (dollars - of_dollars) / (4 if dollars > of_dollars else 32)
        self._usual[client] = (of_tokens, of_dollars)

    def _forget(self, client: str, today: date) -> None:
        """Drop the days of other months."""
        days = self._here.get(client, {})
        for day in [day for day in days if (today - day).days > LONGEST_MONTH]:
            del days[day]
        old = [id for id, each in self._reserved.items() if (today - each.day).days > LONGEST_MONTH]
        for exchange_id in old:
            del self._reserved[exchange_id]


def has_budget(key: Budgeted) -> bool:
    """Whether what the key uses is limited."""
    return (key.tokens_per_day, key.dollars_per_day, key.dollars_per_month) != (None, None, None)


def _day_of(days: dict[str, dict[date, _Day]], client: str, day: date) -> _Day:
    return days.setdefault(client, {}).setdefault(day, _Day())


def _readable(amount: Decimal) -> Decimal:
    """An amount with four digits behind the point at most; more is rounded up."""
    return amount.quantize(Decimal("0.0001"), ROUND_UP).normalize()


def _refusal(message: str, now: datetime, until: datetime | None) -> Rejection:
    wait = None if until is None else max(1, math.ceil((until - now).total_seconds()))
    return Rejection(429, message, wait, is_final=True)


def _day(moment: float) -> date:
    return datetime.fromtimestamp(moment, UTC).date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _next_month(now: datetime) -> datetime:
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


def month_start(now: float) -> float:
    """When the month of this moment began (UTC), both in epoch seconds."""
    moment = datetime.fromtimestamp(now, UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()
