"""The other proxies on the database: whether there are any, and what they have in flight.

A run's row changes with every heartbeat. Each proxy notes by its own clock when it last saw a row change, so what a
dead one has left in its row counts for a short while only, and no clocks have to agree.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ccflare_core.accounts.peers import Peers
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import RunRow
from ccflare_core.http.sse import parse_json
from ccflare_core.reports.proxies import SILENT_SECONDS
from ccflare_core.store.context import StoreContext
from ccflare_core.store.runs import Runs


class StoredPeers:
    """A part of the store: it works through the store's connection."""

    def __init__(self, context: StoreContext, runs: Runs, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = context.database
        self._runs = runs
        self._clock = clock
        self._seen: dict[str, tuple[int, str | None, bool]] = {}
        self._changed_at: dict[str, float] = {}
        self._looked_at = float("-inf")
        self._told = Peers()

    def look(self) -> Peers | None:
        """What there is by now; None if it is the same as at the last call. Raises StoreError."""
        live = self.live()
        counts: Counter[str] = Counter()
        for run_id in live:
            counts.update(_counts(self._seen[run_id][1]))
        peers = Peers(bool(live), dict(counts), any(self._seen[run_id][2] for run_id in live))
        before, self._told = self._told, peers
        return None if peers == before else peers

    @property
    def are_there(self) -> bool:
        """Whether there were others at the last look."""
        return self._told.are_there

    def live(self) -> set[str]:
        """The runs of others that have shown a sign of life of late, as far as this one knows. Raises StoreError."""
        found, now = self._rows(), self._clock()
        was_away = now - self._looked_at >= SILENT_SECONDS  # then this one knows nothing of the time between
        self._looked_at = now
        for run_id, row in found.items():
            if was_away or self._seen.get(run_id) != row:
                self._changed_at[run_id] = now
        self._seen = found
        self._changed_at = {run_id: self._changed_at[run_id] for run_id in found}
        return {run_id for run_id in found if now - self._changed_at[run_id] < SILENT_SECONDS}

    def _rows(self) -> dict[str, tuple[int, str | None, bool]]:
        columns = (RunRow.id, RunRow.heartbeat_at, RunRow.in_flight, RunRow.watching)
        query: Any = RunRow.select(*columns).where(RunRow.ended_at.is_null()).bind(self._database)
        with as_store_errors():
            rows = [row for row in query.tuples() if row[0] != self._runs.current]
        return {id: (beat, counts, bool(watching)) for id, beat, counts, watching in rows}


def counts_text(counts: Mapping[str, int]) -> str | None:
    """The counts as the column has them."""
    return json.dumps(counts, separators=(",", ":"), sort_keys=True) if counts else None


def _counts(text: str | None) -> dict[str, int]:
    """What a row has; nothing of what is no count, as requests go by it."""
    told = parse_json(text.encode()) if text else None
    found = told.items() if isinstance(told, dict) else ()
    return {account_id: count for account_id, count in found if type(count) is int and count > 0}
