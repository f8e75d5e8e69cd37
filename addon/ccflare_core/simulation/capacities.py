"""Fits the accounts' limit windows to the record: how much of list price fills each of them.

Between two resets a window's utilization rises with what its account serves. The capacity is the slope of that, over
all readings of all such stretches (least squares; each stretch has a level of its own, as nobody knows what was used
before it). Requests and readings are read in the order of time, a page at a time.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from ccflare_core.anthropic.rate_limit_headers import HARD
from ccflare_core.reports.tally import Query
from ccflare_core.reports.traffic import Period
from ccflare_core.simulation.plans import Plan, Span
from ccflare_core.simulation.turns import Turn

FEWEST_READINGS: Final = 20
"""With fewer nothing is said of a window: as the guard of plan limits holds it too."""
LEAST_RISE: Final = 0.2
"""By how much a window has to have filled up in all: else whole percents are too coarse."""
_LATE: Final = 0.002
"""Seconds: times are recorded in whole milliseconds, and an answer's own prompt is in what it tells."""
_JITTER: Final = 60.0
_STEPS: Final = (3600.0, 1800.0, 600.0, 300.0, 60.0)
_MOST_RESETS: Final = 64
_PAGE: Final = 500
_DAY: Final = 86_400.0


class Reading(NamedTuple):
    """How full a window of an account was said to be at a time (epoch seconds)."""

    at: float
    account_id: str
    name: str
    utilization: float
    resets_at: float | None
    status: str | None


@dataclass(slots=True)
class _Stretch:
    """The readings of a window between two resets: sums over utilizations (u) and what was served by then (s, USD)."""

    u0: float
    s0: float
    number: int = 0
    u: float = 0.0
    s: float = 0.0
    uu: float = 0.0
    us: float = 0.0
    ss: float = 0.0
    last_u: float = 0.0

    def add(self, utilization: float, served: float) -> None:
        u, s = utilization - self.u0, served - self.s0
        self.number += 1
        self.last_u = u
        self.u += u
        self.s += s
        self.uu += u * u
        self.us += u * s
        self.ss += s * s


@dataclass(slots=True)
class _Fit:
    """One window of one account while its readings come."""

    span: Span
    used: float = 0.0
    """USD that it has served."""
    last: Reading | None = None
    stretch: _Stretch | None = None
    readings: int = 0
    rise: float = 0.0
    dollars: float = 0.0
    stretches: int = 0
    fitted: int = 0
    uu: float = 0.0
    us: float = 0.0
    ss: float = 0.0
    """Sums of squares and products within the stretches, about the means of each."""
    resets: list[float] = field(default_factory=list)

    def read(self, reading: Reading) -> None:
        """One more reading."""
        self.readings += 1
        self._note_reset(reading.resets_at)
        if reading.status in HARD or reading.utilization >= 1:  # as full as can be says nothing of how full
            self.end()
            return
        if self.last is None or not _is_same(self.last, reading):
            self.end()
            self.stretch = _Stretch(reading.utilization, self.used)
        elif self.stretch is not None:  # all but the first come when another percent is full, so they are alike
            self.stretch.add(reading.utilization, self.used)
        self.last = reading

    def _note_reset(self, resets_at: float | None) -> None:
        is_other = resets_at is not None and not (self.resets and abs(self.resets[-1] - resets_at) <= _JITTER)
        if resets_at is not None and is_other and len(self.resets) < _MOST_RESETS:
            self.resets.append(resets_at)

    def end(self) -> None:
        """No more readings belong to those before."""
        found, self.stretch, self.last = self.stretch, None, None
        if found is None or not found.number:
            return
        number = found.number
        self.rise += found.last_u
        self.dollars += self.used - found.s0 if found.last_u else 0.0
        self.stretches += 1
        self.fitted += number - 1
        self.uu += found.uu - found.u * found.u / number
        self.us += found.us - found.u * found.s / number
        self.ss += found.ss - found.s * found.s / number

    @property
    def capacity(self) -> float | None:
        """What fills it. Only the utilizations are inexact, so it is their slope that is found, over dollars."""
        if self.readings < FEWEST_READINGS or self.rise < LEAST_RISE or self.us <= 0:
            return None
        return self.ss / self.us

    @property
    def at_least(self) -> float:
        """What it takes at least, whatever was lost by whole percents."""
        return self.dollars / (self.rise + 0.01 * (self.stretches + 1))

    def error(self, capacity: float) -> float | None:
        """The standard error of the slope, as a fraction of it."""
        if self.fitted < 3:
            return None
        residuals = max(0.0, self.uu - self.us * self.us / self.ss)
        return math.sqrt(residuals / (self.fitted - 1) / self.ss) * capacity

    @property
    def phase(self) -> float | None:
        """Windows of days are reset at fixed times; shorter ones begin when they are used."""
        return self.resets[-1] if self.resets and self.span.seconds >= _DAY else None

    @property
    def step(self) -> float:
        """The largest step that all resets are multiples of."""
        whole = (step for step in _STEPS if all(_is_multiple(reset, step) for reset in self.resets))
        return next(whole, 1.0) if self.resets else 1.0


