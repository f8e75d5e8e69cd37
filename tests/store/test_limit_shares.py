"""Limits that several proxies keep together: no schedule of starts, deaths, freezes and cuts makes them allow more."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccflare_core.clients.rate_limits import Moment
from ccflare_core.clients.shares import SOME
from ccflare_core.clients.sharing import Limit
from ccflare_core.config.location import Location
from ccflare_core.reports.proxies import SILENT_SECONDS
from ccflare_core.store import limit_shares
from database_kit import open_store
from key_kit import Key
from shares_kit import SharingProxy, World, world_of

DEAD = SILENT_SECONDS + 16
"""Seconds after which everybody has taken a silent proxy for dead."""
MOST_TOKENS = 100
"""What an exchange uses at most."""


class Referee:
    """Keeps count of what all proxies together have allowed, and by how much that was too much."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spent_before = 0
        self.level = float(world.key.requests_per_minute or 0)
        self.at = world.now
        self.worst_open = self.worst_spent = self.disturbed = 0
        self.lowest = 0.0
        self.overshoot = 0

    def pass_(self, seconds: float) -> None:
        """Time passes, and a bucket of the whole limit refills; those that are cut off may have some on top."""
        per_minute = self.world.key.requests_per_minute
        if per_minute:
            cut = sum(max(1, per_minute // 20) for proxy in self.world.proxies if proxy.is_cut)
            self.level = min(per_minute, self.level + seconds * (per_minute + cut) / 60)
        self.world.now += seconds

    def let_in(self) -> None:
        """A request was let in."""
        self.level -= 1
        self.lowest = min(self.lowest, self.level)
        self.look()

    def look(self) -> None:
        """Take note of what is open and spent now."""
        key = self.world.key
        awake = [proxy for proxy in self.world.proxies if not proxy.is_frozen]
        if key.concurrency:
            for proxy in awake:
                proxy.was_cut = proxy.is_cut or (proxy.was_cut and bool(proxy.open))
            alone = sum(max(1, key.concurrency // 20) for proxy in awake if proxy.was_cut)
            self.worst_open = max(self.worst_open, sum(len(proxy.open) for proxy in awake) - key.concurrency - alone)
        if key.tokens_per_day:
            spent = self.spent_before + sum(proxy.spent for proxy in self.world.proxies)
            number = len(self.world.proxies) + self.disturbed
            by_chance = number * max(MOST_TOKENS, key.tokens_per_day // 20)
            self.worst_spent = max(self.worst_spent, spent - key.tokens_per_day - by_chance)
            self.overshoot = max(self.overshoot, spent - key.tokens_per_day)


class Schedule:
    """A random one."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.referee = Referee(world)
        self.skew = random.choice([0.0, 600.0])
        self.favoured = random.random() < 0.5

    def run(self, steps: int) -> Referee:
        self.start()
        for _ in range(steps):
            self.step()
        return self.referee

    def start(self) -> None:
        self.world.start(self.random.uniform(-self.skew, self.skew))

    def step(self) -> None:
        """Something happens, some requests come and go, and time passes."""
        proxies, random = self.world.proxies, self.random
        one = random.choice(proxies)
        event = random.random()
        if event < 0.05 and len(proxies) < 4:
            self.start()
        elif event < 0.07 and len(proxies) > 1 and not one.is_cut and not one.is_frozen:
            self.end(one, by=random.choice(["stop", "kill", "killed"]))
        elif event < 0.10:
            one.is_frozen = not one.is_frozen
            self.referee.disturbed += one.is_frozen
            while one.open and not one.is_frozen:  # nobody waits for so long
                one.end(self.random.randint(1, MOST_TOKENS))
        elif event < 0.13:
            one.is_cut = not one.is_cut and not one.is_frozen and len(proxies) > 1
            self.referee.disturbed += one.is_cut
        elif event < 0.16:
            one.loses_answers = not one.loses_answers
        for proxy in proxies:
            self.traffic(proxy)
        self.referee.pass_(random.choice([0.1, 0.25, 0.25, 1.0, 1.0, 5.0] + [DEAD] * (random.random() < 0.1)))
        for proxy in random.sample(proxies, len(proxies)):
            proxy.tick()

    def end(self, proxy: SharingProxy, by: str) -> None:
        if by == "stop":
            while proxy.open:
                proxy.end(self.random.randint(1, MOST_TOKENS))
            proxy.loses_answers = False
        self.referee.spent_before += proxy.spent
        self.referee.disturbed += by != "stop"
        proxy.stop() if by == "stop" else proxy.kill(is_seen=by == "killed")

    def traffic(self, proxy: SharingProxy) -> None:
        if proxy.is_frozen:
            return
        most = 6 if not self.favoured or proxy is self.world.proxies[0] else 1
        for _ in range(self.random.randint(0, most)):
            if proxy.open and self.random.random() < 0.5:
                proxy.end(self.random.randint(1, MOST_TOKENS))
            elif proxy.ask() is None:
                self.referee.let_in()
        self.referee.look()


def day_of(proxy: SharingProxy) -> str:
    return f"tokens/{datetime.fromtimestamp(proxy.wall(), UTC):%Y-%m-%d}"


@contextlib.contextmanager
def a_world(made: Path, key: Key) -> Iterator[World]:
    """A world with a database of its own."""
    with TemporaryDirectory() as folder, world_of(Path(shutil.copy2(made, Path(folder) / "ccflare.db")), key) as world:
        yield world


@pytest.fixture
def make(made: Path) -> Iterator[Callable[[Key, int], World]]:
    """Makes a world with so many proxies, which have their shares."""
    with contextlib.ExitStack() as stack:

        def make_world(key: Key, number: int) -> World:
            world = stack.enter_context(a_world(made, key))
            for _ in range(number):
                world.start()
            world.settle()
            return world

        yield make_world


SCHEDULES = settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize(
    "key",
    [
        Key(concurrency=1),
        Key(concurrency=12),
        Key(requests_per_minute=2),
        Key(requests_per_minute=40),
        Key(tokens_per_day=6000),
    ],
    ids=["1 open", "12 open", "2 a minute", "40 a minute", "6000 tokens"],
)
@SCHEDULES
@given(seed=st.integers(0, 10_000))
def test_no_schedule_makes_all_together_allow_more_than_the_limit(made: Path, key: Key, seed: int) -> None:
    with a_world(made, key) as world:
        referee = Schedule(world, Random(seed)).run(80)

        alone = max(1, (key.requests_per_minute or 0) // 20)
        assert referee.worst_open <= 0
        assert referee.lowest >= -alone * (1 + referee.disturbed) or key.requests_per_minute is None
        assert referee.worst_spent <= 0


# -- one proxy


def test_a_proxy_that_is_alone_has_everything_and_asks_nobody(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=3, requests_per_minute=4), 1)
    [proxy] = world.proxies
    calls = proxy.calls

    assert [proxy.ask() for _ in range(3)] == [None] * 3
    world.settle(30)

    assert proxy.ask() is not None
    assert proxy.calls == calls == 1  # whether it is alone
    assert not proxy.rates.shares.is_shared


def test_a_proxy_that_is_left_alone_has_everything_again(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=6), 2)
    one, two = world.proxies
    assert [one.cap("open"), two.cap("open")] == [3, 3]

    two.stop()
    world.settle(15)

    assert not one.rates.shares.is_shared
    assert [one.ask() for _ in range(6)] == [None] * 6


# -- by demand


def test_the_share_follows_the_requests(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=10), 3)
    one = world.proxies[0]

    def busy() -> int:
        while one.ask() is None:
            pass
        world.settle(0.5)
        return one.cap("open")

    assert [busy() for _ in range(4)][-1] == 10
    assert sum(proxy.cap("open") for proxy in world.proxies) == 10


def test_two_with_the_same_demand_have_half_each(make: Callable[[Key, int], World]) -> None:
    world = make(Key(requests_per_minute=60), 2)
    for _ in range(100):
        for proxy in world.proxies:
            if proxy.ask() is None:
                proxy.end()
        world.settle(0.25)
    assert [proxy.cap("requests a minute") for proxy in world.proxies] == [30, 30]
    served = sum(proxy.admitted for proxy in world.proxies)
    assert 60 + 25 * 0.9 <= served <= 60 + 29


def test_one_slot_goes_to_whoever_asks_and_nobody_starves(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=1), 3)
    waits: list[float] = []
    for proxy in (*world.proxies, *world.proxies):
        began = world.now
        while proxy.ask() is not None:
            world.settle(0.1, 0.1)
        waits.append(world.now - began)
        assert sum(len(each.open) for each in world.proxies) == 1
        proxy.end()
    assert max(waits) <= 1.0

    served = [proxy.admitted for proxy in world.proxies]
    for _ in range(300):
        for proxy in world.proxies:
            if proxy.open:
                proxy.end()
            proxy.ask()
            assert sum(len(each.open) for each in world.proxies) <= 1
        world.settle(0.1, 0.1)
    assert min(proxy.admitted - before for proxy, before in zip(world.proxies, served, strict=True)) >= 10


def test_a_budget_is_used_up_whole_by_whoever_spends_and_then_refused_until_its_end(
    make: Callable[[Key, int], World],
) -> None:
    world = make(Key(tokens_per_day=5000), 3)
    one, two, _ = world.proxies
    while (rejection := one.ask()) is None or not rejection.is_final:
        if rejection is None:
            one.end(50)
        else:
            assert rejection.retry_after == 1
        world.settle(0.2, 0.1)

    assert 5000 <= one.spent <= 5050
    assert "has used its 5000 tokens of today" in rejection.message
    assert rejection.retry_after is not None
    assert rejection.retry_after > 3600
    assert two.ask() is not None


# -- faults


def test_a_killed_proxys_share_comes_free_when_it_is_taken_for_dead(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=6), 3)
    world.proxies[2].kill()
    world.settle(SILENT_SECONDS - 5, 1)
    assert sum(proxy.cap("open") for proxy in world.proxies) == 4
    world.settle(20, 1)
    assert sum(proxy.cap("open") for proxy in world.proxies) == 6


def test_a_proxy_that_was_frozen_lets_nothing_in_before_it_has_asked(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=1), 2)
    one, two = world.proxies if world.proxies[0].cap("open") else world.proxies[::-1]
    one.is_frozen = True
    world.settle(60, 1)
    for _ in range(3):
        two.ask()
        world.settle(1)
    assert len(two.open) == 1

    one.is_frozen = False
    assert one.ask() is not None
    world.settle(1)
    assert one.ask() is not None


def test_a_proxy_that_was_alone_and_frozen_lets_nothing_in_before_it_has_asked(
    make: Callable[[Key, int], World],
) -> None:
    world = make(Key(concurrency=1), 1)
    [one] = world.proxies
    one.is_frozen = True
    two = world.start()
    world.settle(70, 1)
    assert two.ask() is None

    one.is_frozen = False
    assert one.ask() is not None
    world.settle(1)
    assert one.ask() is not None
    assert len(two.open) == 1


def test_a_proxy_that_is_cut_off_keeps_to_its_share_and_later_to_a_twentieth(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=40, tokens_per_day=100_000), 2)
    one, two = world.proxies
    shares = [(proxy.cap("open"), proxy.cap(day_of(proxy))) for proxy in world.proxies]
    one.is_cut = True
    world.settle(30, 1)
    assert (one.cap("open"), one.cap(day_of(one))) == shares[0]
    world.settle(40, 1)
    assert one.cap("open") == 2
    assert one.cap(day_of(one)) == shares[0][1]
    assert two.cap("open") > 40 or not two.rates.shares.is_shared


def test_what_a_lost_answer_had_granted_is_not_used(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=6), 1)
    two = world.start()
    two.loses_answers = True
    world.settle(5)
    assert two.ask() is not None
    two.loses_answers = False
    world.settle(5)
    assert [proxy.cap("open") for proxy in world.proxies] == [3, 3]


# -- changes


def test_a_changed_limit_holds_for_all(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=6), 2)
    for most in (2, 9):
        world.set_key(replace(world.key, concurrency=most))
        world.settle()
        assert sum(proxy.cap("open") for proxy in world.proxies) == most


def test_what_was_spent_before_there_were_others_counts(make: Callable[[Key, int], World]) -> None:
    world = make(Key(tokens_per_day=1000), 1)
    [one] = world.proxies
    assert one.ask() is None
    one.end(990)
    two = world.start()
    world.settle()
    for proxy in (one, two):
        while proxy.ask() is None:
            proxy.end(10)
            world.settle(0.5)
    assert 1000 <= one.spent + two.spent <= 1010


def test_the_next_day_begins_anew_for_all(make: Callable[[Key, int], World]) -> None:
    world = make(Key(tokens_per_day=1000), 2)
    one, two = world.proxies
    while one.ask() is None:
        one.end(100)
        world.settle(1)
    left = 86_400 - one.wall() % 86_400
    world.settle(left + 1, (left + 1) / 60)
    for proxy in (one, two):
        assert proxy.ask() is None
        proxy.end(10)


def test_tunnels_use_a_slot_and_no_budget(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=2, tokens_per_day=100), 2)
    [one, _] = world.proxies
    one.rates.count_key(world.key, Moment(world.now, one.wall()), spends=False)
    assert one.rates.open_now("k1") == 1
    assert one.rates.spending_now("k1") == 0
    one.rates.ended(world.key, one.wall(), None, None, spends=False)
    assert one.rates.open_now("k1") == 0


def test_a_batch_that_is_larger_than_the_share_waits_for_it(make: Callable[[Key, int], World]) -> None:
    world = make(Key(tokens_per_day=100_000), 2)
    one, two = world.proxies
    key, at = world.key, one.wall()
    rejection = one.rates.too_large(key, 10, 60_000, Decimal(), at)
    assert rejection is not None
    assert (rejection.retry_after, rejection.is_final) == (1, False)
    world.settle(2)
    assert one.rates.too_large(key, 10, 60_000, Decimal(), at) is None
    one.rates.budgets.reserve("batch", key, at, 60_000, Decimal())
    world.settle(2)
    assert two.rates.too_large(key, 10, 60_000, Decimal(), at) is not None
    assert two.ask() is None


def test_what_ended_long_ago_is_deleted(make: Callable[[Key, int], World]) -> None:
    world = make(Key(tokens_per_day=1000), 2)
    [one, _] = world.proxies
    held = "SELECT COUNT(*) FROM limit_shares WHERE scope <> ''"
    assert one.store.query(held)[0][0] == 3
    world.now += 4 * 86_400
    one.store.shares.purge()
    assert one.store.query(held)[0][0] == 0


# -- rows that nobody should have written, and rows that nobody needs any more


def sql(world: World, text: str) -> list[tuple[Any, ...]]:
    """Run a statement on the database of this world, as a program that is no proxy would."""
    with contextlib.closing(sqlite3.connect(world.path)) as other, other:
        return other.execute(text).fetchall()


@pytest.mark.parametrize("held", ["-1000000", "'all of it'", "4.5", "1000000000000000000"])
@pytest.mark.parametrize("column", ["held", "used", "wanted", "spent", "waiting"])
def test_a_row_with_no_number_opens_no_limit_and_ends_no_proxy(
    make: Callable[[Key, int], World], column: str, held: str
) -> None:
    world = make(Key(concurrency=6, requests_per_minute=6, tokens_per_day=6000), 3)
    number = "(SELECT MAX(number) + 1 FROM limit_shares)"
    sql(world, f"UPDATE limit_shares SET {column} = {held}, number = {number} WHERE scope <> '' AND run_id <> 'run-1'")
    sql(world, "UPDATE limit_shares SET number = (SELECT MAX(number) FROM limit_shares) WHERE scope = ''")

    for _ in range(12):
        for proxy in world.proxies:
            proxy.ask()
        world.settle(0.25)

    assert sum(len(proxy.open) for proxy in world.proxies) <= 6


def test_a_share_that_somebody_else_has_written_is_not_believed(make: Callable[[Key, int], World]) -> None:
    world = make(Key(concurrency=2), 2)
    number = "(SELECT MAX(number) + 1 FROM limit_shares)"
    sql(world, f"UPDATE limit_shares SET held = 500, number = {number} WHERE scope <> '' AND run_id = 'run-1'")
    sql(world, "UPDATE limit_shares SET number = (SELECT MAX(number) FROM limit_shares) WHERE scope = ''")

    world.settle()
    assert sum(proxy.cap("open") for proxy in world.proxies) <= 2
    assert sql(world, "SELECT SUM(held) FROM limit_shares WHERE scope <> ''") == [(2,)]


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over goes after ten minutes."""
    monkeypatch.setattr(limit_shares, "_KEPT_SECONDS", 600.0)


@pytest.mark.parametrize("counter", ["'many'", "-5", "0"])
def test_a_counter_that_went_back_hides_no_share(make: Callable[[Key, int], World], counter: str) -> None:
    world = make(Key(concurrency=6), 3)
    for _ in range(20):  # so that there is something to go back from
        world.proxies[0].ask()
        world.settle(1)
    while world.proxies[0].open:
        world.proxies[0].end()
    sql(world, f"UPDATE limit_shares SET number = {counter} WHERE scope = ''")

    for round_ in range(30):
        proxy = world.proxies[round_ % 3]
        proxy.ask()
        world.settle(0.5)
        assert sum(len(each.open) for each in world.proxies) <= 6
        if proxy.open and round_ % 2:
            proxy.end()
    assert sum(proxy.cap("open") for proxy in world.proxies) == 6


def test_shares_of_runs_that_ended_long_ago_are_deleted(make: Callable[[Key, int], World], short_memory: None) -> None:
    world = make(Key(concurrency=6, requests_per_minute=6), 2)
    for _ in range(5):
        world.start()
        world.settle(3)
        world.proxies[-1].stop()
        world.settle(3)
    number = "SELECT COUNT(DISTINCT run_id) FROM limit_shares WHERE run_id <> ''"
    assert sql(world, number) == [(7,)]

    world.settle(660, 15)
    assert sql(world, number) == [(2,)]
    assert [proxy.cap("open") for proxy in world.proxies] == [3, 3]


def test_the_limits_of_a_key_that_is_gone_leave_nothing_behind(
    make: Callable[[Key, int], World], short_memory: None
) -> None:
    world = make(Key(concurrency=6, requests_per_minute=6), 2)
    world.set_key(Key(id="k2", requests_per_minute=4))
    for proxy in list(world.proxies):
        world.start()
        world.settle()
        proxy.stop()
    world.settle(660, 15)
    assert sql(world, "SELECT COUNT(*) FROM limit_shares WHERE scope = 'key:k1'") == [(0,)]


def test_a_proxy_that_wakes_when_its_share_is_deleted_has_none(
    make: Callable[[Key, int], World], short_memory: None
) -> None:
    world = make(Key(concurrency=6), 3)
    one = world.proxies[0]
    one.is_frozen = True
    world.settle(120, 1)
    world.proxies[1].store.runs.end(one.run_id)
    world.settle(660, 15)
    assert sql(world, f"SELECT COUNT(*) FROM limit_shares WHERE run_id = '{one.run_id}'") == [(0,)]

    one.is_frozen = False
    for proxy in world.proxies[::-1]:
        while proxy.ask() is None:
            pass
    world.settle(0.25)
    assert sum(len(proxy.open) for proxy in world.proxies) <= 6


# -- many keys


def test_a_report_looks_at_the_keys_in_use_and_at_some_others_in_turns(
    make: Callable[[Key, int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(Key(concurrency=4), 2)
    keys = [world.key, *(Key(id=f"other-{number}", concurrency=4) for number in range(200))]
    for proxy in world.proxies:
        proxy.rates.of_keys.take_keys(keys)
    world.settle(20, 1)
    one, looked = world.proxies[0], list[str]()
    used = one.rates.of_keys.used

    def note(limit: Limit) -> tuple[int, int]:
        looked.append(limit.scope)
        return used(limit)

    monkeypatch.setattr(one.rates.of_keys, "used", note)
    assert one.ask() is None
    one.rates.shares.report()
    assert "key:k1" in looked
    assert len(looked) <= SOME + 1

    for _ in range(200 // SOME):
        one.rates.shares.report()
    assert set(looked) == {f"key:{key.id}" for key in keys}


def test_what_is_of_gone_runs_is_deleted_on_any_database(location: Location) -> None:
    with contextlib.closing(open_store(location)) as store:
        for run in ("lives", "gone"):
            store.runs.start(run, "host", 1)
        store.runs.end("gone")
        store.query("UPDATE runs SET ended_at = 1 WHERE id = 'gone'")
        insert = """INSERT INTO limit_shares
            (scope, name, run_id, resource, held, used, wanted, spent, waiting, until, number)
            VALUES (?, 'rate', ?, 'rate', 1, 0, 0, 0, NULL, NULL, 3)"""
        for scope, run in (("a", "lives"), ("a", "gone"), ("a", ""), ("b", "gone"), ("b", "")):
            store.query(insert, (scope, run))

        store.shares.purge()

        left = store.query("SELECT scope, run_id FROM limit_shares WHERE scope <> '' ORDER BY run_id")
        assert left == [("a", ""), ("a", "lives")]
        assert store.shares.look()
