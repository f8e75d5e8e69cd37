"""The table of proxies: which are there, how each is, and whether their versions differ."""

from collections.abc import Sequence

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, count, duration, moment
from ccflare_cli.page import Tone
from ccflare_core.reports.fields import PROXY
from ccflare_core.reports.proxies import CRASHED, ENDED, SILENT, ProxyStatus, differing

_UPKEEP = "The one with * deletes what is too old, and looks for what alerts and notices are about."


def proxy_table(found: Sequence[ProxyStatus], title: str, now: float) -> Table[ProxyStatus]:
    """One row for each proxy or worker; `requests` are those of the period."""
    return Table(
        key="proxies",
        title=title,
        rows=found,
        fields=PROXY,
        columns=(
            Column("Proxy", lambda each: each.name + "*" * each.has_upkeep, way=shortened(16), legend=_UPKEEP),
            Column("State", lambda each: each.state, way=wrapped(8), tone=_tone),
            Column("Version", lambda each: each.version or DASH, way=wrapped(10)),
            Column("Since", lambda each: moment(each.started_at, now), way=wrapped(10), rank=2),
            Column("Last sign", lambda each: _seen(each, now), right=True),
            Column("Open", lambda each: count(each.open_requests), right=True),
            Column("Requests", lambda each: count(each.requests), right=True, rank=1),
            Column("Loop lag", lambda each: duration(each.loop_lag_seconds), right=True, rank=3),
            Column("Changes", lambda each: each.changes or DASH, rank=4),
            Column("Listens at", lambda each: each.address or DASH, rank=5),
            Column("Process", lambda each: str(each.pid), right=True, rank=6),
            Column("mitmproxy", lambda each: each.mitmproxy or DASH, rank=7),
            Column("Python", lambda each: each.python or DASH, rank=7),
        ),
        empty="No proxy has run in this time.",
        note=differing(found),
    )


def _seen(each: ProxyStatus, now: float) -> str:
    return moment(each.ended_at, now) if each.seen_seconds is None else f"{duration(each.seen_seconds)} ago"


def _tone(each: ProxyStatus) -> Tone | None:
    return {SILENT: Tone.BAD, CRASHED: Tone.BAD, ENDED: None}.get(each.state, Tone.GOOD if each.is_live else None)
