"""How much each client may ask for: requests a minute, at once, tokens and dollars a day or a month. Pure.

Requests a minute are a bucket: so many at once, and then one more each time that it takes to refill. Days and months
are those of UTC, and an exchange belongs to the day on which it began. What it used counts once it has ended, so a
client may go over its budget by what it had open at that moment. Who is turned away here costs no account anything.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol

from ccflare_core.http.addresses import Address
from ccflare_core.http.rejection import Rejection

MINUTE = 60.0
MOST_SOURCES = 20_000
"""Addresses that are remembered. The ones that asked longest ago are forgotten first."""

SOON = 1
"""Seconds after which another try makes sense where nobody knows better."""

_IPV6_BITS = 64
"""A household has that many addresses to choose from, so they count as one."""


class Limited(Protocol):
    """What limits a client key. None does not limit."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def tokens_per_day(self) -> int | None: ...
    @property
    def dollars_per_day(self) -> Decimal | None: ...
    @property
    def dollars_per_month(self) -> Decimal | None: ...


class Moment(NamedTuple):
    """A moment on both clocks: monotonic seconds, and seconds since the epoch."""

    clock: float
    wall: float


class Use(NamedTuple):
    """What a client has used on a day. `unpriced` are exchanges with tokens whose price nobody knows."""

    client: str
    day: date
    tokens: int
    dollars: Decimal
    unpriced: int


@dataclass(slots=True)
class _Day:
    tokens: int = 0
    dollars: Decimal = field(default_factory=Decimal)
    unpriced: int = 0

    def add(self, tokens: int, dollars: Decimal, unpriced: int) -> None:
        self.tokens += tokens
        self.dollars += dollars
        self.unpriced += unpriced


class Buckets:
    """One bucket of requests for each name. `now` is in monotonic seconds."""

    def __init__(self, most: int = MOST_SOURCES) -> None:
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, name: str, per_minute: int, now: float) -> int:
        """In how many seconds there is a request to take; 0: there is one now."""
        wait = self._full_after(name, per_minute, now) - now - MINUTE
        return max(1, math.ceil(wait)) if wait > 1e-6 else 0

    def take(self, name: str, per_minute: int, now: float) -> None:
        """Take one request out."""
        self._full_at[name] = self._full_after(name, per_minute, now)
        self._full_at.move_to_end(name)
        while len(self._full_at) > self._most:
            self._full_at.popitem(last=False)

    def _full_after(self, name: str, per_minute: int, now: float) -> float:
        """When the bucket is full again, if one is taken out now."""
        return max(self._full_at.get(name, now), now) + MINUTE / per_minute


