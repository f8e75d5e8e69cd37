"""What a monitoring system gets of a running proxy: families of samples, in the units and words of Prometheus. Pure.

Whatever has an end is counted when its exchange ends, by what the record gets of it; the rest is what stands at the
moment of the question. No label holds a session, a project or anything else that clients can make as many of as they
like. exposition.py writes them down.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, pairwise
from math import inf
from typing import Final, NamedTuple, Self

from ccflare_core.accounts.pool import AccountStatus
from ccflare_core.accounts.states import AccountState
from ccflare_core.anthropic.usage import Reading
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story
from ccflare_core.reports.forecast import Forecast
from ccflare_core.reports.measures import is_inference
from ccflare_core.reports.proxies import DRAINING, SERVING, SILENT, STARTING, ProxyStatus

OTHER: Final = "other"
"""A model that is not in the price table, or one too many."""
MOST_MODELS: Final = 50

DURATIONS: Final = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
"""The upper bounds of whole answers, in seconds: long ones with thinking take minutes."""
FIRST_BYTES: Final = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)
"""And of the time to an answer's head."""
LATENESS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Of how late the event loop came, in seconds."""


class Kind(StrEnum):
    """What a family is, for Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Histogram:
    """How many durations were no longer than each bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, inf)
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0
        self.last = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds
        self.last = seconds

    def told(self) -> dict[str, object]:
        """All of it, for `of`."""
        return {"bounds": self._bounds[:-1], "counts": self._counts, "sum": self.sum}

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], sum: float) -> Self:
        """The one that has told this."""
        made = cls(tuple(bounds))
        made._counts, made.sum = [*counts], sum
        return made

    def buckets(self) -> list[tuple[float, int]]:
        """Each bound with the number of those up to it; the last bound is infinite, so its number is that of all."""
        return list(zip(self._bounds, accumulate(self._counts), strict=True))


class Sample(NamedTuple):
    """One series of a family. `labels` are the values of the family's labels, in their order."""

    labels: tuple[str, ...]
    value: float | Histogram


class Family(NamedTuple):
    """All series of one name."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]


class Gauges(NamedTuple):
    """What stands at the moment, beside the accounts."""

    requests_open: int
    requests_held: int
    """Of the open ones: those that wait until an account is free."""
    rows_waiting: int
    lag_seconds: float
    rows_lost: int
    bodies_lost: int


_REQUEST: Final = ("account", "model", "outcome")
_ACCOUNT: Final = ("account",)
_WINDOW: Final = ("account", "window")
_TOKENS: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_creation": "cache_creation_input_tokens",
}
"""The kinds of tokens, which do not overlap, and what `Usage` calls them."""


class Meter:
    """Counts exchanges as they end, from the start of the process on."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._tokens: Counter[tuple[str, ...]] = Counter()
        self._cost: dict[tuple[str, ...], float] = {}
        self._unpriced: Counter[tuple[str, ...]] = Counter()
        self._failovers: Counter[tuple[str, ...]] = Counter()
        self._duration, self._first_byte = Histogram(DURATIONS), Histogram(FIRST_BYTES)
        self._models: set[str] = set()

    def ended(self, exchange: Story) -> None:
        """Count this one, if a model or another resource of an account was asked for."""
        if not is_inference(exchange.opening.path):
            return
        lease, outcome, reading = exchange.lease, exchange.outcome, exchange.reading
        account = lease.account.name if lease else ""
        model = self._model(exchange, reading)
        self._requests[account, model, outcome or Outcome.CRASHED] += 1
        for former, later in pairwise(exchange.attempts):
            if former.account_id != later.account_id:
                self._failovers[(former.verdict.kind.value,)] += 1
        if outcome is Outcome.OK:
            self._duration.add(exchange.duration)
            if exchange.first_byte is not None:
                self._first_byte.add(exchange.first_byte)
        self._count_usage(exchange, reading, account, model)

    def _count_usage(self, exchange: Story, reading: Reading | None, account: str, model: str) -> None:
        usage = reading.usage if reading else None
        if usage is None or usage.output_tokens is None:
            return
        for kind, name in _TOKENS.items():
            if number := getattr(usage, name):
                self._tokens[account, model, kind] += number
        if (cost := exchange.cost) is not None:
            self._cost[account, model] = self._cost.get((account, model), 0.0) + float(cost)
        elif usage.output_tokens:
            self._unpriced[account, model] += 1

    def _model(self, exchange: Story, reading: Reading | None) -> str:
        """The model that served it, or else was asked for, by its name in the price table; "" without one."""
        named = (reading.model if reading else None) or exchange.facts.model
        if named is None:
            return ""
        prices = exchange.prices
        name = prices.name_of(named) if prices else None
        if name is None or (name not in self._models and len(self._models) >= MOST_MODELS):
            return OTHER
        self._models.add(name)
        return name

    def families(self) -> Iterator[Family]:
        """All that was counted."""
        yield _counter("requests", "Requests that have ended, by outcome.", _REQUEST, self._requests)
        yield _counter(
            "tokens", "Tokens used, by kind. The kinds do not overlap.", (*_REQUEST[:2], "kind"), self._tokens
        )
        yield _counter("cost_usd", "The known part of what requests cost, in US dollars.", _REQUEST[:2], self._cost)
        unpriced = "Requests that have used tokens whose price nobody knows."
        yield _counter("requests_of_unknown_cost", unpriced, _REQUEST[:2], self._unpriced)
        moved = "Moves of a request to another account, by what made it move."
        yield _counter("failovers", moved, ("kind",), self._failovers)
        lasted = "How long requests took that ended ok, in seconds."
        yield _histogram("request_duration_seconds", lasted, self._duration)
        yield _histogram("first_byte_seconds", "How long their answers took to begin, in seconds.", self._first_byte)


