"""A large record is no slow one: every view is about as quick as one reading of all requests, and goes by an index.

A million requests take a minute to make, so there are fewer of them here. The real thing, in seconds:
`CCFLARE_LARGE_HISTORY=1000000 pytest tests/test_large_history.py`, or `scripts/bench stats`.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.stats.views import SPLITS, VIEWS, Question, Views
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import By, Period
from ccflare_core.store.store import Store
from ccflare_mitm.pages import overview, periods, usage
from ccflare_mitm.pages.periods import CHOICES
from history import NOON
from large_history import make_large_history

REQUESTS = int(os.environ.get("CCFLARE_LARGE_HISTORY", "100_000"))
ONE_READING = """SELECT model, account_name, COUNT(*), SUM(input_tokens), SUM(output_tokens), SUM(cost_usd),
                        SUM(response_time_ms) FROM requests GROUP BY model, account_name"""
EVER, DAY = Period(0, NOON + 0.001), Period(NOON - 86_400, NOON + 0.001)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The database."""
    path = tmp_path_factory.mktemp("large") / "ccflare.db"
    make_large_history(path, REQUESTS)
    yield path
    path.unlink()


@pytest.fixture
def store(large: Path) -> Iterator[Store]:
    with closing(Store.open(large, None, read_only=True)) as store:
        yield store


def question(view: str, period: Period) -> Question:
    if view == "compare" and period is EVER:
        period = Period(NOON - 180 * 86_400, NOON)
    return Question(view, period, "ever", None, None, NOON)


@pytest.fixture(scope="module")
def seconds_to_read(large: Path) -> float:
    """The CPU time of one reading of all requests: how fast this machine is."""
    with closing(Store.open(large, None, read_only=True)) as store:
        return of_one_reading(store)


def of_one_reading(store: Store) -> float:
    return cpu_seconds(lambda: store.query(ONE_READING))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of the quickest of three times; what else the machine does is not counted."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        assert work()
        taken.append(time.thread_time() - began)
    return min(taken)


def is_within(part: float, seconds_to_read: float, store: Store, work: Callable[[], object]) -> bool:
    """Whether this takes no more than such a part of one reading.

    Where it took more, both are measured again: the machine may be busier by now than when the reading was.
    """
    if cpu_seconds(work) < part * seconds_to_read:
        return True
    return any(cpu_seconds(work) < part * of_one_reading(store) for _ in range(4))


@pytest.mark.parametrize("period", [DAY, EVER], ids=["day", "ever"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_about_as_quick_as_one_reading(
    store: Store, seconds_to_read: float, view: str, period: Period
) -> None:
    views = Views(store, PriceList())

    part = 0.5 if period is DAY else 2

    assert is_within(part, seconds_to_read, store, lambda: views.tables(question(view, period)))


def test_the_sums_are_those_of_the_requests(store: Store) -> None:
    requests, cost = store.query("SELECT COUNT(*), SUM(cost_usd) FROM requests WHERE path LIKE '/v1/%'")[0]

    total, models = Reports(store.query).total_and_split(EVER, (By.MODEL,))

    assert total.requests == sum(model.requests for model in models) == requests
    assert total.cost_usd == pytest.approx(cost)
    assert total.requests + Reports(store.query).others(EVER) == store.query("SELECT COUNT(*) FROM requests")[0][0]


@pytest.mark.parametrize("since", ["first page", *(choice.value for choice in CHOICES)])
def test_a_page_is_a_part_of_one_reading(store: Store, seconds_to_read: float, since: str) -> None:
    choice = next((each for each in CHOICES if each.value == since), CHOICES[-1])
    time = periods.Asked(choice, Period(NOON - choice.seconds, NOON + 0.001))

    def read() -> object:
        return overview.read(store, NOON) if since == "first page" else usage.read(store, time)

    assert is_within(0.5, seconds_to_read, store, read)


class Asked:
    """Passes queries on to a store and remembers them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.queries: list[tuple[str, Sequence[object]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self.queries.append((sql, parameters))
        return self._store.query(sql, parameters)


INDEXES = {
    **dict.fromkeys(("summary", *SPLITS, "cache", "timeline", "compare", "advise"), "usage_slots_slot"),
    "tags": "request_tags_at",
    "windows": "windows_reading",
    "requests": "requests_timestamp",
    "errors": "requests_failed",
    "proxies": "duties",  # there has been none of them
}


@pytest.mark.parametrize("period", [DAY, EVER], ids=["day", "ever"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_goes_by_an_index(store: Store, large: Path, view: str, period: Period) -> None:
    plan = plan_of(store, large, question(view, period))

    assert INDEXES[view] in plan
    if view == "errors":
        assert "requests_moved" in plan


@pytest.mark.parametrize("view", sorted({*VIEWS} - {"windows", "advise", "proxies"}))
def test_every_view_of_a_tag_goes_by_an_index(store: Store, large: Path, view: str) -> None:
    assert "request_tags_value" in plan_of(store, large, question(view, EVER), "ticket=12")


def plan_of(store: Store, large: Path, asked: Question, tag: str | None = None) -> str:
    """How SQLite goes about it, which is never by reading a large table from its beginning to its end."""
    watched: Any = Asked(store)
    Views(watched, PriceList(), tag).tables(asked)
    with closing(sqlite3.connect(large)) as database:
        plan = [
            str(step[3])
            for sql, parameters in watched.queries
            for step in database.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
    scanned = {step.split()[1] for step in plan if step.startswith("SCAN")}
    assert not scanned & {"requests", "r", "used", "attempts", "a", "usage_slots", "windows", "request_tags"}
    return " ".join(plan)
