"""Runs of proxies that have died are ended by others, whatever their clocks say; who was taken for dead comes back."""

import contextlib
from collections.abc import Iterator

import pytest

from ccflare_core.clients.sharing import Report
from ccflare_core.config.location import Location
from ccflare_core.db.models import RunRow
from ccflare_core.exchange.records import ExchangeFinished, InFlightCounted, TunnelOpened
from ccflare_core.store.dead_runs import DEAD_SECONDS, DeadRuns
from ccflare_core.store.store import Store
from database_kit import NOW, an_account, open_store, started


class Bench:
    """Two runs on one database; the first one watches the second, whose clock is an hour late."""

    def __init__(self, one: Store, two: Store) -> None:
        self.one, self.two = one, two
        self.now = 0.0
        self.living = {1, 2}
        self.runs = DeadRuns(
            one._context, one.runs, clock=lambda: self.now, host="here", is_alive=lambda pid: pid in self.living
        )
        one.runs.start("one", "here", 1)

    def begin(self, host: str) -> None:
        self.two.runs.start("two", host, 2)
        self.two.write([started("r1", run_id="two"), TunnelOpened("t1", *_CLIENT, "two", 0)])
        self.one.write([started("r2", run_id="one")])

    def outcomes(self) -> dict[str, str | None]:
        return dict(self.one.query("SELECT id, outcome FROM requests"))


_CLIENT = ("ck_1", "laptop", "127.0.0.1", "name.test", 443, "1.1.1.1")


@pytest.fixture
def bench(location: Location) -> Iterator[Bench]:
    late = open_store(location, now=NOW - 3600)
    with contextlib.closing(open_store(location)) as one, contextlib.closing(late) as two:
        yield Bench(one, two)


def test_a_run_elsewhere_that_falls_silent_is_ended_once(bench: Bench) -> None:
    bench.begin("there")
    for _ in range(2):
        assert bench.runs.close() == 0
        bench.now += DEAD_SECONDS - 1
        assert bench.runs.close() == 0
        bench.two.write([InFlightCounted("two", {"a": round(bench.now)})])  # a sign of life
    assert bench.runs.close() == 0
    bench.now += DEAD_SECONDS
    assert [bench.runs.close(), bench.runs.close()] == [1, 0]
    assert bench.outcomes() == {"r1": "crashed", "r2": None}
    assert bench.one.query("SELECT ended FROM tunnels") == [("the proxy died",)]


def test_a_run_on_this_machine_is_ended_as_soon_as_its_process_is_gone(bench: Bench) -> None:
    bench.begin("here")
    assert bench.runs.close() == 0
    bench.living.discard(2)
    assert bench.runs.close() == 1
    assert bench.outcomes() == {"r1": "crashed", "r2": None}


def test_a_run_in_a_container_with_this_machines_name_is_taken_for_dead_once(bench: Bench) -> None:
    """Its process id says nothing here. Were it ended with every look, its leases would be free all the time."""
    bench.begin("here")
    bench.living.discard(2)
    assert bench.runs.close() == 1
    bench.two.heartbeat("two")
    for beat in range(4):
        bench.now += 15
        bench.two.write([InFlightCounted("two", {"a": beat + 1})])
        bench.runs.close()
        assert bench.one.query("SELECT COUNT(*) FROM runs WHERE ended_at IS NULL") == [(2,)]
    bench.runs.close()
    bench.now += DEAD_SECONDS
    bench.runs.close()
    assert bench.one.query("SELECT id FROM runs WHERE ended_at IS NULL") == [("one",)]


def test_what_it_had_is_free_then(bench: Bench) -> None:
    bench.one.accounts.add(an_account())
    bench.begin("there")
    assert bench.two.logins.take_lease(an_account().id, "two").is_mine  # type: ignore[union-attr]
    assert not bench.one.logins.take_lease(an_account().id, "one").is_mine  # type: ignore[union-attr]
    bench.runs.close()
    bench.now += DEAD_SECONDS
    bench.runs.close()
    assert bench.one.logins.take_lease(an_account().id, "one").is_mine  # type: ignore[union-attr]


def test_who_was_taken_for_dead_is_back_with_its_next_sign_of_life(bench: Bench) -> None:
    bench.begin("there")
    bench.runs.close()
    bench.now += DEAD_SECONDS
    bench.runs.close()
    assert bench.one.query("SELECT ended_at IS NULL FROM runs WHERE id = 'two'") in ([(False,)], [(0,)])

    bench.two.heartbeat("two")
    bench.two.write([ExchangeFinished("r1", "ok", True)])

    assert bench.runs.close() == 0
    assert bench.one.query("SELECT id FROM runs WHERE ended_at IS NULL ORDER BY id") == [("one",), ("two",)]
    assert bench.outcomes()["r1"] == "ok"


def test_a_run_that_others_took_for_dead_serves_again_whichever_sign_of_life_comes_first(bench: Bench) -> None:
    bench.begin("there")
    bench.runs.close()
    bench.now += DEAD_SECONDS
    assert bench.runs.close() == 1
    assert bench.one.query("SELECT state FROM runs WHERE id = 'two'") == [("crashed",)]

    bench.two.shares.exchange("two", Report(is_whole=False))
    bench.two.heartbeat("two")

    assert bench.one.query("SELECT state, ended_at FROM runs WHERE id = 'two'") == [("serving", None)]


def test_a_run_that_the_database_has_lost_is_there_again(bench: Bench) -> None:
    bench.begin("there")
    with bench.one.audited("lost"):
        RunRow.delete().where(RunRow.id == "two").execute(bench.one._context.database)
    bench.one.heartbeat("two")  # nobody else makes it
    assert bench.one.query("SELECT id FROM runs") == [("one",)]
    bench.two.heartbeat("two")
    assert bench.one.query("SELECT id, host, pid FROM runs ORDER BY id") == [("one", "here", 1), ("two", "there", 2)]
