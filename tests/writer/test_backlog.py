"""The line before the database: first in first out, bounded, bodies go before rows."""

from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.exchange.records import Payload, Record
from ccflare_core.writer.backlog import Backlog, Marker
from database_kit import payload, started
from exchange_kit import Clock


def taken(backlog: Backlog) -> list[Record]:
    """Everything in the line, batch by batch."""
    records: list[Record] = []
    while backlog:
        batch, _ = backlog.take()
        backlog.done(batch)
        records += batch
    return records


def test_first_in_first_out_in_batches_of_five_hundred() -> None:
    backlog = Backlog(2000, 1000)
    records = [started(f"r{number}") for number in range(1250)]
    for record in records:
        backlog.put(record)
    assert backlog.has_full_batch
    batches = [backlog.take()[0] for _ in range(4)]
    assert [len(batch) for batch in batches] == [500, 500, 250, 0]
    assert [record for batch in batches for record in batch] == records


def test_a_marker_ends_its_batch() -> None:
    backlog = Backlog(10, 1000)
    marker: Marker = Marker()
    backlog.put(started("before"))
    backlog.mark(marker)
    backlog.put(started("after"))
    assert backlog.take() == ([started("before")], [marker])
    assert backlog.take() == ([started("after")], [])


def test_large_bodies_make_small_batches() -> None:
    backlog = Backlog(100, 2**30)
    for number in range(4):
        backlog.put(payload(f"r{number}", bytes(3 * 1024 * 1024)))
    assert [len(backlog.take()[0]) for _ in range(3)] == [2, 2, 0]


def test_a_body_beyond_the_bound_is_left_out_until_there_is_room() -> None:
    backlog = Backlog(100, 10)
    backlog.put(payload("r1", b"123456"))
    backlog.put(payload("r2", b"12345"))
    batch, _ = backlog.take()
    backlog.put(payload("r3", b"12345"))  # r1 is taken but not yet written: it still holds its bytes
    backlog.done(batch)
    backlog.put(payload("r4", b"12345"))
    assert taken(backlog) == [payload("r4", b"12345")]
    assert (backlog.dropped_payloads, backlog.dropped_rows) == (2, 0)


def test_a_full_line_lets_all_bodies_go_before_any_row() -> None:
    backlog = Backlog(4, 1000)
    for record in (started("r1"), payload("r1"), started("r2"), payload("r2"), started("r3")):
        backlog.put(record)
    backlog.put(payload("r3"))
    assert (backlog.dropped_payloads, backlog.dropped_rows) == (2, 0)
    assert taken(backlog) == [started("r1"), started("r2"), started("r3"), payload("r3")]


def test_then_the_oldest_row_goes_and_markers_stay() -> None:
    backlog = Backlog(3, 1000)
    marker: Marker = Marker()
    backlog.mark(marker)
    for number in range(4):
        backlog.put(started(f"r{number}"))
    assert backlog.take() == ([], [marker])
    assert taken(backlog) == [started("r2"), started("r3")]
    assert backlog.dropped_rows == 2


@given(sizes=st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=60), takes=st.integers(1, 7))
def test_bounds_hold_whatever_comes(sizes: list[int | None], takes: int) -> None:
    backlog = Backlog(max_rows=8, max_payload_bytes=100)
    waiting: list[Record] = []
    kept = 0
    for number, size in enumerate(sizes):
        backlog.put(started(f"r{number}") if size is None else payload(f"r{number}", bytes(size)))
        assert len(backlog) <= 8
        if number % takes == 0:
            waiting, _ = backlog.take()
            backlog.done(waiting)
            kept += len(waiting)
    left = taken(backlog)
    assert sum(len(record.body) for record in left if isinstance(record, Payload)) <= 100
    assert kept + len(left) + backlog.dropped_payloads + backlog.dropped_rows == len(sizes)


def test_lag_is_that_of_the_oldest_record_that_is_not_done() -> None:
    clock = Clock()
    backlog = Backlog(100, 1000, lambda: clock.mono)
    assert backlog.lag == 0
    backlog.put(started("old"))
    clock.pass_(3)
    backlog.put(started("young"))
    clock.pass_(1)
    assert backlog.lag == 4

    batch, _ = backlog.take()
    backlog.put(started("new"))
    clock.pass_(2)
    assert backlog.lag == 6  # taken, but not written yet

    backlog.done(batch)
    assert backlog.lag == 2
    backlog.done(backlog.take()[0])
    assert backlog.lag == 0
