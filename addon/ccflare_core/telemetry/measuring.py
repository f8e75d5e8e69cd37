"""Counts finished exchanges with OpenTelemetry's SDK, which is an extra."""

from typing import TYPE_CHECKING, Any

from ccflare_core.telemetry import conventions
from ccflare_core.telemetry.finished import Finished

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource


class Measuring:
    """The instruments of the table, and what they have counted since the start."""

    def __init__(self, resource: "Resource", version: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
        meter: Any = provider.get_meter("ccflare", version, attributes={"ccflare.conventions": conventions.SCHEMA})
        self._add: dict[str, Any] = {}
        for name, unit, told, _, bounds in conventions.METRICS:
            if bounds:
                made = meter.create_histogram(name, unit, told, explicit_bucket_boundaries_advisory=bounds)
                self._add[name] = made.record
            else:
                self._add[name] = meter.create_counter(name, unit, told).add

    def count(self, finished: Finished) -> None:
        """Count this one."""
        labels = conventions.labels(finished)
        for metric, value in conventions.measured(finished):
            self._add[metric.name](value, labels)

    def counted(self) -> "MetricsData | None":
        """All so far; None if there is nothing."""
        return self._reader.get_metrics_data()
