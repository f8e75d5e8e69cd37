"""The other proxies, as one of them sees them on the database, and how the dead ones are told from the living."""

import contextlib
from collections.abc import Iterator

import pytest

from ccflare_core.accounts.peers import Peers
from ccflare_core.config.location import Location
from ccflare_core.db.models import MigrationRow, RunRow
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import InFlightCounted
from ccflare_core.reports.proxies import SILENT_SECONDS
from ccflare_core.store.peers import StoredPeers
from ccflare_core.store.store import Store
from database_kit import count, exchange, open_store


class Bench:
    """Two runs on one database; the first one looks."""

    def __init__(self, one: Store, two: Store) -> None:
        self.one, self.two = one, two
        self.now = 0.0
        self.peers = StoredPeers(one._context, one.runs, clock=lambda: self.now)
        one.runs.start("one", "host", 1)

    def begin(self, run: str = "two") -> None:
        self.two.runs.start(run, "host", 2)

    def tell(self, counts: dict[str, int], run: str = "two") -> None:
        self.two.write([InFlightCounted(run, {"earlier": 1}), InFlightCounted(run, counts)])


@pytest.fixture
def bench(location: Location) -> Iterator[Bench]:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as two:
        yield Bench(one, two)


def test_a_proxy_that_is_alone_has_no_peers_whatever_it_has_in_flight(bench: Bench) -> None:
    bench.one.write([InFlightCounted("one", {"a": 3})])
    assert bench.peers.look() is None


def test_what_the_others_have_in_flight_is_added_up_and_told_when_it_changes(bench: Bench) -> None:
    bench.begin()
    assert bench.peers.look() == Peers(True, {})
    bench.begin("three")
    bench.tell({"a": 2, "b": 1})
    bench.tell({"a": 5}, "three")
    assert bench.peers.look() == Peers(True, {"a": 7, "b": 1})
    assert bench.peers.look() is None
    bench.tell({})
    assert bench.peers.look() == Peers(True, {"a": 5})


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"a": "x", "b": -1, "c": true, "d": 2.5}', "[" * 100_000])
def test_what_is_no_count_in_a_row_counts_nothing(bench: Bench, text: str) -> None:
    bench.begin()
    with bench.two._context.transaction():
        RunRow.update({RunRow.in_flight: text}).where(RunRow.id == "two").execute(bench.two._context.database)
    assert bench.peers.look() == Peers(True, {})


def test_a_run_that_has_ended_counts_no_more(bench: Bench) -> None:
    bench.begin()
    bench.tell({"a": 2})
    bench.peers.look()
    bench.two.runs.end("two")
    assert bench.peers.look() == Peers()


def test_a_run_that_falls_silent_counts_no_more_whatever_its_clock_says(bench: Bench) -> None:
    bench.begin()
    bench.tell({"a": 2})
    bench.peers.look()
    bench.now += SILENT_SECONDS - 1
    assert bench.peers.look() is None
    bench.now += 1
    assert bench.peers.look() == Peers()
    bench.tell({"a": 4})
    assert bench.peers.look() == Peers(True, {"a": 4})


def test_a_heartbeat_keeps_a_run_alive_whose_counts_do_not_change(location: Location) -> None:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location, now=1.0)) as two:
        bench = Bench(one, two)
        bench.begin()
        bench.peers.look()
        for beat in (2.0, 3.0):
            bench.now += SILENT_SECONDS - 1
            with contextlib.closing(open_store(location, now=beat)) as later:
                later.runs.heartbeat("two")
            assert bench.peers.look() is None


def test_an_older_process_goes_on_beside_a_newer_one_and_is_not_started_again(location: Location) -> None:
    with contextlib.closing(open_store(location)) as older:
        older.runs.start("one", "host", 1)
        with older.audited("update"):
            MigrationRow.insert(name="9999_newer", applied_at=1).execute(older._context.database)

        older.write([*exchange("r1"), InFlightCounted("one", {"a": 2})])
        older.heartbeat("one")

        assert count(older, "requests") == 1
        with pytest.raises(StoreError, match=r"changed by a newer ccflare .*: use that version"):
            open_store(location)
