"""What the record says that client keys have used."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from ccflare_core.clients.budgets import Use
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.store.client_usage import has_other_runs, uses_since
from ccflare_core.store.store import Store
from database_kit import open_store, started

START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def write(store: Store, number: int, at: float, *, client: str | None = "k1", run: str = "old", **fields: Any) -> None:
    begin = started(f"r{number}", run_id=run)._replace(timestamp_ms=round(at * 1000), client_id=client)
    used = {"output_tokens": 1, "total_tokens": 10, "cost_usd": 0.1}
    store.write([begin, ExchangeFinished(f"r{number}", "ok", True, **{**used, **fields})])


def test_uses_are_added_up_by_key_and_day_of_utc(store: Store) -> None:
    write(store, 1, START - 0.001)
    write(store, 2, START)
    write(store, 3, START + 86_399)
    write(store, 4, START + 86_400, client="k2")
    write(store, 5, START, client=None)

    assert sorted(uses_since(store.query, START - 3600, but="mine")) == [
        Use("k1", date(2027, 1, 14), 10, Decimal("0.1"), 0),
        Use("k1", date(2027, 1, 15), 20, Decimal("0.2"), 0),
        Use("k2", date(2027, 1, 16), 10, Decimal("0.1"), 0),
    ]


def test_what_is_older_or_was_recorded_by_this_run_is_left_out(store: Store) -> None:
    write(store, 1, START - 1)
    write(store, 2, START, run="mine")

    assert uses_since(store.query, START, but="mine") == []


def test_counted_tokens_are_not_used_and_an_unknown_price_is_not_0(store: Store) -> None:
    write(store, 1, START, output_tokens=None, cost_usd=None)
    write(store, 2, START, cost_usd=None)
    write(store, 3, START)

    assert uses_since(store.query, START, but="mine") == [Use("k1", date(2027, 1, 15), 20, Decimal("0.1"), 1)]


def test_other_proxies_are_those_that_have_not_ended(store: Store) -> None:
    store.runs.start("mine", "host", 1)
    assert not has_other_runs(store.query, "mine")
    store.runs.start("other", "host", 2)
    assert has_other_runs(store.query, "mine")
    store.runs.end("other")
    assert not has_other_runs(store.query, "mine")
