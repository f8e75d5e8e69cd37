"""The runs of proxies on this database: which of them live, and what the dead have left open."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from peewee import Case, Database

from ccflare_core.db.models import RequestRow, RunRow, TunnelRow
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_HEARTBEAT_SECONDS = 60.0
_SURELY_SECONDS = 3600.0
"""For how long a run elsewhere was silent that is over whatever the clocks say. For others see dead_runs.py."""


class Program(NamedTuple):
    """What runs, in words: a version of ours with a mark of its files, and the versions of what it runs on."""

    version: str | None = None
    mitmproxy: str | None = None
    python: str | None = None
    worker: int | None = None
    """Which of several workers it is, from 1 on."""


UNTOLD = Program()
CRASHED: dict[Any, Any] = {RunRow.ended_at: RunRow.heartbeat_at, RunRow.state: "crashed", RunRow.running: None}
"""What is noted of a run that did not end itself."""
_ALIVE: dict[Any, Any] = {
    RunRow.ended_at: None,
    RunRow.state: Case(None, [(RunRow.state == "crashed", "serving")], RunRow.state),
}
"""What puts that right, of one that was frozen or cut off."""


class Runs:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._wall = context.wall
        self._row: dict[str, Any] = {}
        self._now = context.now
        self.current: str | None = None
        """The run that was started through this store and has not ended."""

    def start(self, run_id: str, host: str, pid: int, program: Program = UNTOLD) -> None:
        """Note that this process has begun to serve."""
        at = to_ms(self._wall())
        row = {"id": run_id, "host": host, "pid": pid, "started_at": at, "heartbeat_at": at}
        self._row = {**row, **program._asdict(), "name": host, "state": "starting", "beat_at": to_ms(self._now())}
        with self._transaction():
            RunRow.insert(self._row).execute(self._database)
        self.current = run_id

    def heartbeat(self, run_id: str) -> None:
        """Note that the run is alive, also where others have taken it for dead, or a standby has not heard of it.

        Once in 60 s is enough.
        """
        with self._transaction():
            beat = {"heartbeat_at": to_ms(self._wall()), "beat_at": to_ms(self._now())}
            is_known = update_living(self._database, run_id, beat)
            if not is_known and run_id == self.current:
                RunRow.insert(self._row | beat).execute(self._database)

    def end(self, run_id: str) -> None:
        """Note that the run is over and has closed its own exchanges."""
        over: dict[str, Any] = {"ended_at": to_ms(self._wall()), "state": "ended", "running": None, "watching": None}
        with self._transaction():
            RunRow.update(over | {"in_flight": None, "open_requests": None}).where(RunRow.id == run_id).execute(
                self._database
            )
        self.current = None

    def newest(self, host: str) -> str | None:
        """The id of the run on this host that began last, of those that have shown a sign of life of late."""
        since = to_ms(self._wall() - 3 * _HEARTBEAT_SECONDS)
        lives = RunRow.ended_at.is_null() & (RunRow.host == host) & (RunRow.heartbeat_at >= since)
        row = RunRow.select().where(lives).order_by(RunRow.started_at.desc()).bind(self._database).first()
        return None if row is None else str(row.id)

    def close_dead(self, host: str, is_alive: Callable[[int], bool], now: float | None = None) -> int:
        """Close the open exchanges of every run that is over as `crashed`; how many that were.

        A run of this host is over when its process is. One of another host is watched first, see dead_runs.py, unless
        its last sign of life is older than an hour. Should it live after all, its exchanges get their true outcome when
        they end, and its row is put right with its next sign of life.
        """
        with self._transaction():
            at = self._now() if now is None else now
            live: list[str] = []
            dead: list[str] = []
            # Not what it tells of itself, which need not be what it should be.
            columns = (RunRow.id, RunRow.host, RunRow.pid, RunRow.heartbeat_at, RunRow.beat_at)
            for run in RunRow.select(*columns).where(RunRow.ended_at.is_null()).bind(self._database):
                (live if self._is_live(run, host, is_alive, at) else dead).append(run.id)
            RunRow.update(CRASHED).where(RunRow.id.in_(dead)).execute(self._database)
            return close_open(self._database, lambda run_id: run_id.not_in(live))

    def purge(self, before: float) -> int:
        """Forget the runs that ended before (epoch seconds): what is theirs has to be gone by then. How many it was."""
        is_old = RunRow.ended_at.is_null(False) & (RunRow.ended_at < to_ms(before))
        with self._transaction():
            return int(RunRow.delete().where(is_old).execute(self._database))

    def _is_live(self, run: RunRow, host: str, is_alive: Callable[[int], bool], now: float) -> bool:
        if run.id == self.current:
            return True
        if run.host != host:
            seen = run.heartbeat_at if run.beat_at is None else run.beat_at
            return isinstance(seen, int) and now - seen / 1000 <= _SURELY_SECONDS
        # In a container every run has the same process id: another run with ours is a former one.
        return run.pid != os.getpid() and is_alive(run.pid)


def update_living(database: Database, run_id: str, columns: Mapping[str, object]) -> bool:
    """Write this into the row of a run that lives, whatever others took it for; whether there is one.

    It takes a transaction.
    """
    return bool(RunRow.update({**_ALIVE, **columns}).where(RunRow.id == run_id).execute(database))


def close_open(database: Database, is_over: Callable[[Any], Any]) -> int:
    """Close what is open of runs that are over, as `is_over` tells of a column; how many exchanges that were.

    It takes a transaction.
    """
    is_cut = TunnelRow.ended.is_null() & is_over(TunnelRow.run_id)
    TunnelRow.update({TunnelRow.ended: "the proxy died"}).where(is_cut).execute(database)
    crashed = {RequestRow.outcome: "crashed", RequestRow.success: False}
    is_open = RequestRow.outcome.is_null() & is_over(RequestRow.run_id)
    return int(RequestRow.update(crashed).where(is_open).execute(database))
