"""Figures that were added up before are those of the single requests, whatever becomes of these."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ccflare_core.config.location import Location
from ccflare_core.reports.measures import SLOT_MS, milliseconds, pack, unpack
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.rollup import Rollup
from ccflare_core.reports.tally import Span, Split, Tally
from ccflare_core.reports.traffic import By, Period, Traffic
from ccflare_core.store.store import Store
from ccflare_core.writer.writer import Writer
from harness import eventually
from history import KEY, NOON, History

QUARTER = SLOT_MS / 1000
EVER = Period(0, NOON + 0.001)


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        for number in range(60):
            at = NOON - number * 411
            used: dict[str, Any] = {"input_tokens": number, "output_tokens": 7, "cost_usd": 0.01 * number}
            history.exchange(
                at,
                f"max-{number % 3}",
                session=f"session-{number % 4}",
                model=None if number % 7 == 0 else "claude-opus-4-8",
                key="laptop" if number % 5 == 0 else None,
                path="/api/hello" if number % 11 == 0 else "/v1/messages",
                outcome=("ok", "ok", "ok", "refused", "client_abort")[number % 5],
                project="shop" if number % 2 else None,
                response_time_ms=number * 997.0,
                first_byte_ms=number * 3.0,
                cache_read_input_tokens=1000,
                cache_creation_input_tokens=500,
                failover_attempts=number % 2,
                **used,
            )
        yield history


def answers(past: History) -> list[list[tuple[object, ...]]]:
    """All that can be asked, for a period that begins and ends within a slot, and for ever."""
    reports = Reports(past.store.query)
    splits: Sequence[Sequence[By]] = [(), *((by,) for by in By), (By.DAY, By.ACCOUNT), (By.MODEL, By.HOUR)]
    return [
        [*map(rounded, reports.traffic(period, by, switches=True))]
        for period in (Period(NOON - 9_000, NOON - 3_333), EVER)
        for by in splits
    ]


def rounded(traffic: Traffic) -> tuple[object, ...]:
    values = {name: getattr(traffic, name) for name in Traffic.__slots__}
    return tuple((values | {"cost_usd": round(traffic.cost_usd, 9)}).values())


def execute(past: History, sql: str) -> None:
    run: Callable[[str], Any] = past.store._database.execute_sql
    run(sql)


def todo(past: History) -> list[int]:
    return [slot for (slot,) in past.store.query("SELECT slot FROM usage_todo ORDER BY slot")]


def slots(past: History) -> int:
    return int(past.store.query("SELECT COUNT(*) FROM usage_slots")[0][0])


def test_every_answer_is_the_same_from_sums_as_from_requests(past: History) -> None:
    before, others = answers(past), Reports(past.store.query).others(EVER)

    past.add_up()

    assert len(todo(past)) == 2
    assert slots(past) > 20
    assert answers(past) == before
    assert Reports(past.store.query).others(EVER) == others == 6


def test_only_what_is_over_is_added_up(past: History) -> None:
    past.add_up()

    now = round(NOON * 1000) // SLOT_MS
    assert todo(past) == [now - 1, now]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM requests WHERE id = 'request-40'",
        "UPDATE requests SET cost_usd = 99 WHERE id = 'request-40'",
        "DELETE FROM requests",
    ],
)
def test_a_change_by_whoever_counts_at_once_and_is_added_up_again(past: History, change: str) -> None:
    past.add_up()

    execute(past, change)

    at_once = answers(past)
    past.add_up()
    assert answers(past) == at_once
    requests = Reports(past.store.query).total(EVER).requests
    assert requests == past.store.query("SELECT COUNT(*) FROM requests WHERE path = '/v1/messages'")[0][0]


def test_nothing_of_a_deleted_session_stays_in_the_sums(past: History) -> None:
    past.add_up()

    execute(past, "DELETE FROM requests WHERE session_id = 'session-1'")

    assert past.store.query("SELECT COUNT(*) FROM usage_slots WHERE session_id = 'session-1'") == [(0,)]


def test_a_late_end_counts_at_once(past: History) -> None:
    begun = past.exchange(NOON - 5 * QUARTER, outcome=None)
    past.add_up()

    execute(past, f"UPDATE requests SET outcome = 'ok' WHERE id = '{begun}'")

    assert len(todo(past)) == 3
    assert Reports(past.store.query).total(EVER).open == 0


def test_a_long_past_is_added_up_in_small_steps(past: History) -> None:
    waits = len(todo(past))
    slow = Rollup(
        past.store._database,
        past.store.query,
        past.store._transaction,
        wall=lambda: NOON,
        clock=iter(range(999)).__next__,
    )

    assert slow.step()

    assert len(todo(past)) == waits - 1


def test_the_writer_adds_up_beside_its_rows(past: History) -> None:
    waits = len(todo(past))

    def open_store() -> Store:
        return Store.open(past.location, KEY, wall=lambda: NOON)

    writer = Writer(open_store, on_change=lambda _: None, on_trouble=pytest.fail)
    writer.start()
    try:
        eventually(lambda: len(todo(past)) <= 2)
    finally:
        assert writer.close(60)

    assert slots(past) > 20
    assert waits > 20


def test_a_period_is_read_from_slots_but_for_its_ends_and_what_waits(past: History) -> None:
    past.add_up()
    waits = todo(past)[0]
    tally = Tally(past.store.query)

    parts = tally.parts((waits - 3) * SLOT_MS - 1, (waits + 1) * SLOT_MS, Split())

    assert parts.slots == Span(waits - 3, waits + 1)
    assert parts.requests == [
        Span((waits - 3) * SLOT_MS - 1, (waits - 3) * SLOT_MS),
        Span(waits * SLOT_MS, (waits + 1) * SLOT_MS),
    ]
    assert tally.parts(5, 9, Split()).requests == [Span(5, 9)]


def test_steps_that_are_shorter_than_a_slot_are_read_request_by_request(past: History) -> None:
    past.add_up()
    minutes = Tally(past.store.query).parts(0, 9 * SLOT_MS, Split(unit_ms=60_000))

    assert (minutes.slots, minutes.requests) == (Span(0, 0), [Span(0, 9 * SLOT_MS)])


def test_durations_are_packed_and_unpacked() -> None:
    packed = pack([(250, 2), (61_800, 1), (70_000, 1), (-3, 1)])

    assert unpack(packed + pack([(250, 1)])) == {250: 3, 61_800: 2, 0: 1}
    assert [milliseconds(code) for code in (1000, 1001, 1900, 1901)] == [1000, 1010, 10_000, 10_100]
