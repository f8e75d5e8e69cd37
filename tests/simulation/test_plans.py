"""How a fitted window fills, and when it is reset."""

import pytest

from ccflare_core.simulation.plans import Meter, Plan, Span

HOUR, DAY = 3600.0, 86_400.0


def plan(name: str = "5h", **fields: object) -> Plan:
    span = Span.of(name)
    assert span is not None
    return Plan("max-1", name, span, 100, 10.0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "span"),
    [("5h", Span(5 * HOUR, "")), ("7d_opus", Span(7 * DAY, "opus")), ("requests", None), ("input-tokens", None)],
)
def test_span_is_what_the_name_says(name: str, span: Span | None) -> None:
    assert Span.of(name) == span


def test_window_begins_with_its_first_use_at_a_whole_step() -> None:
    assert plan(step=HOUR).end_after(12 * HOUR + 100) == 17 * HOUR
    assert plan(step=1.0).end_after(12 * HOUR + 100) == 17 * HOUR + 100


def test_window_with_a_phase_ends_at_its_next_reset() -> None:
    weekly = plan("7d", phase=3 * DAY)

    assert weekly.end_after(4 * DAY) == 10 * DAY
    assert weekly.end_after(1 * DAY) == 3 * DAY
    assert weekly.end_after(38 * DAY) == 38 * DAY + 7 * DAY


def test_meter_is_empty_after_the_reset_until_it_is_used() -> None:
    meter = Meter(plan(used=0.5, resets_at=HOUR), 10.0)
    meter.use(4.0, 0.0)
    assert meter.fraction(HOUR - 1) == pytest.approx(0.9)

    assert meter.fraction(HOUR) == 0.0
    meter.use(1.0, 2 * HOUR)
    assert meter.fraction(7 * HOUR - 1) == pytest.approx(0.1)
    assert meter.fraction(7 * HOUR) == 0.0


def test_meter_says_that_it_is_full_only_when_it_is() -> None:
    meter = Meter(plan(), 10.0)
    meter.use(9.999, 0.0)
    assert (meter.reading(0.0).status, meter.reading(0.0).utilization) == ("allowed", 0.99)

    meter.use(0.001, 0.0)
    assert meter.reading(0.0).status == "rejected"
