"""The tables of traffic: a period at a glance, and split into groups."""

from collections.abc import Callable, Sequence

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import (
    DASH,
    Column,
    Table,
    count,
    duration,
    moment,
    percent,
    short_model,
    some,
)
from ccflare_cli.page import Tone
from ccflare_cli.stats.within_tables import about, cost
from ccflare_core.reports.fields import total_fields, traffic_fields
from ccflare_core.reports.traffic import By, Period, Spread, Traffic

_SPLIT = "Of In, Read came from the cache, Write went into it, New did neither."
_NONE = "(none)"
_WELL, _HALF = 0.9, 0.5
"""Shares of requests that end ok, as the doctor judges them."""


def total_table(total: Traffic, others: int, period: Period, title: str) -> Table[Traffic]:
    """One period at a glance, a line for each measure. `others` counts the requests that needed no account."""
    return Table(
        key="total",
        title=title,
        rows=[total],
        fields=total_fields(period, others),
        columns=(
            Column("Requests", lambda t: _requests(t, others)),
            Column("Success", _success),
            Column("Latency", lambda t: _spread(t.latency)),
            Column("First byte", lambda t: _spread(t.first_byte)),
            Column("Tokens", _tokens),
            Column("Cache hits", lambda t: percent(t.cache_hit_rate)),
            Column("Cost", _cost),
            Column("Failovers", _failovers),
        ),
        upright=True,
    )


def traffic_table(groups: Sequence[Traffic], by: Sequence[By], title: str, note: str, now: float) -> Table[Traffic]:
    """One row for each group. Sessions tell when they were last seen, all others how fast they were."""
    return Table(
        key=f"by_{'_'.join(by)}",
        title=title,
        rows=groups,
        fields=traffic_fields(by),
        columns=(
            *(
                Column(split.capitalize(), _key(index, split), way=shortened(12 // len(by) + 4))
                for index, split in enumerate(by)
            ),
            Column("Requests", lambda t: count(t.requests), right=True),
            Column("Success", lambda t: percent(t.success_rate), right=True, rank=1, tone=_health),
            *(_seen(now) if By.SESSION in by else _SPEED),
            Column("In", lambda t: count(t.prompt_tokens), right=True, legend="In is the whole prompt."),
            Column("New", lambda t: count(t.input_tokens), right=True, rank=9, legend=_SPLIT),
            Column("Read", lambda t: count(t.cache_read_tokens), right=True, rank=9),
            Column("Write", lambda t: count(t.cache_creation_tokens), right=True, rank=9),
            Column("Out", lambda t: about(t.estimated) + count(t.output_tokens), right=True, rank=2),
            *(() if len(by) > 1 else _SHARE),
            Column("Cost", lambda t: cost(t.estimated, t.cost_usd, t.unknown_costs), right=True),
            Column("Moved", lambda t: count(t.moved), right=True, rank=6),
        ),
        empty="No requests.",
        note=note,
    )


_SPEED: tuple[Column[Traffic], ...] = (
    Column("p50", lambda t: duration(t.latency.p50), right=True, rank=4),
    Column("p95", lambda t: duration(t.latency.p95), right=True, rank=5),
    Column(
        "First",
        lambda t: duration(t.first_byte.p50),
        right=True,
        rank=8,
        legend="First is the time to the first byte.",
    ),
)

_SHARE: tuple[Column[Traffic], ...] = (Column("Hits", lambda t: percent(t.cache_hit_rate, 0), right=True, rank=3),)


def _seen(now: float) -> tuple[Column[Traffic], ...]:
    return (
        Column("First seen", lambda t: moment(t.first_at, now), rank=7, way=wrapped(10)),
        Column("Last seen", lambda t: moment(t.last_at, now), way=wrapped(10)),
    )


def _health(traffic: Traffic) -> Tone | None:
    rate = traffic.success_rate
    return None if rate is None or rate > _WELL else Tone.CARE if rate > _HALF else Tone.BAD


def _key(index: int, split: By) -> Callable[[Traffic], str]:
    def show(traffic: Traffic) -> str:
        key = traffic.keys[index]
        if key is None:
            return _NONE
        return short_model(key) if split is By.MODEL else key

    return show


def _requests(total: Traffic, others: int) -> str:
    parts = ((total.open, "open"), (total.client_aborts, "left by the client"), (total.refused, "refused"))
    apart = ", ".join(f"{count(number)} {what}" for number, what in parts if number)
    text = f"{count(total.requests)} ({apart})" if apart else count(total.requests)
    return f"{text}, and {count(others)} that needed no account" if others else text


def _success(total: Traffic) -> str:
    if not total.finished:
        return DASH
    return f"{percent(total.success_rate)} ({count(total.ok)} of {count(total.finished)})"


def _spread(spread: Spread) -> str:
    return DASH if spread.p50 is None else f"p50 {duration(spread.p50)}, p95 {duration(spread.p95)}"


def _tokens(total: Traffic) -> str:
    split = (
        f"{count(total.input_tokens)} new",
        f"{count(total.cache_read_tokens)} cache read",
        f"{count(total.cache_creation_tokens)} cache write",
    )
    out = about(total.estimated) + count(total.output_tokens)
    told = f"{count(total.prompt_tokens)} in ({', '.join(split)}), {out} out"
    return f"{told}, {count(total.thinking_tokens)} of them thinking" if total.thinking_tokens else told


def _cost(total: Traffic) -> str:
    text = cost(total.estimated, total.cost_usd, total.unknown_costs)
    notes = (
        f"{count(total.unknown_costs)} without a known price" if total.unknown_costs else "",
        f"{count(total.estimated)} broken off and estimated" if total.estimated else "",
    )
    told = ", ".join(filter(None, notes))
    return f"{text} ({told})" if told else text


def _failovers(total: Traffic) -> str:
    if not total.moved:
        return "none"
    more = f", {some(total.failovers, 'move')} in all" if total.failovers > total.moved else ""
    return f"{count(total.moved)} of {some(total.requests, 'request')} moved to another account{more}"
