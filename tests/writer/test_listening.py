"""A change by one proxy reaches another by an announcement alone: the poll of these writers comes once an hour."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ccflare_core.accounts.cooldowns import WHOLE
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.config.location import Server
from ccflare_core.db.announcements import ANYTHING, Channel
from ccflare_core.db.engine_choice import hear
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import CooldownCleared, CooldownSet, WindowRead
from ccflare_core.http.addresses import Networks
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from ccflare_core.writer.listening import Listening
from ccflare_core.writer.writer import Writer
from database_kit import NOW, SECRETS, a_cooldown, an_account, exchange, open_store
from harness import eventually
from listening_kit import OPTION, PATIENCE, Other
from postgres_kit import Cluster

BLOCKED = Networks.parse("203.0.113.7")


def sees(condition: Callable[[], object]) -> None:
    eventually(lambda: bool(condition()), timeout=PATIENCE)


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    """That of the proxy that makes the changes."""
    with contextlib.closing(open_store(server)) as store:
        yield store


@pytest.fixture
def other(server: Server, store: Store) -> Iterator[Other]:
    with Other(server, server).running() as other:
        sees(lambda: other.listening.works and other.looks >= 2)  # at the start, and when it has begun to listen
        yield other


@pytest.mark.postgres
def test_a_pause_a_revocation_and_a_block_reach_another_proxy_without_its_poll(store: Store, other: Other) -> None:
    store.accounts.add(account := an_account())
    sees(lambda: other.paused == {account.name: False})
    store.accounts.update(account.id, paused=True)
    sees(lambda: other.paused == {account.name: True})
    secret = store.clients.add(new_key("laptop", NOW))
    sees(lambda: other.ring is not None and other.ring.find(secret) is not None)
    store.clients.revoke("laptop")
    sees(lambda: other.ring is not None and other.ring.find(secret) is None)
    store.blocklist.block(BLOCKED[0])
    sees(lambda: other.blocked == BLOCKED)


@pytest.mark.postgres
def test_limits_reach_another_proxy_without_its_poll_and_in_order(store: Store, other: Other) -> None:
    cooldown, window = a_cooldown("a"), Window("5h", "rejected", 1.0, NOW + 60)
    store.write([CooldownSet(cooldown), WindowRead("a", 1, window)])
    sees(lambda: len(other.limits) == 1)
    store.write([CooldownCleared("a", WHOLE)])
    sees(lambda: len(other.limits) == 2)
    assert other.limits == [((cooldown,), (), {"a": (window,)}), ((), (cooldown,), {})]


@pytest.mark.postgres
def test_a_listener_that_was_cut_off_comes_back_and_catches_up(
    cluster: Cluster, server: Server, store: Store, other: Other
) -> None:
    """What is committed while nobody listens: the server ends the connection, then the change follows at once."""
    looks = other.looks
    listening = "FROM pg_stat_activity WHERE query = 'LISTEN {}'"
    assert store.channel is not None
    ended = cluster.execute(f"SELECT pg_terminate_backend(pid) {listening.format(store.channel.name)}")
    assert ended == [(True,)]
    store.accounts.add(an_account())
    sees(lambda: other.paused)
    sees(lambda: other.looks > looks)
    store.accounts.update(an_account().id, paused=True)
    sees(lambda: other.paused == {an_account().name: True})
    assert other.said == []
    assert other.listening.problem is None


@pytest.mark.postgres
def test_what_is_announced_holds_no_secret_and_comes_once_a_transaction(server: Server, store: Store) -> None:
    assert store.channel is not None
    origin, texts = store.channel.origin, list[str]()
    with contextlib.closing(hear(server, store.channel, OPTION)) as hearing:
        store.accounts.add(an_account())
        store.write([*exchange("r-1"), CooldownSet(a_cooldown("a"))])
        store.write(exchange("r-2")[:1])  # a record alone is nobody's news
        store.runs.start("run-1", "here", 1)
        with contextlib.suppress(RuntimeError), store.audited("a.b"):
            store.blocklist.block(BLOCKED[0])
            raise RuntimeError  # what is undone has not changed
        with store.audited("a.b"):
            store.accounts.update(an_account().id, paused=True)
            store.clients.add(new_key("laptop", NOW))
        store.announce_test()
        while store.channel.test not in texts:  # which comes last
            found = hearing._texts(PATIENCE)
            assert found, texts
            texts += found
    assert texts == [f"{origin} accounts", f"{origin} limits", f"{origin} access,accounts", f"{origin} test"]
    assert not [secret for secret in SECRETS if secret in str(texts)]


@pytest.mark.postgres
def test_what_is_announced_comes_before_what_waits_for_the_database(store: Store, other: Other) -> None:
    """A call that waits for others' lock keeps the next ones waiting, but not what was heard meanwhile."""
    gate, is_held = threading.Event(), threading.Event()

    def hold(_: Store) -> None:
        is_held.set()
        gate.wait(PATIENCE)

    other.writer.call(hold)
    assert is_held.wait(PATIENCE)
    known = other.writer.call(lambda _: len(other.limits))
    store.write([CooldownSet(a_cooldown("a"))])
    sees(lambda: other.writer._announced)
    gate.set()

    assert known.result(PATIENCE) == 1