@dataclass(slots=True)
class _Demand:
    """What all accounts together served that counts in a window, at most within its time."""

    span: Span
    bucket: int = 0
    now: float = 0.0
    before: float = 0.0
    most: float = 0.0

    def add(self, at: float, dollars: float) -> None:
        bucket = int(at // self.span.seconds)
        if bucket != self.bucket:
            self.before = self.now if bucket == self.bucket + 1 else 0.0
            self.bucket, self.now = bucket, 0.0
        self.now += dollars
        self.most = max(self.most, self.before + self.now)


def fit(query: Query, turns: Iterable[Turn], accounts: Mapping[str, str], period: Period) -> dict[str, list[Plan]]:
    """The windows of these accounts (names by ids), by the account's id. `turns` are those of the period."""
    windows = {id: {name: span for name in _names(query, id, period) if (span := Span.of(name))} for id in accounts}
    fits = {(id, name): _Fit(span) for id, found in windows.items() for name, span in found.items()}
    demands = {span: _Demand(span) for found in windows.values() for span in found.values()}
    served = _Served(turns, fits, demands)
    for reading in _readings(query, fits, period):
        served.advance(reading.at + _LATE)
        fits[reading.account_id, reading.name].read(reading)
    served.advance(math.inf)
    plans: dict[str, list[Plan]] = defaultdict(list)
    for (id, name), found in fits.items():
        found.end()
        plans[id].append(_plan(accounts[id], name, found, demands[found.span].most))
    return dict(plans)


def starting(query: Query, plans: Iterable[Plan], account_id: str, since: float) -> Iterator[Plan]:
    """The same plans with how full they were at that time, and until when."""
    sql = """SELECT utilization, resets_at / 1000.0 FROM windows WHERE account_id = ? AND name = ? AND at <= ?
             AND utilization IS NOT NULL ORDER BY at DESC, id DESC LIMIT 1"""
    for plan in plans:
        used, resets_at = next(iter(query(sql, (account_id, plan.name, round(since * 1000)))), (0.0, None))
        goes_on = resets_at is not None and resets_at > since
        yield replace(plan, used=used if goes_on else 0.0, resets_at=resets_at if goes_on else None)


class _Served:
    """Counts what was served into the windows: a prompt when its answer begins, the output when that ends."""

    def __init__(
        self, turns: Iterable[Turn], fits: Mapping[tuple[str, str], _Fit], demands: Mapping[Span, _Demand]
    ) -> None:
        self._turns = iter(turns)
        self._next = next(self._turns, None)
        self._under_way: list[tuple[float, str, str, float]] = []
        self._demands = demands
        self._of: dict[str, list[_Fit]] = defaultdict(list)
        for (id, _), each in fits.items():
            self._of[id].append(each)

    def advance(self, until: float) -> None:
        """Count all that ended up to then."""
        while self._next is not None and self._next.at <= until:
            self._begin(self._next)
            self._next = next(self._turns, None)
            self._end(self._next.at if self._next is not None else until)
        self._end(until)

    def _begin(self, turn: Turn) -> None:
        if turn.account_id is None or not turn.facts.spends:
            return
        dollars, sent = turn.cost + turn.lost_cost, turn.at + turn.waited
        output = turn.cost * turn.output_share
        family, under_way = turn.facts.family, self._under_way
        heapq.heappush(under_way, (sent + turn.head_seconds, turn.account_id, family, dollars - output))
        heapq.heappush(under_way, (sent + turn.seconds, turn.account_id, family, output))
        for demand in self._demands.values():
            if demand.span.counts(family):
                demand.add(turn.at, dollars)

    def _end(self, until: float) -> None:
        under_way = self._under_way
        while under_way and under_way[0][0] <= until:
            _, account_id, family, dollars = heapq.heappop(under_way)
            for each in self._of.get(account_id, ()):
                if each.span.counts(family):
                    each.used += dollars


def _plan(account: str, name: str, found: _Fit, demand: float) -> Plan:
    capacity = found.capacity
    return Plan(
        account,
        name,
        found.span,
        found.readings,
        capacity,
        None if capacity is None else found.error(capacity),
        is_wide=capacity is None and found.readings > 0 and demand <= found.at_least,
        phase=found.phase,
        step=found.step,
    )


def _names(query: Query, account_id: str, period: Period) -> list[str]:
    sql = "SELECT DISTINCT name FROM windows WHERE account_id = ? AND at >= ? AND at < ?"
    return sorted(name for (name,) in query(sql, (account_id, *period.bounds_ms())))


def _readings(query: Query, keys: Iterable[tuple[str, str]], period: Period) -> Iterator[Reading]:
    """All readings of these windows, in the order of time."""
    return heapq.merge(*(_of_window(query, *key, period) for key in keys))


def _of_window(query: Query, account_id: str, name: str, period: Period) -> Iterator[Reading]:
    since, until = period.bounds_ms()
    last = -1
    sql = f"""SELECT at, id, utilization, resets_at / 1000.0, status FROM windows
              WHERE account_id = ? AND name = ? AND at >= ? AND at < ? AND (at > ? OR id > ?)
              AND utilization IS NOT NULL ORDER BY at, id LIMIT {_PAGE}"""  # noqa: S608
    while True:
        rows = [*query(sql, (account_id, name, since, until, since, last))]
        for at, _, utilization, resets_at, status in rows:
            yield Reading(at / 1000, account_id, name, utilization, resets_at, status)
        if len(rows) < _PAGE:
            return
        since, last = rows[-1][0], rows[-1][1]


def _is_same(one: Reading, two: Reading) -> bool:
    """Whether both are of one window that has not been reset between them."""
    if one.resets_at is None or two.resets_at is None or abs(one.resets_at - two.resets_at) > _JITTER:
        return False
    return two.at <= one.resets_at + _JITTER and two.utilization >= one.utilization


def _is_multiple(moment: float, step: float) -> bool:
    rest = moment % step
    return min(rest, step - rest) <= 1.0
