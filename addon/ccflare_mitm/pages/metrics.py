"""The page that Prometheus reads: figures of this process, and forecasts from the database."""

import asyncio
from collections.abc import Mapping

from ccflare_core.anthropic.answers import SECURITY, Answer
from ccflare_core.errors import CCFlareError
from ccflare_core.reports.exposition import exposition
from ccflare_core.reports.forecast import Forecast
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.reports.metrics import of_forecasts
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.visit import Visit

READ_SECONDS = 3.0
"""How long the database may take: Prometheus itself waits for ten seconds, and without forecasts the rest still counts.
"""


async def show_metrics(admin: Admin, visit: Visit) -> Answer:
    """All families. Raises NotInstalled without the library that writes them."""
    forecasts = await _forecasts(admin, visit.at)
    page = exposition([*admin.monitor.families(), *of_forecasts(forecasts)])
    length = b"%d" % len(page.text)
    headers = ((b"content-type", page.content_type.encode()), (b"content-length", length), *SECURITY)
    return Answer(200, headers, page.text, "")


async def _forecasts(admin: Admin, now: float) -> Mapping[tuple[str, str], Forecast]:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await admin.read(lambda store: LimitHistory(store.query).forecasts(now))
    except (CCFlareError, TimeoutError):
        return {}
