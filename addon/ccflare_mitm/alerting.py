"""Tells people what they should hear of at once: looks now and then, logs, and hands it to webhook and command."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ccflare_core.clients.authentication import KeyRing
from ccflare_core.clients.budgets import Budgets
from ccflare_core.config.record_mode import Mode
from ccflare_core.errors import CCFlareError
from ccflare_core.reports.alerts import Alert, Condition, of_notice
from ccflare_core.reports.anomalies import Notice
from ccflare_core.writer.alarms import Alarms
from ccflare_core.writer.auditor import Auditor
from ccflare_core.writer.delivery import Sink, Undelivered
from ccflare_core.writer.news import StoreCalls
from ccflare_core.writer.retention import Retention

logger = logging.getLogger("ccflare")

LOOK_SECONDS = 30.0
MOST_WAITING = 100
_LESS = {Mode.METADATA: "no bodies are kept", Mode.OFF: "nothing is recorded"}


class LocalConditions:
    """What only this process knows: spent budgets, lack of room, an audit log that cannot be written."""

    def __init__(
        self,
        budgets: Budgets,
        retention: Retention,
        auditor: Auditor,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._budgets = budgets
        self._retention = retention
        self._auditor = auditor
        self._wall = wall
        self._ring: KeyRing | None = None

    def take_keys(self, ring: KeyRing) -> None:
        """These are the client keys from now on."""
        self._ring = ring

    def __call__(self) -> Iterator[Condition]:
        """Those that hold now."""
        host, now = socket.gethostname(), self._wall()
        if (most := self._retention.allowed(Mode.FULL)) is not Mode.FULL:
            yield Condition("disk", host, host, f"there is too little room for the record, so {_LESS[most]}")
        if self._auditor.is_failing:
            yield Condition("audit", host, host, "the audit log cannot be written: see the proxy's log")
        for key in self._ring.keys.values() if self._ring else ():
            if key.is_valid(now) and (spent := self._budgets.spent(key, now)):
                what = spent.message.removeprefix(f"The client key {key.name} ").removesuffix(".")
                yield Condition("budget", key.id, key.name, what)


class Alerting:
    """Two tasks: `look`, and `deliver`, which nothing but the queue connects, so that a slow webhook delays no look."""

    def __init__(
        self,
        call: StoreCalls,
        alarms: Alarms,
        local: Callable[[], Iterable[Condition]],
        sinks: Sequence[Sink],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._call = call
        self._alarms = alarms
        self._local = local
        self._sinks = sinks
        self._seconds = seconds
        self._waiting = asyncio.Queue[Alert](MOST_WAITING)
        self._noticed: list[Condition] = []

    def notice(self, notice: Notice) -> None:
        """Log something unusual, and tell it with the next look."""
        logger.warning("unusual: %s", notice.text)
        self._noticed.append(of_notice(notice))

    async def look(self) -> None:
        """Tell what begins and what is over, until cancelled."""
        while True:
            for alert in await self._find():
                self._tell(alert)
            await asyncio.sleep(self._seconds)

    async def _find(self) -> list[Alert]:
        local = [*self._local(), *self._noticed]
        self._noticed = []
        try:
            return await self._call(lambda store: self._alarms.step(store, local))
        except CCFlareError as error:
            logger.warning("not all alerts can be told: %s", error)
            return self._alarms.alone(local)

    def _tell(self, alert: Alert) -> None:
        if not alert.cause.startswith("anomaly."):  # those are in the log already
            logger.warning("alert %s: %s", alert.cause, alert.text)
        if not self._sinks:
            return
        try:
            self._waiting.put_nowait(alert)
        except asyncio.QueueFull:
            logger.warning("an alert is left out, for %d wait already: %s", MOST_WAITING, alert.text)

    async def deliver(self) -> None:
        """Hand on what is told, one after the other, until cancelled."""
        while True:
            alert = await self._waiting.get()
            for sink in self._sinks:
                try:
                    await sink(alert)
                except Undelivered as error:
                    logger.warning("an alert was not delivered: %s", error)
