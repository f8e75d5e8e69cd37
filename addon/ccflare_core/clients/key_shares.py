"""This proxy's shares of what client keys are limited to, while there are other proxies on the database. Pure.

What a key may have open, ask in a minute and spend is decided by the share of it that this proxy holds, see shares.py.
What is in flight counts in a budget as one of the key's exchanges usually does.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from ccflare_core.clients.budgets import Budgets, Reserved
from ccflare_core.clients.key_limits import (
    AHEAD_SECONDS,
    OPEN,
    RATE,
    BudgetWindow,
    Limited,
    budgets_of,
    key_of,
    limits_of,
    scope_of,
    to_micro,
)
from ccflare_core.clients.shares import TOLERANCE, Id, Shares, User
from ccflare_core.clients.sharing import Limit, Resource
from ccflare_core.http.rejection import Rejection

SOON = 1
"""Seconds after which another try makes sense where nobody knows better."""
_MILLI = 1000
_MINUTE = 60.0


class Counters(Protocol):
    """What is open, and the buckets of requests; see rate_limits.py."""

    def open_now(self, key_id: str) -> int: ...
    def spending_now(self, key_id: str) -> int: ...
    def bucket_level(self, key_id: str, per_minute: int, now: float) -> float: ...
    def set_bucket(self, key_id: str, per_minute: int, level: float, now: float) -> None: ...
    def bucket_wait(self, key_id: str, per_minute: int, now: float) -> int: ...


class KeyShares(User):
    """See the module. To be asked while `shares.is_shared` only."""

    def __init__(
        self,
        shares: Shares,
        counters: Counters,
        budgets: Budgets,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._shares = shares
        self._counters = counters
        self._budgets = budgets
        self._clock = clock
        self._wall = wall
        self._keys: dict[str, Limited] = {}
        self._limits: tuple[Limit, ...] = ()
        self._limits_at: int | None = None
        shares.add(self)
        budgets.on_made = self._made

    def take_keys(self, keys: Iterable[Limited]) -> None:
        """These are the keys that may be used, from now on."""
        self._keys = {key.id: key for key in keys}
        self._limits_at = None

    # What a request is decided by

    def rejection(self, key: Limited, *, spends: bool) -> Rejection | None:
        """Why one more request with this key is not let in."""
        return next((found for _, found in self._lacking(key, spends=spends)), None)

    def denied(self, key: Limited, *, spends: bool) -> None:
        """One more request was not let in: the others hear of what is lacking here."""
        for limit_id, _ in self._lacking(key, spends=spends):
            self._shares.denied(limit_id)

    def _lacking(self, key: Limited, *, spends: bool) -> Iterator[tuple[Id, Rejection]]:
        scope = scope_of(key.id)
        if spends:
            yield from self._lacking_budgets(key)
        if key.concurrency is not None and self._counters.open_now(key.id) >= self._shares.cap((scope, OPEN)):
            message = f"The client key {key.name} has {key.concurrency} requests open, which is all it may."
            if self._counters.open_now(key.id) < key.concurrency:
                message = (
                    f"The client key {key.name} may have {key.concurrency} requests open, which are shared with other "
                    "proxies: this one has no more of them at the moment."
                )
            yield (scope, OPEN), Rejection(429, message, SOON)
        if key.requests_per_minute is not None:
            share = self._shares.cap((scope, RATE))
            wait = self._counters.bucket_wait(key.id, share, self._clock()) if share > 0 else SOON
            if wait:
                # Of what other proxies do not use this one has more by then.
                wait = min(wait, math.ceil(_MINUTE / key.requests_per_minute))
                message = f"The client key {key.name} may ask {key.requests_per_minute} times a minute."
                yield (scope, RATE), Rejection(429, message, wait)

    def _lacking_budgets(self, key: Limited) -> Iterator[tuple[Id, Rejection]]:
        wall, scope = self._wall(), scope_of(key.id)
        for window, amount in budgets_of(key, wall):
            used, _ = self._used(key.id, window, amount)
            limit_id = (scope, str(window))
            if used < self._shares.cap(limit_id):
                continue
            rejection = None
            if self._shares.spent_by_all(limit_id) >= amount:
                rejection = self._budgets.spent(key, wall, known=[(window.unit, window.of)])
            message = (
                f"What is left of the {window.unit} of {window.of} of the client key {key.name} is in use, by what is "
                "in flight and at other proxies."
            )
            yield limit_id, rejection or Rejection(429, message, SOON)

    def too_large(self, key: Limited, tokens: int, dollars: Decimal) -> Rejection | None:
        """Why a key may not make a batch of which that is the estimate, though there is enough left in all."""
        scope = scope_of(key.id)
        for window, amount in budgets_of(key, self._wall()):
            asked = tokens if window.is_tokens else to_micro(dollars)
            used, _ = self._used(key.id, window, amount)
            if used + asked > self._shares.cap((scope, str(window))):
                self._shares.denied((scope, str(window)), asked)
                message = f"What is left of the {window.unit} of {window.of} of the client key {key.name} is at other "
                return Rejection(429, f"{message}proxies, which have been asked for it.", SOON)
        return None

    # What has become of it

    def counted(self, key: Limited) -> None:
        """One more request was let in, and is counted."""
        scope = scope_of(key.id)
        self._shares.touch(scope)
        if key.concurrency is not None:
            self._shares.opened((scope, OPEN), self._counters.open_now(key.id))
        if key.requests_per_minute is not None:
            self._shares.asked((scope, RATE))

    def ended(self, key: Limited, tokens: int | None, dollars: Decimal | None) -> None:
        """A request that was let in is over, and used that much."""
        scope = scope_of(key.id)
        self._shares.touch(scope)
        if key.concurrency is not None:
            self._shares.released((scope, OPEN))
        for window, _ in budgets_of(key, self._wall()):
            used = (tokens or 0) if window.is_tokens else to_micro(dollars or Decimal())
            self._shares.asked((scope, str(window)), used)

    def bucket_share(self, key: Limited) -> int:
        """How many requests a minute this proxy has of the key's."""
        return self._shares.cap((scope_of(key.id), RATE))

    def _made(self, reserved: Reserved) -> None:
        """A batch that was reserved here is in the database, and counts there."""
        day = reserved.day.isoformat()
        for unit, amount in (("tokens", reserved.tokens), ("dollars", to_micro(reserved.dollars))):
            for period in (day, day[:7]):
                self._shares.gone((scope_of(reserved.client), str(BudgetWindow(unit, period))), amount)

    # What the shares are told

    def limits(self) -> tuple[Limit, ...]:
        minute = int(self._wall() // AHEAD_SECONDS)  # a day begins with one, and so does what is soon
        if minute != self._limits_at:
            found = (limit for key in self._keys.values() for limit in limits_of(key, minute * AHEAD_SECONDS))
            self._limits, self._limits_at = tuple(found), minute
        return self._limits

    def used(self, limit: Limit) -> tuple[int, int]:
        key_id = key_of(limit.scope)
        if limit.resource is Resource.OPEN:
            return self._counters.open_now(key_id), 0
        if (window := BudgetWindow.parse(limit.window)) is None:
            return 0, 0
        return self._used(key_id, window, limit.amount)

    def _used(self, key_id: str, window: BudgetWindow, amount: int) -> tuple[int, int]:
        """What this run has spent in that window or has in flight, and what it has spent."""
        here, reserved = self._budgets.used_here(key_id, window.period)
        in_flight, usual = self._counters.spending_now(key_id), self._budgets.usual(key_id)
        if window.period > f"{datetime.fromtimestamp(self._wall(), UTC):%Y-%m-%d}":  # it has not begun
            in_flight = 0
        if window.is_tokens:
            each = usual[0] if usual else max(1, amount // TOLERANCE)
            return here.tokens + reserved.tokens + in_flight * each, here.tokens
        each = to_micro(usual[1]) if usual else max(1, amount // TOLERANCE)
        spent = to_micro(here.dollars)
        return spent + to_micro(reserved.dollars) + in_flight * each, spent

    def left_of_rate(self, limit: Limit, share: int) -> int:
        if share <= 0:
            return 0
        return math.floor(self._counters.bucket_level(key_of(limit.scope), share, self._clock()) * _MILLI)

    def set_rate(self, limit: Limit, share: int, tokens: int) -> None:
        if share > 0:
            self._counters.set_bucket(key_of(limit.scope), share, tokens / _MILLI, self._clock())
