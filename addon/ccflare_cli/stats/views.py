"""The views of `scripts/stats.py`: which tables answer which question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccflare_cli.output import Table
from ccflare_cli.stats.advice_tables import advice_table
from ccflare_cli.stats.cache_tables import cache_table
from ccflare_cli.stats.plot import draw_timeline, draw_windows, save
from ccflare_cli.stats.proxy_table import proxy_table
from ccflare_cli.stats.time_tables import compare_table, forecast_table, timeline_table
from ccflare_cli.stats.traffic_tables import total_table, traffic_table
from ccflare_cli.stats.within_tables import part_table, subagent_table
from ccflare_cli.tables import exchange_table, login_table, trouble_table, window_table
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.program import typed
from ccflare_core.reports.adviser import advise
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.reports.prompt_cache import cache_uses
from ccflare_core.reports.proxies import proxies
from ccflare_core.reports.queries import Reports, Wanted
from ccflare_core.reports.traffic import By, Period, Traffic, clock_of, labels
from ccflare_core.reports.within import parts, subagents
from ccflare_core.store.statuses import statuses
from ccflare_core.store.store import Store

SPLITS = {
    "accounts": By.ACCOUNT,
    "models": By.MODEL,
    "sessions": By.SESSION,
    "projects": By.PROJECT,
    "agents": By.AGENT,
    "clients": By.CLIENT,
    "tags": By.TAG,
}
VIEWS = ("summary", *SPLITS, "cache", "windows", "timeline", "compare", "requests", "errors", "proxies", "advise")
TIMES = ("windows", "timeline")
UNSPLIT = ("requests", "errors", "compare", "proxies", "advise")
LIMIT = 20
_MANY = {By.SESSION, By.ADDRESS, By.TAG}
_LEAST_AXIS = 3600.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `when` is the period in words."""

    view: str
    period: Period
    when: str
    by: By | None
    limit: int | None
    now: float
    all: bool = False
    """Whether requests that needed no account are shown too."""
    proxy: str | None = None
    """Whose requests are meant, of all proxies."""


