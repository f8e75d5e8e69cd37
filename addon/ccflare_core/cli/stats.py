"""`scripts/stats.py`: what was recorded, as answers. It only reads, also while the proxy runs."""

import argparse
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from ccflare_core.cli.console import OK, Console, Parser, add_common, guarded, read_settings, whole_number
from ccflare_core.cli.output import Table, render
from ccflare_core.cli.tables import exchange_table, login_table, trouble_table, window_table
from ccflare_core.cli.traffic_tables import total_table, traffic_table
from ccflare_core.reports import Reports
from ccflare_core.standing import Standing, standing
from ccflare_core.store import Store
from ccflare_core.traffic import By, Period

_VIEWS = ("summary", "accounts", "models", "sessions", "requests", "errors")
_SPLIT = {"accounts": By.ACCOUNT, "models": By.MODEL, "sessions": By.SESSION}
_LIMIT = 20
_UNIT = {"m": (60, "min"), "h": (3600, "h"), "d": (86_400, "d"), "w": (7 * 86_400, "weeks")}
_EXAMPLES = """\
examples:
  scripts/stats.py                          the last 24 hours at a glance
  scripts/stats.py --since 7d --by day      a week, day by day
  scripts/stats.py accounts --by hour       each account, hour by hour
  scripts/stats.py requests --limit 5 --format json
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Answer one question and give the exit code: 0 answered, 1 no database to ask, 2 misused."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.by and arguments.view in ("requests", "errors"):
        parser.error(f"--by cannot split {arguments.view}")
    if arguments.by is _SPLIT.get(arguments.view, 0):
        parser.error(f"{arguments.view} are split by {arguments.by} already")
    console = console or Console.real()
    return guarded(console, partial(_answer, console, arguments))


def _parser() -> Parser:
    parser = Parser(
        prog="stats.py",
        description="Show what the proxy has recorded.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("view", nargs="?", choices=_VIEWS, default="summary", help="default: summary")
    add_common(parser)
    parser.add_argument(
        "--since",
        type=span,
        default="24h",
        metavar="WHEN",
        help="24h, 7d, 30m, 2w, a date such as 2026-11-01, or all (default: 24h)",
    )
    parser.add_argument("--by", type=By, choices=list(By), metavar="WHAT", help=f"split by {', '.join(By)}")
    parser.add_argument(
        "--limit",
        type=whole_number(1, 100_000),
        metavar="N",
        help=f"show at most N rows (default: {_LIMIT} sessions, clients, requests or errors; else all)",
    )
    return parser


class Since(NamedTuple):
    """Where a period begins: so many seconds ago, or at a time. The clock is the console's, so not asked here."""

    label: str
    ago: float | None = None
    at: float = 0.0

    def period(self, now: float) -> Period:
        """From there to the present millisecond, which is a part of it."""
        return Period(self.at if self.ago is None else max(now - self.ago, 0.0), now + 0.001)


def span(text: str) -> Since:
    if text == "all":
        return Since("ever")
    if match := re.fullmatch(r"([1-9]\d{0,5})([mhdw])", text):
        seconds, unit = _UNIT[match[2]]
        return Since(f"last {match[1]} {unit}", ago=float(int(match[1]) * seconds))
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
        try:
            return Since(f"since {text}", at=time.mktime(time.strptime(text, form)))
        except (ValueError, OverflowError):
            continue
    raise argparse.ArgumentTypeError("give a span such as 24h or 7d, a date such as 2026-11-01, or all")


def _answer(console: Console, arguments: argparse.Namespace) -> int:
    database, now = read_settings(console, arguments.database).database, console.now()
    store = Store.open(database, None, read_only=True)
    try:
        tables = _tables(store, arguments, now)
        empty = arguments.format in ("table", "markdown") and Reports(store.query).is_empty()
    finally:
        store.close()
    if empty and arguments.view != "accounts":
        console.say(f"Nothing is recorded yet in {database}: send a request through the proxy first.")
    else:
        console.say(render(tables, arguments.format))
    return OK


def _tables(store: Store, arguments: argparse.Namespace, now: float) -> list[Table[Any]]:
    reports, view, limit = Reports(store.query), arguments.view, arguments.limit or _LIMIT
    when, period = arguments.since.label, arguments.since.period(now)
    if view == "requests":
        return [exchange_table(reports.exchanges(period, limit), f"Requests, {when}", now)]
    if view == "errors":
        return [
            trouble_table("errors", reports.errors(period, limit), f"Errors that clients saw, {when}", now),
            trouble_table("covered", reports.covered(period, limit), "Failed attempts that others covered", now),
        ]
    if view == "summary" and not arguments.by:
        return [
            total_table(reports.total(period), reports.others(period), period, f"All requests, {when}"),
            window_table(_standings(store, now), now),
            _split_table(reports, period, (By.ACCOUNT,), arguments.limit, f"Accounts, {when}", now),
        ]
    by = tuple(split for split in (_SPLIT.get(view), arguments.by) if split)
    table = _split_table(reports, period, by, arguments.limit, f"By {' and '.join(by)}, {when}", now)
    if view != "accounts":
        return [table]
    standings = _standings(store, now)
    return [table, window_table(standings, now), login_table(standings, now)]


def _split_table(
    reports: Reports, period: Period, by: tuple[By, ...], limit: int | None, title: str, now: float
) -> Table[Any]:
    """The traffic split `by`, cut to its default or given number of rows; of hours and days the last ones stay."""
    groups = reports.traffic(period, by, latencies=By.SESSION not in by)
    many = {By.SESSION, By.CLIENT}.intersection(by)
    most = limit or (_LIMIT if many else len(groups))
    shown = groups[-most:] if by[0].is_time else groups[:most]
    notes = [f"{len(shown)} of {len(groups)} rows; --limit N shows more."] if len(shown) < len(groups) else []
    if by == (By.MODEL,) and (unpriced := [key for group in shown if group.unknown_costs and (key := group.keys[0])]):
        notes.append(f"No price is known for {', '.join(unpriced)}; scripts/prices.py update takes prices in.")
    return traffic_table(shown, by, title, "\n".join(notes), now)


def _standings(store: Store, now: float) -> list[Standing]:
    cooldowns, windows, upkeep = store.cooldowns(), store.latest_windows(), store.logins.upkeep()
    return [standing(each, cooldowns, windows.get(each.id, ()), now, upkeep.get(each.id)) for each in store.accounts()]
