"""The page that Prometheus reads: figures of this process, or of all workers, and what the database has."""

import asyncio

from ccflare_core.anthropic.answers import SECURITY, Answer
from ccflare_core.errors import CCFlareError
from ccflare_core.reports.exposition import exposition
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.reports.metrics import Family, of_forecasts, of_proxies
from ccflare_core.reports.proxies import proxies
from ccflare_core.store.store import Store
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.visit import Visit

READ_SECONDS = 3.0
"""How long the database may take: Prometheus itself waits for ten seconds, and without these the rest still counts.
"""


async def show_metrics(admin: Admin, visit: Visit) -> Answer:
    """All families. Raises NotInstalled without the library that writes them."""
    stored = await _stored(admin, visit.at)
    page = exposition([*await admin.fellows.all_families(admin.monitor.families()), *stored])
    length = b"%d" % len(page.text)
    headers = ((b"content-type", page.content_type.encode()), (b"content-length", length), *SECURITY)
    return Answer(200, headers, page.text, "")


async def _stored(admin: Admin, now: float) -> list[Family]:
    """What the database has; nothing if it does not answer in time."""

    def read(store: Store) -> list[Family]:
        at = store.now()
        forecasts = LimitHistory(store.query).forecasts(now)
        return [*of_forecasts(forecasts), *of_proxies(proxies(store.query, at, at))]

    try:
        async with asyncio.timeout(READ_SECONDS):
            return await admin.read(read)
    except (CCFlareError, TimeoutError):
        return [*of_forecasts({}), *of_proxies(None)]