class RateLimits:
    """Rate limits and budgets. `for_address` and `for_key` decide and change nothing; `count_…` counts what was let in.

    `warn` gets sentences for the log.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._of_address = Buckets()
        self._of_key = Buckets()
        self._open: defaultdict[str, int] = defaultdict(int)
        self._elsewhere: dict[str, dict[date, _Day]] = {}
        self._here: dict[str, dict[date, _Day]] = {}

    def restore(self, uses: Iterable[Use]) -> None:
        """Count what the record has of this month and this run has not counted itself, in place of the last time."""
        self._elsewhere = {}
        for use in uses:
            _day_of(self._elsewhere, use.client, use.day).add(use.tokens, use.dollars, use.unpriced)

    def for_address(self, address: Address | None, per_minute: int, now: Moment) -> Rejection | None:
        """Why one more request from this address is not let in. 0 a minute is no limit."""
        if not per_minute or not (wait := self._of_address.wait(_source(address), per_minute, now.clock)):
            return None
        return Rejection(429, f"More than {per_minute} requests a minute came from this address.", wait)

    def count_address(self, address: Address | None, per_minute: int, now: Moment) -> None:
        """One more request from this address was let in."""
        if per_minute:
            self._of_address.take(_source(address), per_minute, now.clock)

    def for_key(self, key: Limited, now: Moment) -> Rejection | None:
        """Why one more request with this key is not let in."""
        return self._over_budget(key, now) or self._too_many(key, now)

    def count_key(self, key: Limited, now: Moment) -> None:
        """One more request with this key was let in. Call `ended` once it is over."""
        self._open[key.id] += 1
        if key.requests_per_minute is not None:
            self._of_key.take(key.id, key.requests_per_minute, now.clock)

    def _too_many(self, key: Limited, now: Moment) -> Rejection | None:
        if key.concurrency is not None and self._open.get(key.id, 0) >= key.concurrency:
            message = f"The client key {key.name} has {key.concurrency} requests open, which is all it may."
            return Rejection(429, message, SOON)
        if key.requests_per_minute is None:
            return None
        if not (wait := self._of_key.wait(key.id, key.requests_per_minute, now.clock)):
            return None
        return Rejection(429, f"The client key {key.name} may ask {key.requests_per_minute} times a minute.", wait)

    def _over_budget(self, key: Limited, moment: Moment) -> Rejection | None:
        if key.tokens_per_day is None and key.dollars_per_day is None and key.dollars_per_month is None:
            return None
        now = datetime.fromtimestamp(moment.wall, UTC)
        tomorrow = _midnight(now.date() + timedelta(days=1))
        day, month = self.used(key.id, now.date())
        unpriced = f" ({month.unpriced} exchanges without a known price come on top)" if month.unpriced else ""
        if key.tokens_per_day is not None and day.tokens >= key.tokens_per_day:
            return _spent(
                f"The client key {key.name} has used its {key.tokens_per_day} tokens of today.", now, tomorrow
            )
        if key.dollars_per_day is not None and day.dollars >= key.dollars_per_day:
            told = f"The client key {key.name} has used its ${key.dollars_per_day} of today{unpriced}."
            return _spent(told, now, tomorrow)
        if key.dollars_per_month is not None and month.dollars >= key.dollars_per_month:
            told = f"The client key {key.name} has used its ${key.dollars_per_month} of this month{unpriced}."
            return _spent(told, now, _next_month(now))
        return None

    def used(self, client: str, day: date) -> tuple[Use, Use]:
        """What this client has used on this day, and in its month."""
        today, month = _Day(), _Day()
        for source in (self._elsewhere, self._here):
            for when, each in source.get(client, {}).items():
                if (when.year, when.month) == (day.year, day.month):
                    month.add(each.tokens, each.dollars, each.unpriced)
                if when == day:
                    today.add(each.tokens, each.dollars, each.unpriced)
        return tuple(Use(client, day, each.tokens, each.dollars, each.unpriced) for each in (today, month))  # type: ignore[return-value]

    def ended(self, key: Limited, began_at: float, tokens: int | None, dollars: Decimal | None) -> None:
        """An admitted request is over: `tokens` in all (None: unknown), and their price (None: unknown)."""
        self._open[key.id] -= 1
        if self._open[key.id] <= 0:
            del self._open[key.id]
        if not tokens and dollars is None:
            return
        day = datetime.fromtimestamp(began_at, UTC).date()
        self._forget(key.id, day)
        today = _day_of(self._here, key.id, day)
        is_unpriced = dollars is None
        if is_unpriced and not today.unpriced and (key.dollars_per_day or key.dollars_per_month):
            self._warn(
                f"the client key {key.name} uses a model without a known price, which no budget in dollars sees: "
                "add it with ccflare_prices"
            )
        today.add(tokens or 0, dollars or Decimal(), is_unpriced)

    def _forget(self, client: str, today: date) -> None:
        """Drop the days of other months."""
        days = self._here.get(client, {})
        for day in [day for day in days if (today - day).days > 31]:
            del days[day]


def _day_of(days: dict[str, dict[date, _Day]], client: str, day: date) -> _Day:
    return days.setdefault(client, {}).setdefault(day, _Day())


def _source(address: Address | None) -> str:
    if address is None or address.ip.version == 4:
        return str(address)
    return f"{int(address.ip) >> (128 - _IPV6_BITS):x}"


def _spent(message: str, now: datetime, until: datetime) -> Rejection:
    return Rejection(429, message, max(1, math.ceil((until - now).total_seconds())), is_final=True)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _next_month(now: datetime) -> datetime:
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


def month_start(now: float) -> float:
    """When the month of this moment began (UTC), both in epoch seconds."""
    moment = datetime.fromtimestamp(now, UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()
