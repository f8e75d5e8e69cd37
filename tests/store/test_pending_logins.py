"""Begun logins: sealed, good for one use and ten minutes, and gone afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.oauth import Mode, PendingLogin
from ccflare_core.config.location import Location
from ccflare_core.errors import TokenError, VaultError
from ccflare_core.store.store import Store
from database_kit import KEY, NOW, count, open_store

PENDING = PendingLogin.begin(Mode.CONSOLE, NOW)


class Clock:
    now = NOW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(location: Location, clock: Clock) -> Iterator[Store]:
    store = Store.open(location, KEY, wall=lambda: clock.now)
    yield store
    store.close()


def test_a_login_comes_back_whole(store: Store) -> None:
    session = store.sessions.begin("max-1", PENDING)

    assert store.sessions.take(session, "max-1") == PENDING


def test_it_can_be_taken_once(store: Store) -> None:
    session = store.sessions.begin("max-1", PENDING)
    store.sessions.take(session, "max-1")

    with pytest.raises(TokenError, match="used before"):
        store.sessions.take(session, "max-1")


def test_whoever_asks_for_another_account_ends_it(store: Store) -> None:
    session = store.sessions.begin("max-1", PENDING)

    with pytest.raises(TokenError, match="begin again"):
        store.sessions.take(session, "max-2")
    assert count(store, "oauth_sessions") == 0


@pytest.mark.parametrize("passed", [600.0, 100_000.0, -61.0])
def test_it_is_over_after_ten_minutes_or_when_the_clock_was_set_back(store: Store, clock: Clock, passed: float) -> None:
    session = store.sessions.begin("max-1", PENDING)
    clock.now += passed

    with pytest.raises(TokenError, match="10 minutes"):
        store.sessions.take(session, "max-1")
    assert count(store, "oauth_sessions") == 0


def test_what_nobody_finishes_goes_with_the_next_login(store: Store, clock: Clock) -> None:
    store.sessions.begin("max-1", PENDING)
    clock.now += 600
    later = PendingLogin.begin(Mode.MAX, clock.now)

    session = store.sessions.begin("max-2", later)

    assert count(store, "oauth_sessions") == 1
    assert store.sessions.take(session, "max-2") == later


def test_what_nobody_finishes_goes_while_a_proxy_runs(store: Store, clock: Clock) -> None:
    store.runs.start("run-1", "host", 1)
    store.sessions.begin("max-1", PENDING)
    store.heartbeat("run-1")
    assert count(store, "oauth_sessions") == 1

    clock.now += 600
    store.heartbeat("run-1")

    assert count(store, "oauth_sessions") == 0


def test_neither_verifier_nor_state_is_in_the_files(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    store.sessions.begin("max-1", PENDING)

    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.close()
    assert b"max-1" in files
    assert PENDING.verifier.encode() not in files
    assert PENDING.state.encode() not in files


def test_a_sealed_verifier_opens_in_its_own_row_only(store: Store) -> None:
    first, second = store.sessions.begin("max-1", PENDING), store.sessions.begin("max-1", PENDING)
    swap = "UPDATE oauth_sessions SET verifier = (SELECT verifier FROM oauth_sessions WHERE id = ?) WHERE id = ?"
    store.query(swap, (second, first))

    with pytest.raises(VaultError):
        store.sessions.take(first, "max-1")


def test_without_a_key_no_login_begins(location: Location) -> None:
    store = open_store(location, source=None)

    with pytest.raises(VaultError, match="without a key"):
        store.sessions.begin("max-1", PENDING)
    store.close()
