"""The way to a receiver of OpenTelemetry: its exporters make the requests, and our own client sends them.

So what goes out goes where alerts may go: to the one place that is configured, by https or within this machine, by the
configured proxy, with certificates verified, after no redirect. Neither a .netrc nor a variable that is meant for other
programs' telemetry, such as OTEL_EXPORTER_OTLP_HEADERS, adds a header.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from ccflare_core.errors import ConfigError, TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.messages import Request, Response

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

SECONDS: Final = 5.0
"""How long the exporters try to get one batch across."""
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x20-\x7e]{0,8192}")
_OF_ITS_OWN: Final = frozenset({"content-type", "content-encoding", "user-agent"})
"""What of an exporter's headers is about its request, and no secret of anybody."""


def read_headers(text: str, variable: str) -> tuple[tuple[str, str], ...]:
    """The headers in `name=value,name=value`, as OpenTelemetry writes them: a value may be escaped like a URL.

    Raises ConfigError, which quotes nothing.
    """
    found = []
    for part in filter(str.strip, text.split(",")):
        name, sign, value = part.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not sign or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ConfigError(f"{variable}: this is no list of headers; allowed is name=value, with commas between")
        found.append((name, value))
    return tuple(found)


@dataclass(slots=True)
class Guarded:
    """What the exporters' HTTP library sends by: one of its adapters. `problem` is why the last request has failed."""

    ask: Callable[[Request], Coroutine[Any, Any, Response]] = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    problem: str = ""

    def send(self, prepared: Any, **_: object) -> Any:
        """The answer to a prepared request. Raises what that library raises."""
        import requests

        own = [(name, value) for name, value in prepared.headers.items() if name.lower() in _OF_ITS_OWN]
        request = Request(prepared.method, prepared.url, (*own, *self.headers), prepared.body or b"")
        try:
            answer = asyncio.run(self.ask(request))
        except TokenUnavailable as error:
            self.problem = str(error)
            raise requests.ConnectionError(self.problem) from None
        self.problem = "" if 200 <= answer.status < 300 else f"its answer has the status {answer.status}"
        if 300 <= answer.status < 400:  # which the exporters would take for a success
            raise requests.RequestException(self.problem)
        response: Any = requests.Response()
        response.status_code, response.url, response.raw = answer.status, prepared.url, BytesIO(answer.body)
        response.headers.update(answer.headers)
        return response

    def close(self) -> None:
        """It holds nothing."""


class Receiver:
    """Both exporters. Raises ImportError if they are not installed."""

    def __init__(
        self, url: str, headers: tuple[tuple[str, str], ...], fetcher: Fetcher, seconds: float = SECONDS
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._by = Guarded(fetcher.send, headers)
        base = url.rstrip("/")
        self._spans = OTLPSpanExporter(f"{base}/v1/traces", session=_session(self._by), timeout=seconds)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", session=_session(self._by), timeout=seconds)

    def take_spans(self, spans: "Sequence[ReadableSpan]") -> str:
        """Why these spans have not arrived; "" if they have."""
        return self._told(self._spans.export(spans).name)

    def take_metrics(self, metrics: "MetricsData") -> str:
        """The same for metrics."""
        return self._told(self._metrics.export(metrics).name)

    def give_up(self) -> None:
        """Try nothing any more that has failed, also in another thread."""
        exporters: tuple[Any, ...] = (self._spans, self._metrics)
        for exporter in exporters:
            exporter.shutdown()

    def _told(self, result: str) -> str:
        return "" if result == "SUCCESS" else self._by.problem or "the exporter could not send it"


def _session(by: Guarded) -> Any:
    """A session of the exporters' HTTP library that knows no other way out."""
    import requests

    session: Any = requests.Session()
    session.trust_env = False
    session.adapters.clear()
    for scheme in ("https://", "http://"):
        session.mount(scheme, by)
    return session
