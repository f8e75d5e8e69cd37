"""Makes spans of finished exchanges with OpenTelemetry's SDK, which is an extra."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ccflare_core.exchange.records import storable
from ccflare_core.exchange.steps import Attempt, Outcome
from ccflare_core.http.origins import Origin
from ccflare_core.telemetry import conventions
from ccflare_core.telemetry.content import said
from ccflare_core.telemetry.finished import Finished

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span, SpanKind, Tracer

FAILED: Final = frozenset({Outcome.UPSTREAM_ERROR, Outcome.TRUNCATED, Outcome.SHUTDOWN, Outcome.CRASHED})
"""What is an error of this server, and no decision of its own or of the client."""


class Tracing:
    """The SDK's tracer, with a memory for what it has made.

    Whether a trace is sampled is decided by its SDK: by the client's traceparent, and by OTEL_TRACES_SAMPLER.
    """

    def __init__(self, resource: "Resource", version: str, upstream: Callable[[], Origin]) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._made = InMemorySpanExporter()
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._made))
        scope = {"ccflare.conventions": conventions.SCHEMA}
        self._tracer: Tracer = provider.get_tracer("ccflare", version, attributes=scope)
        self._propagator = TraceContextTextMapPropagator()
        self._upstream = upstream

    def spans(self, finished: Finished) -> "list[ReadableSpan]":
        """The span of the exchange and that of each attempt; none if its trace is not sampled."""
        from opentelemetry.trace import SpanKind as Kind
        from opentelemetry.trace import set_span_in_context

        self._made.clear()  # what an error has left
        parent = self._propagator.extract({"traceparent": finished.traceparent})
        attributes = conventions.of_exchange(finished)
        server = self._begin(finished.name, parent, Kind.SERVER, attributes, finished.started_at)
        if server.is_recording():
            inside = set_span_in_context(server)
            for attempt in finished.attempts:
                self._attempt(finished, attempt, inside)
        _end(server, finished.ended_at, failed=finished.row.outcome in FAILED)
        return list(self._made.get_finished_spans())

    def _attempt(self, finished: Finished, attempt: Attempt, inside: "Context") -> None:
        from opentelemetry.trace import SpanKind as Kind

        attributes = conventions.of_attempt(finished, attempt, self._upstream())
        if finished.bodies is not None and attempt is finished.attempts[-1]:
            attributes |= said(finished.bodies, finished.row.stop_reason)
        name = conventions.span_name(finished)
        span = self._begin(name, inside, Kind.CLIENT, attributes, attempt.started_at)
        _end(span, finished.end_of(attempt), failed=conventions.error_of(finished, attempt) is not None)

    def _begin(
        self, name: str, inside: "Context", kind: "SpanKind", attributes: conventions.Attributes, at: float
    ) -> "Span":
        # Clients choose some of it, and one text that has no UTF-8 would cost a whole batch.
        told = {key: value for key, each in attributes.items() if (value := storable(each)) is not None}
        return self._tracer.start_span(storable(name), inside, kind, told, start_time=_ns(at))


def _end(span: "Span", at: float, *, failed: bool) -> None:
    from opentelemetry.trace import Status, StatusCode

    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end(_ns(at))


def _ns(at: float) -> int:
    return round(at * 1e9)
