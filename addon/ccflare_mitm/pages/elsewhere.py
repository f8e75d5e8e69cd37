"""What is open in the other proxies on the database, as they tell it while somebody looks on, and how it ends."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ccflare_core.errors import CCFlareError
from ccflare_core.reports.fields import EXCHANGE, record
from ccflare_core.reports.proxies import running_elsewhere
from ccflare_core.reports.queries import Reports
from ccflare_core.store.store import Store
from ccflare_mitm.pages.readers import Read

logger = logging.getLogger("ccflare")

MOST: Final = 100
"""Requests that are looked for at once because they are open no more."""
GIVEN_UP_SECONDS: Final = 10.0
"""For how long the record is asked how one has ended: after that it is told as it was last known."""

type Told = dict[str, Any]
"""A request with the fields of the API."""


class Elsewhere:
    """See the module. `clock` is monotonic."""

    def __init__(
        self,
        read: Read,
        run: str,
        has_peers: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.open: Mapping[str, Told] = {}
        """What is open there now."""
        self._read = read
        self._run = run
        self._has_peers = has_peers
        self._clock = clock
        self._gone: dict[str, tuple[Told, float]] = {}
        self._closed: list[Told] = []

    async def look(self) -> None:
        """Read what there is by now. What the database refuses is read the next time."""
        if not (self._has_peers() or self.open or self._gone):
            return
        ids = list(self._gone)[:MOST]
        try:
            found, ended = await self._read(lambda store: self._found(store, ids))
        except CCFlareError as error:
            logger.debug("what goes on in other proxies is not known: %s", error)
            return
        now = self._clock()
        self._gone |= {id: (row, now) for id, row in self.open.items() if id not in found}
        self._closed += [each for each in ended if self._gone.pop(str(each["id"]), None)]
        for id, (row, since) in list(self._gone.items()):
            if now - since >= GIVEN_UP_SECONDS:
                del self._gone[id]
                self._closed.append(row)
        self.open = found

    def _found(self, store: Store, ids: Sequence[str]) -> tuple[dict[str, Told], list[Told]]:
        reports = Reports(store.query)
        rows = [row for id in ids if (row := reports.exchange(id)) is not None and row.outcome is not None]
        return running_elsewhere(store.query, self._run, store.now()), [record(row, EXCHANGE) for row in rows]

    def take_closed(self) -> list[Told]:
        """Those that have ended since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def forget(self) -> None:
        """Nobody looks on."""
        self.open, self._gone, self._closed = {}, {}, []
