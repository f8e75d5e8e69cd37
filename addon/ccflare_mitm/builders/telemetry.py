"""What tells a receiver of OpenTelemetry, where an option names one."""

from collections.abc import Callable, Mapping

from ccflare_core import __version__
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.options import OTEL_HEADERS
from ccflare_core.errors import NotInstalled
from ccflare_core.http.client import Fetcher
from ccflare_core.program import with_extra
from ccflare_core.secrets.references import read_secret
from ccflare_core.telemetry.measuring import Measuring
from ccflare_core.telemetry.receiver import Receiver, read_headers
from ccflare_core.telemetry.telemetry import Telemetry
from ccflare_core.telemetry.tracing import Tracing

REQUEST_SECONDS = 5.0


def build_telemetry(
    live: LiveSettings, environ: Mapping[str, str], fetch: Callable[..., Fetcher], run_id: str
) -> Telemetry | None:
    """None if no option names a receiver. Raises NotInstalled, or ConfigError or VaultError for its headers."""
    settings = live()
    if not settings.otel_endpoint:
        return None
    headers = read_headers(read_secret(environ, OTEL_HEADERS) or "", OTEL_HEADERS)
    fetcher = fetch(egress=lambda: settings.otel_egress, total_seconds=REQUEST_SECONDS)
    try:
        from opentelemetry.sdk.resources import Resource

        resource = Resource.create(
            {"service.name": "ccflare", "service.version": __version__, "service.instance.id": run_id}
        )
        tracing = (
            Tracing(resource, __version__, live.reader("upstream")) if settings.otel_signals != "metrics" else None
        )
        measuring = Measuring(resource, __version__) if settings.otel_signals != "traces" else None
        receiver = Receiver(settings.otel_endpoint, headers, fetcher)
    except ImportError as missing:
        raise NotInstalled(f"ccflare_otel_endpoint needs OpenTelemetry's SDK: {with_extra('otel')}.") from missing
    return Telemetry(receiver, tracing, measuring, live.reader("otel_content"))
