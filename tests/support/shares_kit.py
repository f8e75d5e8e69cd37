"""Several proxies that divide the limits of one client key over a real database, on clocks of ours."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Set
from decimal import Decimal
from pathlib import Path
from typing import Any

from ccflare_core.clients.rate_limits import Moment, RateLimits
from ccflare_core.clients.shares import Shares
from ccflare_core.db.announcements import NOTHING
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import ExchangeFinished, Record
from ccflare_core.http.rejection import Rejection
from ccflare_core.store.client_usage import uses_since
from ccflare_core.store.store import Store
from ccflare_core.text import to_ms
from ccflare_mitm.sharing import Sharing
from database_kit import KEY, NOW, started
from key_kit import Key


class World:
    """One database, and a time that passes."""

    def __init__(self, path: Path, key: Key) -> None:
        self.path = path
        self.key = key
        self.now = 1000.0
        self.number = 0
        self.runner = asyncio.Runner()
        self.proxies: list[SharingProxy] = []

    def start(self, skew: float = 0.0) -> "SharingProxy":
        """One more proxy; its clock is so many seconds ahead."""
        self.number += 1
        proxy = SharingProxy(self, f"run-{self.number}", skew)
        self.proxies.append(proxy)
        return proxy

    def settle(self, seconds: float = 3.0, step: float = 0.25) -> None:
        """Let time pass for all."""
        for _ in range(round(seconds / step)):
            self.now += step
            for proxy in self.proxies:
                proxy.tick()

    def set_key(self, key: Key) -> None:
        """The key's limits change, and all hear of it."""
        self.key = key
        for proxy in self.proxies:
            proxy.rates.of_keys.take_keys([key])

    def close(self) -> None:
        """Close what is open."""
        for proxy in self.proxies:
            proxy.store.close()
        self.runner.close()


class SharingProxy:
    """One proxy, as far as limits go."""

    def __init__(self, world: World, run_id: str, skew: float) -> None:
        self.world = world
        self.run_id = run_id
        self.skew = skew
        self.is_cut = self.is_frozen = False
        self.loses_answers = self.was_cut = False
        self.calls = 0
        self.open: list[float] = []
        self.admitted = self.spent = 0
        self.unwritten: list[Record] = []
        self.store = Store.open(world.path, KEY, wall=self.wall)
        self.store.peers._clock = lambda: world.now
        self.store.runs.start(run_id, "host", world.number)
        self.rates = RateLimits(lambda _: None, Shares(lambda: world.now), clock=lambda: world.now, wall=self.wall)
        self.rates.of_keys.take_keys([world.key])
        self.rates.budgets.restore(uses_since(self.store.query, 0, but=run_id))
        self.rates.shares.begin(is_alone=self.store.shares.begin(run_id))
        caller: Any = self._call
        self.sharing = Sharing(self.rates, caller, run_id)
        self.beat_at = world.now

    def wall(self) -> float:
        return NOW + self.world.now + self.skew

    async def _call(self, function: Callable[[Store], Any], changes: Set[str] = NOTHING) -> Any:
        self.calls += 1
        if self.is_cut:
            raise StoreError("the database server cannot be reached")
        found = function(self.store)
        if self.loses_answers:
            raise StoreError("the connection was lost")
        return found

    def tick(self) -> None:
        """What goes on beside the traffic: the writer's look, its heartbeat, and a step of the sharing."""
        if self.is_frozen:
            return
        self.write()
        if not self.is_cut:
            if self.store.peers.look() is not None:
                self.sharing.met()
            if self.store.shares.look():
                self.sharing.heard()
            if self.world.now - self.beat_at >= 15:
                self.beat_at = self.world.now
                self.store.heartbeat(self.run_id)
        self.rates.shares.are_needed()
        self.rates.shares.looked_at = self.world.now
        self.world.runner.run(self.sharing.step())

    def ask(self, *, spends: bool = True) -> Rejection | None:
        """One more request; it is open if it is let in."""
        key, now = self.world.key, Moment(self.world.now, self.wall())
        if rejection := self.rates.for_key(key, now, spends=spends):
            self.rates.count_denied(key, spends=spends)
            return rejection
        self.rates.count_key(key, now, spends=spends)
        self.open.append(now.wall)
        self.admitted += 1
        return None

    def end(self, tokens: int = 0) -> None:
        """The oldest open request ends, and has used so much."""
        began, dollars = self.open.pop(0), Decimal(tokens) / 1000
        self.rates.ended(self.world.key, began, tokens, dollars)
        self.spent += tokens
        id = f"{self.run_id}-{self.admitted}-{len(self.open)}-{self.world.now}"
        start = started(id, run_id=self.run_id)._replace(client_id="k1", timestamp_ms=to_ms(began))
        used: dict[str, Any] = {"total_tokens": tokens, "output_tokens": tokens, "cost_usd": float(dollars)}
        self.unwritten += [start, ExchangeFinished(id, "ok", True, 200, **used)]
        self.write()

    def write(self) -> None:
        """Record what has ended, if the database can be reached."""
        if self.unwritten and not self.is_cut and not self.is_frozen:
            self.store.write(self.unwritten)
            self.unwritten = []

    def stop(self) -> None:
        """End in order."""
        while self.open:
            self.end()
        report = self.rates.shares.report(whole=True)
        self.store.shares.leave(self.run_id, report)
        self.store.runs.end(self.run_id)
        self.kill()

    def kill(self, *, is_seen: bool = False) -> None:
        """kill -9, which a proxy that is started on that machine sees."""
        self.world.proxies.remove(self)
        if is_seen:
            self.store.runs.end(self.run_id)
        self.store.close()

    def cap(self, window: str) -> int:
        """How much of the key's limit this proxy may use."""
        return self.rates.shares.cap(("key:k1", window)) if self.rates.shares.is_shared else 10**9


@contextlib.contextmanager
def world_of(path: Path, key: Key) -> Iterator[World]:
    """A world that is closed in the end."""
    world = World(path, key)
    with contextlib.closing(world):
        yield world
