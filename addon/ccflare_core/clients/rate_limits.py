"""How much each client may ask for: requests a minute, at once, tokens and dollars a day or a month. Pure.

Requests a minute are a bucket: so many at once, and then one more each time that it takes to refill. The budgets are
in budgets.py. Who is turned away here costs no account anything.
"""

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from ccflare_core.clients.budgets import Budgets
from ccflare_core.clients.key_limits import Limited
from ccflare_core.clients.key_shares import SOON, KeyShares
from ccflare_core.clients.shares import Shares
from ccflare_core.http.addresses import Address, source_of
from ccflare_core.http.rejection import Rejection

MINUTE = 60.0
MOST_SOURCES = 20_000
"""Addresses that are remembered. The ones that asked longest ago are forgotten first."""


class Moment(NamedTuple):
    """A moment on both clocks: monotonic seconds, and seconds since the epoch."""

    clock: float
    wall: float


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

    def level(self, name: str, per_minute: int, now: float) -> float:
        """How many requests there are to take now."""
        return max(0.0, per_minute - max(0.0, self._full_at.get(name, now) - now) * per_minute / MINUTE)

    def fill(self, name: str, per_minute: int, level: float, now: float) -> None:
        """There are so many to take now, of a bucket that refills so fast."""
        self._full_at[name] = now + (per_minute - level) * MINUTE / per_minute

    def _full_after(self, name: str, per_minute: int, now: float) -> float:
        """When the bucket is full again, if one is taken out now."""
        return max(self._full_at.get(name, now), now) + MINUTE / per_minute


class RateLimits:
    """Rate limits and budgets. `for_address` and `for_key` decide and change nothing; `count_…` counts what was let in.

    `warn` gets sentences for the log. What client keys may do is divided among the proxies on the database by `shares`.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        shares: Shares | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self.budgets = Budgets(warn)
        self.shares = shares or Shares()
        self.of_keys = KeyShares(self.shares, self, self.budgets, clock=clock, wall=wall)
        self._of_address = Buckets()
        self._of_key = Buckets()
        self._open: defaultdict[str, int] = defaultdict(int)
        self._tunnels: defaultdict[str, int] = defaultdict(int)

    def for_address(self, address: Address | None, per_minute: int, now: Moment) -> Rejection | None:
        """Why one more request from this address is not let in. 0 a minute is no limit."""
        if not per_minute or not (wait := self._of_address.wait(source_of(address), per_minute, now.clock)):
            return None
        return Rejection(429, f"More than {per_minute} requests a minute came from this address.", wait)

    def count_address(self, address: Address | None, per_minute: int, now: Moment) -> None:
        """One more request from this address was let in."""
        if per_minute:
            self._of_address.take(source_of(address), per_minute, now.clock)

    def for_key(self, key: Limited, now: Moment, *, spends: bool = True) -> Rejection | None:
        """Why one more request with this key is not let in. One that `spends` nothing needs no budget."""
        if spends and (rejection := self.budgets.spent(key, now.wall)):
            return rejection
        return self.of_keys.rejection(key, spends=spends) if self.shares.are_needed() else self._too_many(key, now)

    def count_key(self, key: Limited, now: Moment, *, spends: bool = True) -> None:
        """One more request with this key was let in. Call `ended` once it is over."""
        self._open[key.id] += 1
        if not spends:
            self._tunnels[key.id] += 1
        per_minute = key.requests_per_minute
        if self.shares.is_shared:
            per_minute = per_minute and self.of_keys.bucket_share(key)
            self.of_keys.counted(key)
        if per_minute:
            self._of_key.take(key.id, per_minute, now.clock)

    def count_denied(self, key: Limited, *, spends: bool = True) -> None:
        """One more request with this key was not let in, by its limits."""
        if self.shares.is_shared:
            self.of_keys.denied(key, spends=spends)

    def _too_many(self, key: Limited, now: Moment) -> Rejection | None:
        if key.concurrency is not None and self._open.get(key.id, 0) >= key.concurrency:
            message = f"The client key {key.name} has {key.concurrency} requests open, which is all it may."
            return Rejection(429, message, SOON)
        if key.requests_per_minute is None:
            return None
        if not (wait := self._of_key.wait(key.id, key.requests_per_minute, now.clock)):
            return None
        return Rejection(429, f"The client key {key.name} may ask {key.requests_per_minute} times a minute.", wait)

    def too_large(self, key: Limited, requests: int, tokens: int, dollars: Decimal, wall: float) -> Rejection | None:
        """Why a key may not make a batch of which that is the estimate."""
        if rejection := self.budgets.too_large(key, requests, tokens, dollars, wall):
            return rejection
        return self.of_keys.too_large(key, tokens, dollars) if self.shares.is_shared else None

    def ended(
        self, key: Limited, began_at: float, tokens: int | None, dollars: Decimal | None, *, spends: bool = True
    ) -> None:
        """An admitted request is over: `tokens` in all (None: unknown), and their price (None: unknown)."""
        for counts in (self._open,) if spends else (self._open, self._tunnels):
            counts[key.id] -= 1
            if counts[key.id] <= 0:
                del counts[key.id]
        self.budgets.add(key, began_at, tokens, dollars)
        if self.shares.is_shared:
            self.of_keys.ended(key, tokens, dollars)

    # What the shares are of

    def open_now(self, key_id: str) -> int:
        """How many requests of a key are open, tunnels too."""
        return self._open.get(key_id, 0)

    def spending_now(self, key_id: str) -> int:
        """How many of them may use some of a budget."""
        return self._open.get(key_id, 0) - self._tunnels.get(key_id, 0)

    def bucket_level(self, key_id: str, per_minute: int, now: float) -> float:
        """How many requests a key has in its bucket."""
        return self._of_key.level(key_id, per_minute, now)

    def set_bucket(self, key_id: str, per_minute: int, level: float, now: float) -> None:
        """It has so many, in one that refills so fast."""
        self._of_key.fill(key_id, per_minute, level, now)

    def bucket_wait(self, key_id: str, per_minute: int, now: float) -> int:
        """In how many seconds there is one in it; 0: there is one now."""
        return self._of_key.wait(key_id, per_minute, now)
