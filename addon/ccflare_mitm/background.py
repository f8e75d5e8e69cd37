"""What runs beside the traffic: the tasks of the event loop, from the start of the proxy to its end."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NamedTuple

from mitmproxy.utils import asyncio_utils

from ccflare_core.accounts.pool import AccountPool
from ccflare_core.clients.budgets import Budgets, Use, month_start
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.memory import MemoryWatch
from ccflare_core.exchange.records import InFlightCounted, Record
from ccflare_core.reading import FileWatch
from ccflare_core.reports.anomalies import Notice
from ccflare_core.store.client_usage import batches_since, has_other_runs, uses_since
from ccflare_core.store.store import Store
from ccflare_core.writer.lookout import Look, Lookout
from ccflare_core.writer.news import StoreCalls

logger = logging.getLogger("ccflare")

ANOMALY_SECONDS = 120.0
"""How often to look for what is unusual."""
UNWANTED_SECONDS = 5.0
"""How often to ask whether this is the proxy that looks."""
STEP_SECONDS = 0.1
"""How long to pause between two steps through the past."""
MEMORY_SECONDS = 1.0
LOOP_SECONDS = 0.25
"""How often to measure how late the event loop is."""
FILE_SECONDS = 2.0
"""How often a file is looked at."""
SPENDING_SECONDS = 60.0
"""How often to ask what other proxies on the same database have used."""
LOAD_SECONDS = 1.0
"""How often to tell others what is in flight, if it has changed."""
BATCH_SECONDS = 1.0
FLUSH_SECONDS = 5.0
"""How often to look whether a batch has changed, and how long it may take to be written down."""


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


def once_done[T](call: Future[T], loop: asyncio.AbstractEventLoop, go_on: Callable[[], object], otherwise: str) -> None:
    """When a call on the store is over, go on in the event loop; if it has failed, warn that it is as `otherwise`."""

    def done(call: Future[T]) -> None:
        if error := call.exception():
            logger.warning("%s: %s", otherwise, error)
        else:
            loop.call_soon_threadsafe(go_on)

    call.add_done_callback(done)


async def watch_memory(memory: MemoryWatch, seconds: float = MEMORY_SECONDS) -> None:
    """Keep no more bodies while the process has too much memory."""
    while True:
        memory.look()
        await asyncio.sleep(seconds)


async def watch_loop(late: Callable[[float], None], seconds: float = LOOP_SECONDS) -> None:
    """Tell how late the event loop comes to a timer, in seconds: by so much all that it does is late."""
    while True:
        asked = time.monotonic() + seconds
        await asyncio.sleep(seconds)
        late(max(0.0, time.monotonic() - asked))


async def follow_file[T](watch: FileWatch[T], take: Callable[[T], object], seconds: float = FILE_SECONDS) -> None:
    """Take up what is in a file as soon as it has changed."""
    while True:
        await asyncio.sleep(seconds)
        if (found := await asyncio.to_thread(watch.look)) is not None:
            take(found)


async def follow_anomalies(
    call: StoreCalls,
    lookout: Lookout,
    is_wanted: Callable[[], bool],
    tell: Callable[[Notice], object],
    seconds: float = ANOMALY_SECONDS,
) -> None:
    """Tell of what is unusual for a client key or an account, each once over all proxies on this database."""
    while True:
        found, looks = Look([], goes_on=False), is_wanted()
        if looks:
            try:
                found = await call(lookout.step)
            except CCFlareError as error:
                logger.warning("whether anything is unusual is not known: %s", error)
        for notice in found.notices:
            tell(notice)
        await asyncio.sleep(STEP_SECONDS if found.goes_on else seconds if looks else min(seconds, UNWANTED_SECONDS))


async def publish_load(
    pool: AccountPool, put: Callable[[Record], None], run_id: str, seconds: float = LOAD_SECONDS
) -> None:
    """Have other proxies on the database know what this one has in flight, as far as there are any."""
    told: dict[str, int] = {}
    while True:
        await asyncio.sleep(seconds)
        if (load := pool.load() if pool.has_peers else {}) != told:
            put(InFlightCounted(run_id, load))
            told = load


async def tell_others(tell: Callable[[], object], seconds: float) -> None:
    """Have others know what this proxy is and does."""
    while True:
        await asyncio.sleep(seconds)
        tell()


class Spending(NamedTuple):
    """What the record has of the budgets, and which exchanges' batches are in it."""

    uses: list[Use]
    made: frozenset[str]


async def follow_spending(
    call: StoreCalls, flush: Callable[[float], bool], budgets: Budgets, run_id: str, seconds: float = SPENDING_SECONDS
) -> None:
    """Learn now and then what other proxies on this database let the client keys use, and what became of batches.

    After a change of a batch that is at once, as soon as `flush` has written it down.
    """

    def look(store: Store) -> Spending | None:
        return spending(store, run_id) if is_stale or has_other_runs(store.query, run_id) else None

    waited = 0.0
    while True:
        await asyncio.sleep(BATCH_SECONDS)
        waited += BATCH_SECONDS
        is_stale = budgets.is_stale
        if not is_stale and waited < seconds:
            continue
        waited, budgets.is_stale = 0.0, False
        try:
            is_written = not is_stale or await asyncio.to_thread(flush, FLUSH_SECONDS)
            found = await call(look)
        except CCFlareError as error:
            logger.warning("what the client keys have used is not known: %s", error)
            found, is_written = None, not is_stale
        budgets.is_stale |= not is_written
        if found is not None:
            budgets.restore(found.uses, found.made)


def spending(store: Store, run_id: str) -> Spending:
    """What the client keys have used this month, but for what this run has counted itself, and the batches of it."""
    since = month_start(time.time())  # noqa: TID251
    return Spending(uses_since(store.query, since, but=run_id), batches_since(store.query, since))
