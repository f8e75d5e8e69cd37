"""Looks for what is unusual in the record, little by little: first through the past, then at what comes.

It works in the writer's thread and reads. What it has learned it keeps in memory: after a restart it learns it again.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from ccflare_core.reports.anomalies import PRESENT_SLOTS, Anomalies, Notice, slot_of
from ccflare_core.reports.habits import LOOK_BACK_DAYS, SLOTS_A_DAY
from ccflare_core.reports.observed import first_requests, observed
from ccflare_core.store.store import Store

_QUICK_SECONDS, _SLOW_SECONDS = 0.02, 0.05
_FEWEST_SLOTS = 24


class Look(NamedTuple):
    """What one step has found, and whether there is more of the past to be read at once."""

    notices: list[Notice]
    goes_on: bool


class Lookout:
    """The notices of one database, as one proxy finds them."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,  # noqa: TID251
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`wall` gives epoch seconds; `clock` measures how long a step takes."""
        self._wall = wall
        self._clock = clock
        self._anomalies = Anomalies()
        self._read_until = 0
        self._most = _FEWEST_SLOTS

    def step(self, store: Store) -> Look:
        """Read some slots, in 50 ms at most, and judge once the present is read. New notices are stored.

        Raises StoreError or VaultError; what was found then is found again the next time.
        """
        now, began = self._wall(), self._clock()
        present = slot_of(now) + 1
        since = max(min(self._read_until, present - PRESENT_SLOTS), present - LOOK_BACK_DAYS * SLOTS_A_DAY)
        until = min(since + self._most, present)
        self._read(store, since, until)
        took = self._clock() - began
        self._most = min(2 * self._most, SLOTS_A_DAY) if took < _QUICK_SECONDS else self._most
        self._most = max(self._most // 2, _FEWEST_SLOTS) if took > _SLOW_SECONDS else self._most
        return Look([], goes_on=True) if until < present else Look(self._judge(store, now), goes_on=False)

    def _read(self, store: Store, since: int, until: int) -> None:
        seen, events = observed(store.query, since, until)
        firsts = first_requests(store.query, self._anomalies.unknown(seen))
        self._anomalies.take(since, until, seen, events, firsts)
        self._read_until = until

    def _judge(self, store: Store, now: float) -> list[Notice]:
        names = dict(store.query("SELECT id, name FROM client_keys"))
        return [notice for notice in self._anomalies.notices(now, names) if store.notices.keep(notice)]
