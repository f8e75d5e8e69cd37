"""What this proxy is among all on the database: its run, its name, where it listens, and what it tells of itself."""

import json
import platform
import socket
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from mitmproxy import version

from ccflare_core.accounts.peers import Peers
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.records import Record, RunTold
from ccflare_core.program import Version
from ccflare_core.reports.fields import EXCHANGE, record
from ccflare_core.reports.proxies import ANNOUNCED, DRAINING, POLLED, SERVING, STARTING
from ccflare_core.reports.running import running
from ccflare_core.store.runs import Program
from ccflare_core.text import to_ms
from ccflare_mitm.host import listener

SECONDS: Final = 1.0
"""How often it tells what has changed of what seldom does, and figures while somebody looks on elsewhere."""
FIGURES_SECONDS: Final = 15.0
"""And how often it tells figures otherwise: each time is a row written, in every proxy."""
FOLLOWED: Final = 100
"""Open requests that it tells of, those that have been open for longest."""


class OwnProxy:
    """Its name is host, port, and the number of a worker: `alpha:8080/2`; until it listens the host alone."""

    def __init__(
        self, run: str, worker: int | None = None, listens_at: Callable[[], list[str]] = listener.listens_at
    ) -> None:
        self.run = run
        self.worker = worker
        self.host = socket.gethostname()
        self.listens_at = listens_at
        """Each address that it listens at, as host and port."""

    @property
    def name(self) -> str:
        """What people call it."""
        ports = [int(address.rpartition(":")[2]) for address in self.listens_at()]
        port = f":{min(ports)}" if ports else ""
        return f"{self.host}{port}{'' if self.worker is None else f'/{self.worker}'}"

    def program(self) -> Program:
        """What runs. It reads all of our files."""
        return Program(str(Version.of()), version.VERSION, platform.python_version(), self.worker)


class Telling:
    """Writes what this proxy is and does into its run's row, as far as it has changed."""

    def __init__(
        self,
        own: OwnProxy,
        exchanges: Exchanges,
        put: Callable[[Record], None],
        *,
        is_announced: Callable[[], bool],
        is_watched: Callable[[], bool],
        lag: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        """`is_watched`: whether somebody looks on here at what goes on, in all proxies.

        `lag`: by how many seconds the event loop was late when that was last measured.
        """
        self._own = own
        self._exchanges = exchanges
        self._put = put
        self._is_announced = is_announced
        self._is_watched = is_watched
        self._lag = lag
        self._clock = clock
        self._wall = wall
        self._peers = Peers()
        self._told: dict[str, object] = {}
        self._figures_at = float("-inf")

    def meet(self, peers: Peers) -> None:
        """These are the others from now on."""
        self._peers = peers

    def tell(self) -> None:
        """Tell what has changed."""
        now = self._clock()
        standing = self._standing()
        is_asked = self._peers.look_on or self._told.get("running") is not None
        is_due = is_asked or now - self._figures_at >= FIGURES_SECONDS
        told = standing | (self._figures() if is_due else {})
        self._figures_at = now if is_due else self._figures_at
        if changed := {name: value for name, value in told.items() if self._told.get(name, self) != value}:
            self._told |= changed
            self._put(RunTold(self._own.run, changed))

    def _standing(self) -> dict[str, object]:
        """What seldom changes."""
        address = ", ".join(sorted(self._own.listens_at()))
        state = (
            DRAINING if self._exchanges.is_stopping else SERVING if address or self._told.get("address") else STARTING
        )
        changes = ANNOUNCED if self._is_announced() else POLLED
        watching = self._is_watched() and self._peers.are_there
        standing = {"state": state, "changes": changes, "watching": watching}
        return standing | ({"name": self._own.name, "address": address} if address else {})

    def _figures(self) -> dict[str, object]:
        return {"open_requests": len(self._exchanges.open), "lag_ms": to_ms(self._lag()), "running": self._running()}

    def _running(self) -> str | None:
        """What is open, while somebody looks on elsewhere."""
        if not self._peers.look_on:
            return None
        now, name = self._wall(), self._own.name
        stories = islice(self._exchanges.open.values(), FOLLOWED)
        return json.dumps([record(running(story, now, name), EXCHANGE) for story in stories])
