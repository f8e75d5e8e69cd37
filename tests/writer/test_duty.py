"""A duty that one of several proxies has, by their own clocks: kept, handed on, and taken from who is gone."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError
from ccflare_core.store.store import Store
from ccflare_core.writer.duty import HELD_SECONDS, RENEW_SECONDS, WATCH_SECONDS, Duty
from database_kit import open_store


class Proxy:
    """One of them, with a clock that has nothing to do with the others'."""

    def __init__(self, store: Store, name: str, now: float) -> None:
        self.store, self.now = store, now
        store.runs.start(name, "host", 1)
        self.duty = Duty("upkeep", name, lambda: self.now)

    def step(self, seconds: float = RENEW_SECONDS) -> bool:
        """Whether it has the duty after this time."""
        self.now += seconds
        self.duty.step(self.store)
        return self.duty.is_mine


@pytest.fixture
def proxies(location: Location) -> Iterator[tuple[Proxy, Proxy]]:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as two:
        yield Proxy(one, "one", 1_000.0), Proxy(two, "two", 5.0)


def test_the_first_one_keeps_it_as_long_as_it_takes_it_anew(proxies: tuple[Proxy, Proxy]) -> None:
    one, two = proxies
    for _ in range(3 * int(WATCH_SECONDS / RENEW_SECONDS)):
        assert [one.step(), two.step()] == [True, False]


def test_that_of_a_dead_one_ends_after_it_was_watched(proxies: tuple[Proxy, Proxy]) -> None:
    one, two = proxies
    assert one.step()
    waited = 0.0
    two.step()
    while not two.step():
        waited += RENEW_SECONDS
    assert WATCH_SECONDS - RENEW_SECONDS <= waited <= WATCH_SECONDS + RENEW_SECONDS


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the clock of this system stands still meanwhile")
def test_it_ends_while_the_machine_of_who_has_it_sleeps(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def slept(clock: int) -> float:
        return real(clock) + (HELD_SECONDS if clock == time.CLOCK_BOOTTIME else 0.0)

    real = time.clock_gettime
    with contextlib.closing(open_store(location)) as store:
        store.runs.start("one", "host", 1)
        duty = Duty("upkeep", "one")
        duty.step(store)
        assert duty.is_mine
        monkeypatch.setattr(time, "clock_gettime", slept)
        assert not duty.is_mine


def test_one_that_was_frozen_does_nothing_before_it_has_looked(proxies: tuple[Proxy, Proxy]) -> None:
    one, two = proxies
    one.step()
    one.now += HELD_SECONDS
    assert not one.duty.is_mine
    while not two.step():
        pass
    assert not one.step(0)


def test_it_is_free_at_once_when_the_run_has_ended(proxies: tuple[Proxy, Proxy]) -> None:
    one, two = proxies
    one.step()
    two.step()
    one.store.runs.end("one")
    assert two.step()
    assert not one.step(HELD_SECONDS)


def test_a_database_that_does_not_answer_ends_it_in_time(
    proxies: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = proxies
    one.step()

    def fail(*_: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(one.store.duties, "take", fail)
    assert [one.step(), one.step(), one.step()] == [True, True, False]