class Views:
    """Answers questions to one database, about all requests or those with a tag alone."""

    def __init__(self, store: Store, prices: PriceList, tag: str | None = None) -> None:
        self._store = store
        self._prices = prices
        self._reports = Reports(store.query, tag)
        self._tag = tag

    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        return self._reports.is_empty()

    def tables(self, asked: Question) -> list[Table[Any]]:
        """The answer."""
        match asked.view:
            case "requests" | "errors":
                return self._lists(asked)
            case "cache":
                return self._cache(asked)
            case "windows":
                return [self._windows(asked)]
            case "timeline":
                return [self._timeline(asked)]
            case "compare":
                return [self._compare(asked)]
            case "advise":
                return [self._advice(asked)]
            case "proxies":
                there = proxies(self._store.query, asked.period.since, self._store.now())
                return [proxy_table(there, f"Proxies, {asked.when}", asked.now)]
            case "summary" if asked.by is None:
                return self._summary(asked)
        split = SPLITS.get(asked.view)
        by = tuple(each for each in (split, asked.by) if each)
        groups = self._reports.traffic(asked.period, by, latencies=By.SESSION not in by)
        table = _split_table(groups, by, asked, f"By {' and '.join(by)}, {asked.when}")
        if split is not By.ACCOUNT:
            return [table, *self._within(asked)]
        found = statuses(self._store, asked.now)
        return [table, window_table(found, asked.now), login_table(found, asked.now)]

    def _within(self, asked: Question) -> list[Table[Any]]:
        """What goes on within the requests of models and the sessions of agents, if anything does.

        A session has other requests beside those with a tag.
        """
        if self._tag is not None:
            return []
        if asked.view == "models" and (uses := parts(self._store.query, asked.period)):
            return [part_table(uses, f"Within these requests, {asked.when}")]
        if asked.view == "agents" and (agents := subagents(self._store.query, asked.period)):
            shown, note = _cut(agents, (By.AGENT,), asked.limit)
            return [subagent_table(shown, f"Subagents, {asked.when}", asked.now, note)]
        return []

    def plot(self, asked: Question, path: Path) -> None:
        """Write the answer as a picture, for one of TIMES. Raises Refused."""
        clock, period = _clock(asked), asked.period
        if not period.since:  # of everything the beginning is that of the record
            since = min(self._reports.recorded(period).since, period.until - _LEAST_AXIS)
            period = period._replace(since=since)
        if asked.view == "windows":
            pasts = LimitHistory(self._store.query).windows(asked.period, clock, asked.now)
            figure = draw_windows(pasts, clock, period, f"Limits, {asked.when}")
        else:
            figure = draw_timeline(self._along_time(asked, clock), clock, period, f"Requests, {asked.when}")
        save(figure, path)

    def _summary(self, asked: Question) -> list[Table[Any]]:
        total, accounts = self._reports.total_and_split(asked.period, (By.ACCOUNT,))
        others = self._reports.others(asked.period) if asked.all else 0
        return [
            total_table(total, others, asked.period, f"All requests, {asked.when}"),
            window_table(statuses(self._store, asked.now), asked.now),
            _split_table(accounts, (By.ACCOUNT,), asked, f"Accounts, {asked.when}"),
        ]

    def _lists(self, asked: Question) -> list[Table[Any]]:
        period, now, limit, reports = asked.period, asked.now, asked.limit or LIMIT, self._reports
        if asked.view == "requests":
            found = reports.exchanges(period, limit, others=asked.all, wanted=Wanted(proxy=asked.proxy))
            return [exchange_table(found, f"Requests, {asked.when}", now)]
        refusals = reports.refusals(period, limit)
        return [
            trouble_table(
                "errors", reports.errors(period, limit, others=asked.all), f"Errors that clients saw, {asked.when}", now
            ),
            trouble_table("covered", reports.covered(period, limit), "Failed attempts that others covered", now),
            *([trouble_table("refusals", refusals, "Answers in which a model refused", now)] if refusals else []),
        ]

    def _cache(self, asked: Question) -> list[Table[Any]]:
        by = asked.by or By.ACCOUNT
        groups = self._reports.traffic(asked.period, (by, By.MODEL), latencies=False, switches=True)
        uses = cache_uses(groups, self._prices)
        if not by.is_time:
            uses.sort(key=lambda use: (-use.rebilled_tokens - use.lost_thinking_tokens, -use.requests))
        total = cache_uses(groups, self._prices, total=True)
        shown, note = _cut(uses, (by,), asked.limit)
        tables = [
            cache_table(total, (), f"Prompt cache, {asked.when}", "", asked.now),
            cache_table(shown, (by,), f"By {by}", note, asked.now),
        ]
        return tables if total else tables[1:]

    def _windows(self, asked: Question) -> Table[Any]:
        clock = _clock(asked)
        pasts = LimitHistory(self._store.query).windows(asked.period, clock, asked.now)
        known = sorted({at for past in pasts for at in past.peaks})
        touched = labels(asked.period, clock) if asked.period.since else known
        return forecast_table(pasts, touched, f"Limits by the {clock.words}, {asked.when}", asked.now)

    def _timeline(self, asked: Question) -> Table[Any]:
        clock = _clock(asked)
        groups = self._along_time(asked, clock)
        shown, note = _cut(groups, (clock,), asked.limit)
        return timeline_table(shown, clock, f"By {clock.words}, {asked.when}", note)

    def _along_time(self, asked: Question, clock: By) -> list[Traffic]:
        found = {group.keys: group for group in self._reports.traffic(asked.period, (clock,), latencies=False)}
        names = labels(self._reports.recorded(asked.period), clock)
        return [found.get((name,), Traffic((name,))) for name in names]

    def _advice(self, asked: Question) -> Table[Any]:
        found = advise(self._store.query, self._prices, asked.period)
        return advice_table(*_cut(found, (), asked.limit), f"Advice, {asked.when}")

    def _compare(self, asked: Question) -> Table[Any]:
        after, length = asked.period, asked.period.until - asked.period.since
        before = Period(after.since - length, after.since)
        totals = self._reports.total(before), self._reports.total(after)
        return compare_table(*totals, (before, after))


def _split_table(groups: Sequence[Traffic], by: tuple[By, ...], asked: Question, title: str) -> Table[Any]:
    """The traffic split `by`, cut to its default or given number of rows; of hours and days the last ones stay."""
    shown, note = _cut(groups, by, asked.limit)
    notes = [note] if note else []
    unpriced = [key for group in shown if group.unknown_costs and (key := group.keys[0])]
    if by == (By.MODEL,) and unpriced:
        notes.append(f"No price is known for {', '.join(unpriced)}; `{typed('prices update')}` takes prices in.")
    return traffic_table(shown, by, title, "\n".join(notes), asked.now)


def _clock(asked: Question) -> By:
    return clock_of(asked.period) if asked.by is None else asked.by


def _cut[T](rows: Sequence[T], by: tuple[By, ...], limit: int | None) -> tuple[Sequence[T], str]:
    """The rows that are shown, and a note if that is not all."""
    most = limit or (LIMIT if _MANY.intersection(by) else len(rows))
    shown = rows[-most:] if by and by[0].is_time else rows[:most]
    return shown, f"{len(shown)} of {len(rows)} rows; --limit N shows more." if len(shown) < len(rows) else ""
