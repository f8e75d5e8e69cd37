"""The claim on the first request after a rest, in the database: one run has it, until it is given back or over."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ccflare_core.accounts.probes import Claim
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import CooldownSet, ProbeEnded
from ccflare_core.store.store import Store
from database_kit import NOW, a_cooldown, count, open_store

REST = a_cooldown("a", "opus", until=NOW - 1)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with contextlib.closing(open_store(location)) as store:
        for run in ("one", "two"):
            store.runs.start(run, "host", 1)
        yield store


def test_one_run_has_it_and_others_are_told_its_term(store: Store) -> None:
    mine = store.probes.take(REST, "one")
    assert mine.is_mine
    assert store.probes.take(REST, "two") == Claim(False, mine.term)
    assert store.probes.take(replace(REST, account_id="b"), "two").is_mine
    assert store.probes.take(a_cooldown("a", "haiku", until=NOW - 1), "two").is_mine
    again = store.probes.take(REST, "one")
    assert again.is_mine
    assert again.term != mine.term


def test_it_is_free_when_it_is_given_back_and_stays_when_that_comes_late(store: Store) -> None:
    earlier, later = (store.probes.take(REST, "one").term for _ in range(2))
    store.write([ProbeEnded("a", REST.part, earlier)])
    assert not store.probes.take(REST, "two").is_mine
    store.write([ProbeEnded("a", REST.part, later)])
    assert count(store, "probes") == 0
    assert store.probes.take(REST, "two").is_mine


def test_it_is_free_when_its_owner_has_ended_or_was_watched_for_too_long(store: Store) -> None:
    term = store.probes.take(REST, "one").term
    assert not store.probes.take(REST, "two", "another").is_mine
    assert store.probes.take(REST, "two", term).is_mine
    store.runs.end("two")
    assert store.probes.take(REST, "one").is_mine


def test_what_is_left_of_an_earlier_rest_keeps_nobody_waiting(store: Store) -> None:
    store.probes.take(replace(REST, until=NOW - 100), "one")
    assert store.probes.take(REST, "two").is_mine


def test_nobody_has_it_while_the_part_rests_for_longer_than_the_run_knows(store: Store) -> None:
    """The news of what another's first request has learned is on its way."""
    store.write([CooldownSet(replace(REST, until=NOW + 60)), ProbeEnded("a", REST.part, "any")])
    assert store.probes.take(REST, "two") == Claim(False, "")
    assert store.probes.take(replace(REST, until=NOW + 60), "two").is_mine
    over = replace(REST, part=a_cooldown("a", "haiku").part, until=NOW - 0.5)
    store.write([CooldownSet(over)])
    assert store.probes.take(replace(over, until=NOW - 50), "two").is_mine  # whose clock is late
