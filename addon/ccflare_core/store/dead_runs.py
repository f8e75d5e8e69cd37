"""Ends the runs of proxies that have died, from the proxies that live: within 75 s, on the same machine within 15 s.

A run elsewhere is dead when its row has not changed for four heartbeats, by the clock of who watches it. So no clocks
have to agree. It costs a transaction only when there is one.

Two containers may have one host's name and process ids of their own. So a run whose process was not found, and which
shows a sign of life after that, is one elsewhere from then on.
"""

import os
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import RunRow
from ccflare_core.process import is_alive
from ccflare_core.store.context import StoreContext
from ccflare_core.store.runs import CRASHED, Runs, close_open

DEAD_SECONDS = 60.0


class DeadRuns:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(
        self,
        context: StoreContext,
        runs: Runs,
        *,
        clock: Callable[[], float] = time.monotonic,
        host: str = "",
        is_alive: Callable[[int], bool] = is_alive,
    ) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._runs = runs
        self._clock = clock
        self._host = host or socket.gethostname()
        self._is_alive = is_alive
        self._seen: dict[str, tuple[object, float]] = {}
        """By run: what its row said, and since when."""
        self._not_found: set[str] = set()
        """The runs that were ended because their process was not found here."""

    def close(self) -> int:
        """End the dead ones, and close their open exchanges as `crashed`; how many those were. Raises StoreError."""
        now = self._clock()
        rows = self._rows()
        self._seen = {
            id: seen if (seen := self._seen.get(id)) is not None and seen[0] == signs else (signs, now)
            for id, _, _, *signs in rows
        }
        gone = {id for id, host, pid, *_ in rows if id not in self._not_found and self._is_gone(host, pid)}
        dead = [id for id in self._seen if id in gone or now - self._seen[id][1] >= DEAD_SECONDS]
        if not dead:
            return 0
        self._not_found |= gone
        for each in dead:
            del self._seen[each]  # should it live after all, it is watched anew
        return self._end(dead)

    def _is_gone(self, host: str, pid: int) -> bool:
        return host == self._host and pid != os.getpid() and not self._is_alive(pid)

    def _rows(self) -> list[tuple[Any, ...]]:
        columns = (RunRow.id, RunRow.host, RunRow.pid, RunRow.heartbeat_at, RunRow.in_flight)
        query: Any = RunRow.select(*columns).where(RunRow.ended_at.is_null()).bind(self._database)
        with as_store_errors():
            return [row for row in query.tuples() if row[0] != self._runs.current]

    def _end(self, dead: Collection[str]) -> int:
        with self._transaction():
            is_over = RunRow.id.in_(dead) & RunRow.ended_at.is_null()
            RunRow.update(CRASHED).where(is_over).execute(self._database)
            return close_open(self._database, lambda run_id: run_id.in_(dead))
