"""What batches count in budgets, as the database has it: an estimate, and then what they took."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from ccflare_core.clients.budgets import Use
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import BatchDropped, BatchEnded, BatchMade, BatchRead, ExchangeFinished, PartUsed
from ccflare_core.store.batches import KEPT, SETTLED_WITHIN
from ccflare_core.store.client_usage import batches_since, uses_since
from ccflare_core.store.store import Store
from database_kit import open_store, started

START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
AT = round(START * 1000)
HOUR = 3_600_000
DAY = date(2027, 1, 15)
MADE = BatchMade("msgbatch_1", "r1", "k1", AT, 1000, 0.5)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def counted(store: Store) -> tuple[int, Decimal] | None:
    """The tokens and dollars that count for the only key."""
    uses = uses_since(store.query, START, but="mine")
    assert len(uses) <= 1
    return (uses[0].tokens, uses[0].dollars) if uses else None


def read(request_id: str, *, after: int = HOUR, tokens: int = 80, usd: float | None = 0.04) -> BatchRead:
    return BatchRead(MADE.id, request_id, "k1", AT + after, tokens, usd)


def results(request_id: str, run: str = "old", **fields: Any) -> list[Any]:
    """The rows of an exchange by which results have passed."""
    begin = started(request_id, run_id=run)._replace(
        timestamp_ms=AT, client_id="k1", path=f"/v1/messages/batches/{MADE.id}/results"
    )
    used = {"input_tokens": 50, "output_tokens": 30, "total_tokens": 80, "cost_usd": 0.04, **fields}
    part = PartUsed(request_id, 1, AT, "advisor_message", "claude-opus-4-8", 1, 5, 5, 0, 0, 0.01)
    return [begin, part, ExchangeFinished(request_id, "ok", True, 200, **used)]


def test_a_batch_counts_from_the_moment_at_which_it_is_made_whoever_made_it(store: Store) -> None:
    store.write([started("r1", run_id="mine")._replace(client_id="k1", path="/v1/messages/batches"), MADE])

    assert uses_since(store.query, START, but="mine") == [Use("k1", DAY, 1000, Decimal("0.5"), 0)]
    assert batches_since(store.query, START) == {"r1"}


def test_the_part_that_did_not_succeed_counts_nothing(store: Store) -> None:
    store.write([MADE, BatchEnded(MADE.id, AT + HOUR, 3, 4)])

    assert counted(store) == (750, Decimal("0.375"))


def test_a_batch_that_was_cancelled_or_has_expired_counts_nothing(store: Store) -> None:
    store.write([MADE, BatchEnded(MADE.id, AT + HOUR, 0, 4)])

    assert counted(store) == (0, Decimal(0))


def test_its_end_counts_once(store: Store) -> None:
    store.write([MADE, BatchEnded(MADE.id, AT + HOUR, 1, 2)])
    store.write(
        [BatchEnded(MADE.id, AT + HOUR, 1, 2), BatchEnded("msgbatch_2", AT, 1, 2), BatchEnded(MADE.id, AT, 0, 0)]
    )

    assert counted(store) == (500, Decimal("0.25"))


@pytest.mark.parametrize("before", [[], [BatchEnded(MADE.id, AT + HOUR, 1, 2)]])
def test_its_results_tell_what_it_took(store: Store, before: list[Any]) -> None:
    store.write([MADE, *before, *results("r2"), read("r2")])

    assert counted(store) == (80, Decimal("0.04"))
    store.write([BatchEnded(MADE.id, AT + 2 * HOUR, 1, 2)])
    assert counted(store) == (80, Decimal("0.04"))


def test_results_without_a_known_price_leave_the_dollars_as_they_were(store: Store) -> None:
    store.write([MADE, read("r2", usd=None)])

    assert counted(store) == (80, Decimal("0.5"))


def test_what_comes_after_thirty_hours_changes_nothing(store: Store) -> None:
    store.write([MADE, BatchEnded(MADE.id, AT + SETTLED_WITHIN + 1, 0, 4), read("r2", after=SETTLED_WITHIN + 1)])

    assert counted(store) == (1000, Decimal("0.5"))


@pytest.mark.parametrize("after", [HOUR, SETTLED_WITHIN + 1])
def test_results_that_are_fetched_again_are_recorded_without_their_usage(store: Store, after: int) -> None:
    store.write([MADE, *results("r2"), read("r2", after=after), *results("r3"), read("r3", after=after + 1)])

    rows = store.query("SELECT id, input_tokens, output_tokens, total_tokens, cost_usd FROM requests ORDER BY id")
    assert [tuple(row) for row in rows] == [("r2", 50, 30, 80, 0.04), ("r3", None, None, None, None)]
    assert [tuple(row) for row in store.query("SELECT request_id FROM usage_parts")] == [("r2",)]


def test_results_of_a_batch_that_nobody_has_seen_made_count_for_who_fetches_them_once(store: Store) -> None:
    for request_id in ("r2", "r3"):
        store.write([*results(request_id), read(request_id)])

    assert counted(store) == (80, Decimal("0.04"))


def test_a_batch_of_no_key_counts_for_nobody(store: Store) -> None:
    store.write(
        [MADE._replace(client_id=None, tokens=None, usd=None), BatchEnded(MADE.id, AT + HOUR, 1, 2), read("r2")]
    )

    assert counted(store) is None


def test_an_unknown_price_is_said(store: Store) -> None:
    store.write([MADE._replace(usd=None)])

    assert uses_since(store.query, START, but="mine") == [Use("k1", DAY, 1000, Decimal(0), 1)]


def test_a_batch_is_forgotten_when_no_budget_looks_back_so_far(store: Store) -> None:
    store.write([MADE, MADE._replace(id="msgbatch_2", request_id="r9", at_ms=AT + KEPT + 1)])

    assert batches_since(store.query, START) == {"r9"}


EARLY = MADE._replace(id="r1")


def test_a_batch_has_the_id_of_its_exchange_until_it_has_one(store: Store) -> None:
    store.write([EARLY])
    assert counted(store) == (1000, Decimal("0.5"))
    store.write([MADE])
    assert counted(store) == (1000, Decimal("0.5"))
    store.write([BatchEnded(MADE.id, AT + HOUR, 0, 4)])
    assert counted(store) == (0, Decimal(0))


def test_a_batch_that_was_not_made_after_all_counts_nothing(store: Store) -> None:
    store.write([EARLY, BatchDropped("r1"), BatchDropped("r2")])

    assert counted(store) is None


def test_a_batch_is_noted_once(store: Store) -> None:
    store.write([MADE, MADE])
    store.write([MADE])

    assert counted(store) == (1000, Decimal("0.5"))
