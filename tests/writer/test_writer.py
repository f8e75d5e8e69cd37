"""The writer: whatever happens to the database, nothing waits, nothing raises, and what was said is in it, is."""

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Account
from ccflare_core.db.announcements import ANYTHING, NOTHING
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.exchange.records import ExchangeStarted, Record
from ccflare_core.http.addresses import Network
from ccflare_core.secrets.key_sources import GivenKey
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from ccflare_core.writer.warnings import RateLimitedWarnings
from ccflare_core.writer.watch import Watch
from ccflare_core.writer.writer import Writer
from database_kit import (
    NOW,
    an_account,
    attempt,
    count,
    exchange,
    held_lock,
    open_store,
    payload,
    start_python,
    started,
)

PATIENCE = 60.0


class Bench:
    """A writer on a database, with all that it said."""

    def __init__(self, path: Path, *, open: Callable[[], Store] | None = None, **options: Any) -> None:
        self.path = path
        self.accounts: list[list[Account]] = []
        self.troubles: list[str] = []
        self.writer = Writer(
            open or self._open, on_change=self.accounts.append, on_trouble=self.troubles.append, **options
        )

    def _open(self) -> Store:
        store = open_store(self.path)
        store.query("PRAGMA busy_timeout = 20")  # the tests hold locks longer than this
        return store

    def names(self) -> list[list[str]]:
        return [[account.name for account in accounts] for accounts in self.accounts]

    def put(self, *records: Record) -> None:
        for record in records:
            self.writer.put(record)

    def ids(self) -> list[str]:
        """The exchanges in the database, in the order in which they came."""
        query = "SELECT id FROM requests ORDER BY rowid"
        return [name for (name,) in self.writer.call(lambda store: store.query(query)).result(PATIENCE)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    bench = Bench(path)
    bench.writer.start()
    yield bench
    bench.writer.close(PATIENCE)


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


# -- the ordinary


def test_what_was_put_is_there_after_a_flush(bench: Bench) -> None:
    bench.put(*exchange("r1"), *exchange("r2"))
    assert bench.writer.flush(PATIENCE)
    assert bench.ids() == ["r1", "r2"]
    assert bench.troubles == []


def test_who_does_not_wait_is_told_when_it_is_written(bench: Bench) -> None:
    bench.put(started("r1"))
    assert bench.writer.written().result(PATIENCE)
    assert bench.ids() == ["r1"]
    bench.writer.close(PATIENCE)
    assert not bench.writer.written().result(0)


def test_what_was_put_is_there_soon_without_a_flush(bench: Bench) -> None:
    bench.put(started("r1"))
    assert until(lambda: bench.ids() == ["r1"])


def test_many_threads_put_and_nothing_is_lost(bench: Bench) -> None:
    def put(thread: int) -> None:
        bench.put(*(started(f"{thread}-{number}") for number in range(300)))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.writer.flush(PATIENCE)
    assert len(bench.ids()) == 1500


def test_start_tells_what_is_wrong_with_the_database(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="no database"):
        Bench(path).writer.start()


def test_start_tells_of_a_wrong_key(path: Path) -> None:
    store = open_store(path, source=GivenKey(b"x" * 32))
    store.accounts.add(an_account())
    store.close()
    with pytest.raises(VaultError, match="is not the key"):
        Bench(path).writer.start()


def test_a_call_gives_its_result_or_its_error(bench: Bench) -> None:
    assert bench.writer.call(lambda store: count(store, "requests")).result(PATIENCE) == 0
    with pytest.raises(StoreError, match="no account called x"):
        bench.writer.call(lambda store: store.accounts.by_name("x")).result(PATIENCE)


# -- accounts


def test_accounts_are_told_at_start_and_after_own_changes(bench: Bench) -> None:
    assert bench.names() == [[]]
    bench.writer.call(lambda store: store.accounts.add(an_account())).result(PATIENCE)
    assert until(lambda: bench.names() == [[], ["max-1"]])


def test_a_call_that_only_reads_has_nothing_looked_at_anew(path: Path) -> None:
    shown: list[Store] = []
    writer = Writer(
        lambda: open_store(path),
        on_change=lambda accounts: None,
        on_trouble=lambda text: None,
        on_store_changed=shown.append,
    )
    writer.start()
    for function, changes, times in (
        (lambda store: store.query("SELECT 1"), ANYTHING, 1),
        (lambda store: store.note("proxy.test"), NOTHING, 1),
        (lambda store: store.note("proxy.test"), ANYTHING, 2),
    ):
        writer.call(function, changes).result(PATIENCE)
        writer.call(lambda _: None).result(PATIENCE)  # the turn with the one before it is over
        assert len(shown) == times
    assert writer.close(PATIENCE)


def test_accounts_changed_by_another_process_are_told_soon(path: Path, bench: Bench) -> None:
    program = (
        "import sys, pathlib, time, database_kit as kit; store = kit.open_store(pathlib.Path(sys.argv[1]));"
        "store.accounts.add(kit.an_account('from outside')); print(time.time(), flush=True)"
    )
    told: list[float] = []
    child = start_python(program, path)
    assert until(lambda: bench.names() == [[], ["from outside"]])
    told.append(time.time())
    output, _ = child.communicate(timeout=PATIENCE)
    assert told[0] - float(output) < 30  # it looks four times a second, if the machine lets it


def test_other_rows_of_another_process_tell_nothing(path: Path, bench: Bench) -> None:
    store = open_store(path)
    store.write(exchange("r1"))
    store.accounts.add(an_account())
    assert until(lambda: len(bench.accounts) == 2)
    store.write(exchange("r2"))
    store.close()
    bench.writer.call(lambda _: None).result(PATIENCE)
    bench.writer.flush(PATIENCE)
    assert len(bench.accounts) == 2


def test_a_listener_that_raises_is_asked_again(path: Path) -> None:
    answers = iter([None, RuntimeError("not now"), None])
    heard: list[int] = []

    def listen(accounts: list[Account]) -> None:
        error = next(answers)
        if error is not None:
            raise error
        heard.append(len(accounts))

    troubles: list[str] = []
    writer = Writer(lambda: open_store(path), on_change=listen, on_trouble=troubles.append)
    writer.start()
    writer.call(lambda store: store.accounts.add(an_account())).result(PATIENCE)
    assert until(lambda: heard == [0, 1])
    assert troubles == ["the writer stumbled over RuntimeError: not now"]
    assert writer.close(PATIENCE)


# -- trouble


def test_a_locked_database_costs_nothing(path: Path, bench: Bench) -> None:
    with held_lock(path):
        before = time.perf_counter()
        bench.put(*exchange("r1"))
        assert time.perf_counter() - before < 30  # and not until the lock is free
        assert not bench.writer.flush(0.5)
        bench.put(*exchange("r2"))
    assert bench.writer.flush(PATIENCE)
    assert bench.ids() == ["r1", "r2"]
    assert ["lock" in text for text in bench.troubles] == [True, False]
    assert "works again" in bench.troubles[-1]


def test_a_full_disk_is_named_and_outlived(bench: Bench) -> None:
    def limit(store: Store) -> None:
        pages = store.query("PRAGMA page_count")[0][0]
        store.query(f"PRAGMA max_page_count = {pages}")

    bench.writer.call(limit).result(PATIENCE)
    big = [started(f"r{number}", user_agent="x" * 5000) for number in range(20)]
    bench.put(*big)
    assert not bench.writer.flush(0.5)
    assert until(lambda: bool(bench.troubles))
    assert bench.troubles == ["nothing can be recorded at the moment: the disk is full: free some space"]
    bench.writer.call(lambda store: store.query("PRAGMA max_page_count = 100000")).result(PATIENCE)
    assert bench.writer.flush(PATIENCE)
    assert len(bench.ids()) == 20
    assert len(bench.troubles) == 2


def test_a_deleted_database_is_told_and_not_made_anew(path: Path, bench: Bench) -> None:
    path.unlink()
    bench.put(started("r1"))
    assert until(lambda: any("deleted" in text for text in bench.troubles))
    assert not path.exists()
    assert not bench.writer.close(0.1)


@pytest.mark.parametrize("bad", [attempt("nobody"), ExchangeStarted(*[object()] * 10)])  # type: ignore[arg-type]
def test_a_record_that_cannot_be_written_takes_no_other_along(bad: Record, bench: Bench) -> None:
    bench.put(started("r1"), bad, started("r2"), bad, started("r3"))
    assert bench.writer.flush(PATIENCE)
    assert bench.ids() == ["r1", "r2", "r3"]
    assert bench.writer.dropped_rows == 2
    assert sum("cannot be written" in text for text in bench.troubles) == 1


def test_hostile_text_is_recorded(bench: Bench) -> None:
    bench.put(started("r1", user_agent="\udcff\0"))
    assert bench.writer.flush(PATIENCE)
    assert (bench.ids(), bench.troubles) == (["r1"], [])


def test_bodies_go_first_then_the_oldest_rows_and_both_are_told(path: Path) -> None:
    bench = Bench(path, max_rows=10, max_payload_bytes=100)
    bench.writer.start()
    with held_lock(path):
        bench.put(started("taken"))
        assert until(lambda: bool(bench.troubles))
        bench.put(started("r0"), payload("r0", bytes(60)), payload("r0", bytes(60), "response"))
        bench.put(*(started(f"r{number}") for number in range(1, 13)))
        assert (bench.writer.dropped_payloads, bench.writer.dropped_rows) == (2, 3)
        assert until(lambda: "are lost so far" in bench.troubles[-1])
    assert bench.writer.flush(PATIENCE)
    assert bench.ids() == ["taken", *(f"r{number}" for number in range(3, 13))]
    assert bench.writer.close(PATIENCE)


class Fragile(Store):
    """A store whose every other write fails in a way that nobody expected."""

    def write(self, batch: Any) -> None:
        if getattr(self, "_is_next_bad", True):
            self._is_next_bad = False
            raise MemoryError("as it happens")
        self._is_next_bad = True
        super().write(batch)


def test_the_thread_outlives_any_exception(path: Path) -> None:
    open_store(path).close()
    bench = Bench(path, open=lambda: Fragile.open(path, None))
    bench.writer.start()
    for number in range(4):
        bench.put(started(f"r{number}"))
        assert bench.writer.flush(PATIENCE)
    assert len(bench.ids()) + bench.writer.dropped_rows == 4
    assert bench.writer.close(PATIENCE)


# -- the end


def test_close_writes_what_waits(path: Path) -> None:
    bench = Bench(path)
    bench.writer.start()
    bench.put(*(started(f"r{number}") for number in range(1000)))
    assert bench.writer.close(PATIENCE)
    store = open_store(path)
    assert count(store, "requests") == 1000
    store.close()


def test_after_the_end_nothing_is_taken_and_nothing_raises(path: Path) -> None:
    bench = Bench(path)
    bench.writer.start()
    assert bench.writer.close(PATIENCE)
    assert bench.writer.close(PATIENCE)
    bench.put(started("late"))
    assert bench.writer.dropped_rows == 1
    assert not bench.writer.flush(PATIENCE)
    with pytest.raises(StoreError, match="closed"):
        bench.writer.call(lambda store: None).result(PATIENCE)


def test_a_writer_that_never_started_closes(path: Path) -> None:
    bench = Bench(path)
    assert bench.writer.close(PATIENCE)
    bench.put(started("late"))
    assert bench.writer.dropped_rows == 1


def test_close_is_bounded_and_counts_what_it_lost(path: Path) -> None:
    bench = Bench(path)
    bench.writer.start()
    with held_lock(path):
        bench.put(started("r1"))
        before = time.monotonic()
        assert not bench.writer.close(0.3)
        assert time.monotonic() - before < 30  # and not until the lock is free
        assert until(lambda: bench.writer.dropped_rows == 1)
    assert "could not be recorded before the end" in bench.troubles[-1]


_WRITE_FOR_EVER = """
import itertools, pathlib, sys, database_kit as kit
from ccflare_core.writer.writer import Writer
def open_store():
    store = kit.open_store(pathlib.Path(sys.argv[1]))
    store.runs.start(sys.argv[2], "host", 11)
    return store
writer = Writer(open_store, on_change=lambda _: None, on_trouble=lambda _: None)
writer.start()
for number in itertools.count():
    name = f"{sys.argv[2]}-{number}"
    for record in kit.exchange(name) if number % 2 else [kit.started(name, run_id=sys.argv[2])]:
        writer.put(record)
    if number % 7 == 0 and writer.flush(10):
        print(name, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    chance = random.Random(7)
    acknowledged: set[str] = set()
    for number in range(5):
        child = start_python(_WRITE_FOR_EVER, path, f"run{number}")
        assert child.stdout is not None
        acknowledged |= {child.stdout.readline().strip() for _ in range(chance.randint(1, 25))}
        child.kill()
        output, _ = child.communicate(timeout=PATIENCE)
        acknowledged |= set(output.split("\n")[:-1])  # the last line may be cut off
    store = open_store(path)
    assert store.query("PRAGMA integrity_check") == [("ok",)]
    assert acknowledged <= {name for (name,) in store.query("SELECT id FROM requests")}
    assert store.runs.close_dead("host", lambda pid: False, NOW) > 0
    assert store.query("SELECT COUNT(*) FROM requests WHERE outcome IS NULL") == [(0,)]
    store.close()


# -- the watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_run_has_a_heartbeat_every_fifteen_seconds(path: Path) -> None:
    clock = Clock()
    store = Store.open(path, None, wall=clock)
    store.runs.start("run", "host", 1)
    watch = Watch(store, lambda _: None, RateLimitedWarnings(lambda _: None, clock), clock)
    beats = []
    for _ in range(4):
        watch.look()
        beats.append(store.query("SELECT heartbeat_at FROM runs")[0][0])
        clock.now += 10
    assert beats == [100_000, 100_000, 120_000, 120_000]
    store.close()


@pytest.fixture
def watched(path: Path) -> Iterator["Watched"]:
    with contextlib.closing(open_store(path)) as store, contextlib.closing(open_store(path)) as other:
        yield Watched(store, other)


class Watched:
    """A watch on a store that is told of no change, as if announcements were lost, and a store that changes things."""

    def __init__(self, store: Store, other: Store) -> None:
        self.store = store
        self.other = other
        self.clock = Clock()
        self.hears = True
        self.accounts: list[int] = []
        self.keys: list[int] = []
        self.blocked: list[int] = []
        self.shares: list[float] = []
        self.troubles: list[str] = []
        self.watch = Watch(
            store,
            lambda accounts: self.accounts.append(len(accounts)),
            RateLimitedWarnings(self.troubles.append, self.clock),
            self.clock,
            on_client_keys=lambda ring: self.keys.append(len(ring.keys)),
            on_store_changed=lambda store: self.blocked.append(len(store.blocklist.all())),
            on_shares=lambda: self.shares.append(self.clock.now),
            hears=lambda: self.hears,
        )
        self.watch.look()

    def look_after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.watch.look()


def test_all_is_looked_at_anew_at_once_only_where_changes_are_not_announced(watched: Watched) -> None:
    """Others write all the time: to read everything for each of their records would take more than the records."""
    watched.other.accounts.add(an_account("max-1"))
    watched.look_after(0.3)
    assert watched.accounts == [0]
    watched.hears = False
    watched.look_after(0.3)
    assert watched.accounts == [0, 1]


def test_a_block_a_key_and_an_account_count_within_a_second_though_their_notice_is_lost(watched: Watched) -> None:
    watched.other.blocklist.block(Network.parse("192.0.2.9"))
    watched.other.clients.add(new_key("laptop", NOW))
    watched.other.accounts.add(an_account("max-1"))
    for _ in range(3):
        watched.look_after(0.3)
    assert (watched.accounts, watched.keys, watched.blocked[-1]) == ([0, 1], [0, 1], 1)


def test_what_could_not_be_read_is_read_at_the_next_look(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may change anything after that for hours, and the database tells of a change once."""
    watched.hears = False
    watched.other.accounts.add(an_account("max-1"))

    def fail() -> None:
        monkeypatch.undo()
        raise StoreError("away")

    monkeypatch.setattr(watched.store.accounts, "all", fail)
    watched.look_after(1)
    assert (watched.accounts, watched.troubles) == ([0], ["away"])
    watched.look_after(1)
    assert watched.accounts == [0, 1]


def test_a_complaint_is_made_once_a_minute() -> None:
    clock = Clock()
    heard: list[str] = []
    voice = RateLimitedWarnings(heard.append, clock)
    for _ in range(130):
        voice.warn("topic", f"at {clock.now}")
        clock.now += 1
    assert heard == ["at 100.0", "at 160.0", "at 220.0"]


def test_the_database_can_be_read_by_any_tool_meanwhile(path: Path, bench: Bench) -> None:
    bench.put(*exchange("r1"))
    bench.writer.flush(PATIENCE)
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    assert connection.execute("SELECT outcome FROM requests").fetchall() == [("ok",)]
    connection.close()
