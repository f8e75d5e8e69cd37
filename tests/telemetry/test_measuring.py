"""Metrics by the SDK: what several exchanges add up to."""

from typing import Any

from opentelemetry.sdk.resources import Resource

from ccflare_core.telemetry.conventions import METRICS
from ccflare_core.telemetry.measuring import Measuring
from telemetry_kit import moved


def points(measuring: Measuring) -> dict[str, Any]:
    data = measuring.counted()
    assert data is not None
    (of_resource,) = data.resource_metrics
    (of_scope,) = of_resource.scope_metrics
    return {metric.name: metric.data.data_points[0] for metric in of_scope.metrics}


def test_metrics_add_up() -> None:
    measuring = Measuring(Resource.get_empty(), "1.2.3")
    for _ in range(3):
        measuring.count(moved())

    found = points(measuring)

    assert found["gen_ai.client.inference.usage.input_tokens"].value == 75
    assert found["ccflare.failovers"].value == 3
    duration = found["gen_ai.client.inference.duration"]
    assert (duration.count, duration.sum) == (3, 3 * 1.75)
    bounds = next(metric.bounds for metric in METRICS if metric.name == "gen_ai.client.inference.duration")
    assert duration.explicit_bounds == bounds


def test_metrics_before_the_first_exchange_are_none() -> None:
    assert Measuring(Resource.get_empty(), "1.2.3").counted() is None
