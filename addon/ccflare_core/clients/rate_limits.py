"""How much each client may ask for: requests a minute, at once, tokens and dollars a day or a month. Pure.

Requests a minute are a bucket: so many at once, and then one more each time that it takes to refill. The budgets are
in budgets.py. Who is turned away here costs no account anything.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, Protocol

from ccflare_core.clients.budgets import Budgeted, Budgets
from ccflare_core.http.addresses import Address, source_of
from ccflare_core.http.rejection import Rejection

MINUTE = 60.0
MOST_SOURCES = 20_000
"""Addresses that are remembered. The ones that asked longest ago are forgotten first."""

SOON = 1
"""Seconds after which another try makes sense where nobody knows better."""


class Limited(Budgeted, Protocol):
    """What limits a client key. None does not limit."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...


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

    def _full_after(self, name: str, per_minute: int, now: float) -> float:
        """When the bucket is full again, if one is taken out now."""
        return max(self._full_at.get(name, now), now) + MINUTE / per_minute


class RateLimits:
    """Rate limits and budgets. `for_address` and `for_key` decide and change nothing; `count_…` counts what was let in.

    `warn` gets sentences for the log.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.budgets = Budgets(warn)
        self._of_address = Buckets()
        self._of_key = Buckets()
        self._open: defaultdict[str, int] = defaultdict(int)

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
        return (self.budgets.spent(key, now.wall) if spends else None) or self._too_many(key, now)

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

    def ended(self, key: Limited, began_at: float, tokens: int | None, dollars: Decimal | None) -> None:
        """An admitted request is over: `tokens` in all (None: unknown), and their price (None: unknown)."""
        self._open[key.id] -= 1
        if self._open[key.id] <= 0:
            del self._open[key.id]
        self.budgets.add(key, began_at, tokens, dollars)