class Woken(Writer):
    """A writer of a store that announces; counts how often it is woken, and keeps no store."""

    def __init__(self) -> None:
        self.woken = 0

    def call(self, function: Callable[[Any], Any], changes: Set[str] = ANYTHING) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(SimpleNamespace(channel=Channel("c", "aa"), announce_test=lambda: None)))
        return future

    def wake(self, kinds: Set[str]) -> None:
        self.woken += 1


class Spoken:
    """A connection on which so many announcements wait, and that is lost then."""

    def __init__(self, announced: int) -> None:
        self._left = announced

    def works(self, announce_test: Callable[[], object]) -> bool:
        announce_test()
        return True

    def news(self, seconds: float) -> frozenset[str]:
        self._left -= 1
        if self._left < 0:
            raise StoreError("lost")
        return frozenset({"limits"})

    def close(self) -> None:
        pass


@contextlib.contextmanager
def listening_to(*found: Spoken | StoreError) -> Iterator[tuple[Woken, Listening, list[str]]]:
    """What happens when these come of the attempts to connect, one after another; the last one stays."""
    writer, said, attempts = Woken(), list[str](), deque(found)

    def connect(server: Server, channel: Channel) -> Spoken:
        each = attempts.popleft() if len(attempts) > 1 else attempts[0]
        if isinstance(each, StoreError):
            raise each
        return each

    listening = Listening(writer, Server("postgresql://db/x"), connect, say=said.append)
    listening.start()
    try:
        yield writer, listening, said
    finally:
        listening.close()


def test_a_burst_wakes_the_writer_twenty_times_a_second_at_most() -> None:
    began = time.monotonic()
    with listening_to(Spoken(11), StoreError("away")) as (writer, listening, _):
        sees(lambda: listening.problem)
        assert time.monotonic() - began >= 0.5
        assert writer.woken == 12  # and once for what came before it listened


def test_what_keeps_announcements_away_is_said_once_and_its_end_too() -> None:
    away = StoreError("the server is away")
    with listening_to(away, away, Spoken(1), Spoken(1), away, away) as (_, listening, said):
        sees(lambda: len(said) == 3)
        assert listening.problem == said[0] == said[2]
    assert said[0] == "changes by other proxies arrive by the poll, within a second: the server is away"
    assert "at once again" in said[1]


def test_kinds_that_only_a_newer_version_knows_have_everything_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "ccflare.db"
    with Other(path, None).running() as other, contextlib.closing(open_store(path)) as store:
        store.accounts.add(an_account())
        other.writer.wake({"leases"})
        sees(lambda: other.paused)


def test_with_a_file_nothing_runs(tmp_path: Path) -> None:
    before = {*threading.enumerate()}
    with Other(tmp_path / "ccflare.db", None).running() as other:
        assert [thread.name for thread in {*threading.enumerate()} - before] == ["ccflare-writer"]
        assert (other.listening.works, other.listening.problem) == (False, None)