def of_accounts(accounts: Iterable[AccountStatus]) -> Iterator[Family]:
    """How each account stands."""
    found = list(accounts)
    serves = "Whether the account could serve a request, 1 or 0, and why not."
    states = ((_labels(each, why_not(each)), float(each.available)) for each in found)
    yield _gauge("account_available", serves, ("account", "reason"), states)
    flying = ((_labels(each), each.in_flight) for each in found)
    yield _gauge("account_requests_in_flight", "Requests that the account serves.", _ACCOUNT, flying)
    used = (
        (_labels(each, window.name), window.utilization)
        for each in found
        for window in each.windows
        if window.utilization is not None
    )
    yield _gauge("account_window_utilization_ratio", "How full the limit is; 1 is all of it.", _WINDOW, used)
    resets = (
        (_labels(each, window.name), window.resets_at)
        for each in found
        for window in each.windows
        if window.resets_at is not None
    )
    yield _gauge("account_window_reset_timestamp_seconds", "When the limit is empty again.", _WINDOW, resets)


def of_forecasts(forecasts: Mapping[tuple[str, str], Forecast]) -> Iterator[Family]:
    """When the limits are full, by account and window, of those that are before their reset."""
    full = ((names, found.full_at) for names, found in forecasts.items() if found.full_at is not None)
    what = "When the limit is full, at the pace of the last two hours; absent if that is not before its reset."
    yield _gauge("account_window_exhaustion_timestamp_seconds", what, _WINDOW, full)


def of_loop(lateness: Histogram) -> Iterator[Family]:
    """How late the event loop was, each time that it was looked at."""
    yield _histogram(
        "event_loop_lag_seconds", "How late the event loop came to a timer, four times a second.", lateness
    )


def of_proxies(found: Iterable[ProxyStatus] | None) -> Iterator[Family]:
    """How many proxies and workers there are on the database, by their states; None: nobody knows."""
    counts = Counter(each.state for each in found or ())
    states = ((state,) for state in (STARTING, SERVING, DRAINING, SILENT) if found is not None)
    what = "Proxies and workers on the database, by state; silent: no sign of life for 45 s."
    yield _gauge("proxies", what, ("state",), ((state, counts[state[0]]) for state in states))


def of_process(now: Gauges, version: str) -> Iterator[Family]:
    """What waits, what was lost, and which program this is."""
    single: tuple[tuple[str, Kind, str, float], ...] = (
        ("requests_open", Kind.GAUGE, "Requests that have not ended.", now.requests_open),
        ("requests_held", Kind.GAUGE, "Of these, requests that wait for an account.", now.requests_held),
        ("writer_rows_waiting", Kind.GAUGE, "Records that are still to be written down.", now.rows_waiting),
        ("writer_lag_seconds", Kind.GAUGE, "For how long the oldest of them waits.", now.lag_seconds),
        ("writer_rows_lost_total", Kind.COUNTER, "Records that were lost.", now.rows_lost),
        ("writer_bodies_lost_total", Kind.COUNTER, "Bodies that were left out of the record.", now.bodies_lost),
    )
    for name, kind, what, value in single:
        yield Family(f"ccflare_{name}", kind, what, (), (Sample((), float(value)),))
    yield _gauge("build_info", "Always 1; the version of ccflare.", ("version",), [((version,), 1.0)])


def why_not(status: AccountStatus) -> str:
    """Why an account cannot serve, in one of few words; "" if it can."""
    if status.available:
        return ""
    if status.state is not AccountState.SERVING:
        return status.state.value.replace(" ", "_")
    return "cooling" if status.cooldowns else "half_open" if status.half_open else OTHER


def _labels(status: AccountStatus, *more: str) -> tuple[str, ...]:
    return (status.account.name, *more)


def _counter(name: str, what: str, labels: tuple[str, ...], found: Mapping[tuple[str, ...], float]) -> Family:
    samples = tuple(Sample(values, float(found[values])) for values in sorted(found))
    return Family(f"ccflare_{name}_total", Kind.COUNTER, what, labels, samples)


def _gauge(name: str, what: str, labels: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    samples = tuple(Sample(values, float(value)) for values, value in found)
    return Family(f"ccflare_{name}", Kind.GAUGE, what, labels, samples)


def _histogram(name: str, what: str, found: Histogram) -> Family:
    return Family(f"ccflare_{name}", Kind.HISTOGRAM, what, (), (Sample((), found),))
