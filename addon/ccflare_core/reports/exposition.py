"""Families of metrics in the text format of Prometheus, written by its own library, which is an extra."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ccflare_core.errors import NotInstalled
from ccflare_core.program import with_extra
from ccflare_core.reports.metrics import Family, Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class Exposition(NamedTuple):
    """A page for Prometheus."""

    content_type: str
    text: bytes


def exposition(families: Iterable[Family]) -> Exposition:
    """The page. Raises NotInstalled, with a sentence that says what to do, where the library is not installed."""
    try:
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    except ImportError as missing:
        raise NotInstalled(f"The metrics need the package prometheus_client: {with_extra('metrics')}.") from missing
    return Exposition(CONTENT_TYPE_PLAIN_0_0_4, generate_latest(_Collected(families)))


class _Collected:
    """The families as the library asks for them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator["Metric"]:
        return (_metric(family) for family in self._families)


def _metric(family: Family) -> "Metric":
    from prometheus_client.metrics_core import Metric

    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    metric = Metric(name, family.help, family.kind.value)
    for labels, value in family.samples:
        named = dict(zip(family.labels, labels, strict=True))
        if isinstance(value, Histogram):
            _add_histogram(metric, named, value)
        else:
            metric.add_sample(family.name, named, value)
    return metric


def _add_histogram(metric: "Metric", labels: dict[str, str], found: Histogram) -> None:
    buckets = found.buckets()
    for bound, number in buckets:
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": _bound(bound)}, number)
    metric.add_sample(f"{metric.name}_count", labels, buckets[-1][1])
    metric.add_sample(f"{metric.name}_sum", labels, found.sum)


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(float(bound))
