"""What runs beside the traffic: the tasks of the event loop, from the start of the proxy to its end."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from mitmproxy.utils import asyncio_utils

from ccflare_core.anthropic.price_files import PriceWatch
from ccflare_core.clients.rate_limits import RateLimits, Use, month_start
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.memory import MemoryWatch
from ccflare_core.store.client_usage import has_other_runs, uses_since
from ccflare_core.store.store import Store
from ccflare_core.writer.news import StoreCalls

logger = logging.getLogger("ccflare")

MEMORY_SECONDS = 1.0
PRICES_SECONDS = 2.0
"""How often the price file is looked at."""
SPENDING_SECONDS = 60.0
"""How often to ask what other proxies on the same database have used."""


class Background:
    """Holds the tasks, so that each can be cancelled at the end."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run this until `stop`; `name` is for mitmproxy's list of tasks."""
        self._tasks.append(asyncio_utils.create_task(work, name=f"ccflare {name}", keep_ref=True))

    def stop(self) -> None:
        """Cancel all of them."""
        for task in self._tasks:
            task.cancel()


async def watch_memory(memory: MemoryWatch, seconds: float = MEMORY_SECONDS) -> None:
    """Keep no more bodies while the process has too much memory."""
    while True:
        memory.look()
        await asyncio.sleep(seconds)


async def follow_prices(prices: PriceWatch, exchanges: Exchanges, seconds: float = PRICES_SECONDS) -> None:
    """Take up new prices as soon as their file has changed."""
    while True:
        await asyncio.sleep(seconds)
        if found := await asyncio.to_thread(prices.look):
            exchanges.prices = found
            logger.info("new prices are in force, for answers that end from now on")


async def follow_spending(call: StoreCalls, rates: RateLimits, run_id: str, seconds: float = SPENDING_SECONDS) -> None:
    """Learn now and then what other proxies on this database let the client keys use."""

    def look(store: Store) -> list[Use] | None:
        return uses_elsewhere(store, run_id) if has_other_runs(store.query, run_id) else None

    while True:
        await asyncio.sleep(seconds)
        try:
            uses = await call(look)
        except CCFlareError as error:
            logger.warning("what other proxies have used is not known: %s", error)
            continue
        if uses is not None:
            rates.restore(uses)


def uses_elsewhere(store: Store, run_id: str) -> list[Use]:
    """What the client keys have used this month, but for what this run has counted itself."""
    return uses_since(store.query, month_start(time.time()), but=run_id)  # noqa: TID251
