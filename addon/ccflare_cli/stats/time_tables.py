"""The tables that go along time: traffic step by step, limits with their forecast, two periods side by side."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import (
    DASH,
    Column,
    Table,
    bar,
    count,
    duration,
    local,
    money,
    named,
    percent,
)
from ccflare_cli.stats.within_tables import about, cost
from ccflare_core.reports.fields import WINDOW, timeline_fields
from ccflare_core.reports.figures import foretell
from ccflare_core.reports.limit_history import WindowPast
from ccflare_core.reports.traffic import By, Period, Traffic

_BARS = "▁▂▃▄▅▆▇█"
_NO_CHANGE = 0.0005
_SPARKS, _FEW_SPARKS = 48, 16


def timeline_table(groups: Sequence[Traffic], by: By, title: str, note: str) -> Table[Traffic]:
    """One row for each minute, hour or day, also for those without a request."""
    most = max((group.requests for group in groups), default=0)

    def share(traffic: Traffic, cells: int) -> str:
        return bar(traffic.requests / most, cells) if most else ""

    return Table(
        key="timeline",
        title=title,
        rows=groups,
        fields=timeline_fields(by),
        columns=(
            Column(by.words.capitalize(), lambda t: t.keys[0] or ""),
            Column("Requests", lambda t: count(t.requests), right=True),
            Column("", partial(share, cells=20), rank=1, brief=partial(share, cells=8)),
            Column("In", lambda t: count(t.prompt_tokens), right=True),
            Column("New", lambda t: count(t.input_tokens), right=True, rank=4),
            Column("Read", lambda t: count(t.cache_read_tokens), right=True, rank=4),
            Column("Write", lambda t: count(t.cache_creation_tokens), right=True, rank=4),
            Column("Out", lambda t: about(t.estimated) + count(t.output_tokens), right=True),
            Column("Cost", lambda t: cost(t.estimated, t.cost_usd, t.unknown_costs), right=True),
            Column("Failovers", lambda t: count(t.failovers), right=True, rank=3),
            Column("Errors", lambda t: count(t.errors), right=True, rank=2),
        ),
        empty="No requests.",
        note=note,
    )


def forecast_table(pasts: Sequence[WindowPast], labels: Sequence[str], title: str, now: float) -> Table[WindowPast]:
    """One row for each window: its past as a line of bars, and what is to come. `labels` are the steps of time."""
    return Table(
        key="windows",
        title=title,
        rows=pasts,
        fields=WINDOW,
        columns=(
            Column("Account", lambda past: past.account, way=shortened(11)),
            Column("Window", lambda past: past.name, way=shortened(8)),
            Column("Now", lambda past: percent(past.forecast.utilization if past.forecast else None, 0), right=True),
            Column(
                "Peaks",
                lambda past: sparkline(past.peaks, labels),
                brief=lambda past: sparkline(past.peaks, labels, _FEW_SPARKS),
            ),
            Column("Forecast", lambda past: foretell(past.forecast, now), way=wrapped(14)),
        ),
        empty="No limits were read yet.",
        note="The forecast takes the pace of the last two hours. Peaks run from the oldest to now; a dot: no reading.",
    )


def sparkline(peaks: Mapping[str, float], labels: Sequence[str], most: int = _SPARKS) -> str:
    """A bar for each label, or for each few of them where they are many: the highest value; a dot for none."""
    size = -(-len(labels) // most) or 1
    lots = [labels[start : start + size] for start in range(0, len(labels), size)]
    highest = [max((peaks[name] for name in lot if name in peaks), default=None) for lot in lots]
    return "".join("·" if peak is None else _BARS[min(int(peak * len(_BARS)), len(_BARS) - 1)] for peak in highest)


class Measure(NamedTuple):
    """One figure of two periods. `show` is for people."""

    name: str
    heading: str
    before: float | None
    after: float | None
    show: Callable[[float | None], str]

    @property
    def change(self) -> float | None:
        """As a fraction of the former; None if there is nothing to compare with."""
        return None if not self.before or self.after is None else self.after / self.before - 1


def compare_table(before: Traffic, after: Traffic, periods: tuple[Period, Period]) -> Table[Measure]:
    """A row for each measure, the two periods side by side."""
    titles = [" – ".join(f"{local(round(at)):%Y-%m-%d %H:%M}" for at in period) for period in periods]
    return Table(
        key="compare",
        title=f"{titles[1]}, compared with {titles[0]}",
        rows=[Measure(name, heading, get(before), get(after), show) for name, heading, get, show in _MEASURES],
        fields=(
            ("measure", lambda m: m.name),
            *named("before", "after", "change"),
        ),
        columns=(
            Column("", lambda m: m.heading),
            Column("Before", lambda m: m.show(m.before), right=True),
            Column("After", lambda m: m.show(m.after), right=True),
            Column("Change", lambda m: _change(m.change), right=True),
        ),
        note=_unknown(before, after),
    )


def _count(value: float | None) -> str:
    return count(None if value is None else int(value))


_MEASURES: tuple[tuple[str, str, Callable[[Traffic], float | None], Callable[[float | None], str]], ...] = (
    ("requests", "Requests", lambda t: t.requests, _count),
    ("errors", "Errors", lambda t: t.errors, _count),
    ("success_rate", "Success", lambda t: t.success_rate, percent),
    ("latency_p50_seconds", "Latency p50", lambda t: t.latency.p50, duration),
    ("latency_p95_seconds", "Latency p95", lambda t: t.latency.p95, duration),
    ("first_byte_p50_seconds", "First byte p50", lambda t: t.first_byte.p50, duration),
    ("prompt_tokens", "Tokens in", lambda t: t.prompt_tokens, _count),
    ("input_tokens", "of it new", lambda t: t.input_tokens, _count),
    ("cache_read_tokens", "of it cache read", lambda t: t.cache_read_tokens, _count),
    ("cache_creation_tokens", "of it cache write", lambda t: t.cache_creation_tokens, _count),
    ("output_tokens", "Tokens out", lambda t: t.output_tokens, _count),
    ("cache_hit_rate", "Cache hits", lambda t: t.cache_hit_rate, percent),
    ("cost_usd", "Cost", lambda t: round(t.cost_usd, 8), money),
    ("failovers", "Failovers", lambda t: t.failovers, _count),
)


def _change(fraction: float | None) -> str:
    return DASH if fraction is None or abs(fraction) < _NO_CHANGE else f"{fraction * 100:+,.1f} %"


def _unknown(before: Traffic, after: Traffic) -> str:
    unknown = before.unknown_costs, after.unknown_costs
    return f"Requests without a known price: {unknown[0]:,} before, {unknown[1]:,} after." if any(unknown) else ""
