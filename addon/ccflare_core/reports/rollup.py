"""Adds up the past once: fills `usage_slots` with the figures of each quarter of an hour that is over.

Triggers note in `usage_todo` the slot of every request that is added, changed or deleted, by any process, so
nothing that changes requests has to know of the sums. A slot that is noted is read request by request (tally.py)
until it is added up again here, some time after its end.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from peewee import Database

from ccflare_core.db.models import UsageSlotRow
from ccflare_core.db.statements import Insert
from ccflare_core.reports.measures import BOUNDS, DIMENSIONS, DURATIONS, SLOT_MS, SUMS, SWITCHES, pack
from ccflare_core.reports.tally import Key, Query, Span, Split, Tally
from ccflare_core.text import to_ms

_AGE_MS = 2 * SLOT_MS
"""How long after its beginning a slot is added up: most of its requests have ended then."""
_MOST_SLOTS = 64
_QUICK_SECONDS, _SLOW_SECONDS = 0.01, 0.03

_SPLIT = Split(DIMENSIONS, unit_ms=SLOT_MS)
_MEASURED = (*SUMS, *BOUNDS)
_COLUMNS = ("slot", *DIMENSIONS, *_MEASURED, *SWITCHES, *DURATIONS)


class Rollup:
    """The sums of one database, kept by the thread that writes to it."""

    def __init__(
        self,
        database: Database,
        query: Query,
        transaction: Callable[[], AbstractContextManager[None]],
        *,
        wall: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._query = query
        self._transaction = transaction
        self._wall = wall
        self._clock = clock
        self._tally = Tally(query)
        self._insert = Insert(database, UsageSlotRow, [getattr(UsageSlotRow, name) for name in _COLUMNS])
        self._most = 1

    def step(self) -> bool:
        """Add up some slots, in about 20 ms; whether more of them wait. Raises StoreError."""
        began = self._clock()
        if not self._due():
            return False  # asked without the lock, which others may hold
        with self._transaction():
            due = self._due()
            for run in _runs(due[: self._most]):
                self._add_up(run)
        took = self._clock() - began
        self._most = min(2 * self._most, _MOST_SLOTS) if took < _QUICK_SECONDS else self._most
        self._most = max(self._most // 2, 1) if took > _SLOW_SECONDS else self._most
        return bool(self._due())

    def _due(self) -> list[int]:
        sql = "SELECT slot FROM usage_todo WHERE slot <= ? ORDER BY slot LIMIT ?"
        return [slot for (slot,) in self._query(sql, ((to_ms(self._wall()) - _AGE_MS) // SLOT_MS, _MOST_SLOTS))]

    def _add_up(self, run: Span) -> None:
        for table in ("usage_slots", "usage_todo"):
            self._query(f"DELETE FROM {table} WHERE slot >= ? AND slot < ?", run)  # noqa: S608
        self._insert.run(self._rows(Span(run.since * SLOT_MS, run.until * SLOT_MS)))

    def _rows(self, span: Span) -> list[Sequence[Any]]:
        codes = {name: self._codes(span, name) for name in DURATIONS}
        width = _SPLIT.width
        switches = {tuple(row[:width]): row[width:] for row in self._tally.switched(span, _SPLIT)}
        rows: list[Sequence[Any]] = []
        for row in self._tally.summed(span, _SPLIT):
            key = tuple(row[:width])
            packed = [pack(codes[name].get(key, ())) for name in DURATIONS]
            rows.append(
                (*key, *(value or 0 for value in row[width:]), *switches.get(key, (0,) * len(SWITCHES)), *packed)
            )
        return rows

    def _codes(self, span: Span, name: str) -> dict[Key, list[tuple[int, int]]]:
        found: dict[Key, list[tuple[int, int]]] = defaultdict(list)
        for *key, value, number in self._tally.coded(span, _SPLIT, name):
            found[tuple(key)].append((value, number))
        return found


def _runs(slots: Sequence[int]) -> list[Span]:
    """Slots that follow each other as spans."""
    found: list[Span] = []
    for slot in slots:
        if found and found[-1].until == slot:
            found[-1] = Span(found[-1].since, slot + 1)
        else:
            found.append(Span(slot, slot + 1))
    return found
