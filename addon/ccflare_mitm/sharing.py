"""Divides limits among the proxies on one database, beside the traffic: tells what is used here, learns what may be."""

import asyncio
import contextlib
import logging

from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.clients.sharing import Answer, Report
from ccflare_core.db.announcements import NOTHING
from ccflare_core.errors import CCFlareError
from ccflare_core.store.store import Store
from ccflare_core.writer.news import StoreCalls
from ccflare_mitm.background import Spending, spending

logger = logging.getLogger("ccflare")

LOOK_SECONDS = 1.0
"""How often to look whether there is something to tell."""
PAUSE_SECONDS = 0.1
"""How long at least between two transactions, so that what comes meanwhile takes one more."""
PATIENCE_SECONDS = 5.0
"""How long the database may take; after some such times this proxy is cut off from it until there is an answer."""


class Sharing:
    """See the module. A proxy that is alone does nothing here."""

    def __init__(self, rates: RateLimits, call: StoreCalls, run_id: str) -> None:
        self._rates = rates
        self._shares = rates.shares
        self._call = call
        self._run_id = run_id
        self._is_due = asyncio.Event()
        self._has_news = True
        self._shares.wake = self._is_due.set

    def met(self) -> None:
        """What is known of other proxies has changed."""
        if not self._shares.is_shared:
            self.heard()

    def heard(self) -> None:
        """Another proxy has changed its shares."""
        self._has_news = True
        self._is_due.set()

    async def run(self) -> None:
        """Divide until cancelled."""
        while True:
            self._shares.are_needed()
            self._shares.looked_at = self._shares.clock()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), LOOK_SECONDS)
            self._is_due.clear()
            await self.step()
            await asyncio.sleep(PAUSE_SECONDS)

    async def step(self) -> None:
        """Tell what there is to tell, and take up what comes back."""
        has_news, self._has_news = self._has_news, False
        try:
            if not self._shares.is_shared:
                if not has_news or not await self._call(lambda store: store.shares.has_others(self._run_id)):
                    return
                self._shares.meet()
            began, report = self._shares.clock(), self._shares.report()
            if report.lines or has_news or report.is_whole or self._shares.needs_confirmation:
                self._take_up(await self._exchange(report), report, began)
        except CCFlareError as error:
            self._has_news |= has_news
            self._shares.cut_off()
            logger.debug("limits are kept by the last shares: %s", error)

    async def _exchange(self, report: Report) -> tuple[Answer, Spending | None]:
        def exchange(store: Store) -> tuple[Answer, Spending | None]:
            answer = store.shares.exchange(self._run_id, report)
            return answer, spending(store, self._run_id) if answer.is_alone else None

        call = asyncio.ensure_future(self._call(exchange, changes=NOTHING))
        while not (await asyncio.wait([call], timeout=PATIENCE_SECONDS))[0]:
            self._shares.cut_off()
        return await call

    def _take_up(self, found: tuple[Answer, Spending | None], report: Report, began: float) -> None:
        answer, used = found
        if used is not None:  # from now on the record says what others have used
            self._rates.budgets.restore(used.uses, used.made)
        self._shares.take(answer, report, began)
        if self._shares.can_give:
            self._is_due.set()
