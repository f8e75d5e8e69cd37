"""What `doctor.py --test-alert` does: sends a test alert to wherever alerts go, and says whether it got there."""

import asyncio
from collections.abc import Callable, Mapping

from ccflare_cli.doctor.results import Result, Results, fail, ok, warn
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError
from ccflare_core.http.client import Fetcher
from ccflare_core.reports.alerts import Alert, State
from ccflare_core.writer.delivery import Sink, Webhook, sinks

CHECK = "activity.alerts"
_REMEDY = "correct ccflare_alert_webhook, ccflare_ALERT_SECRET or ccflare_alert_command, and try again"


def try_alerts(settings: Settings, environ: Mapping[str, str], fetch: Callable[..., Fetcher], now: float) -> Results:
    """One result for each place that alerts go to."""
    try:
        found = sinks(settings, environ, fetch)
    except CCFlareError as error:
        yield fail(CHECK, str(error), _REMEDY)
        return
    if not found:
        yield warn(CHECK, "alerts go to the log alone", "set ccflare_alert_webhook or ccflare_alert_command")
    alert = Alert(State.TEST, "test", "", now, "this is a test: alerts arrive here")
    for sink in found:
        yield asyncio.run(_sent(sink, alert))


async def _sent(sink: Sink, alert: Alert) -> Result:
    where = "the webhook" if isinstance(sink, Webhook) else "the command"
    try:
        await sink(alert)
    except CCFlareError as error:
        return fail(CHECK, str(error), _REMEDY)
    return ok(CHECK, f"{where} has taken a test alert")
