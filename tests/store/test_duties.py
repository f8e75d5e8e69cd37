"""Who has the duty that one of all proxies on a database has: the lease, as the database keeps it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.config.location import Location
from ccflare_core.store.store import Store
from database_kit import count, held_lock, open_store


@pytest.fixture
def stores(location: Location) -> Iterator[tuple[Store, Store]]:
    """Those of two runs."""
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as two:
        one.runs.start("one", "host", 1)
        two.runs.start("two", "host", 2)
        yield one, two


def test_one_run_has_it_and_has_it_anew_with_each_term(stores: tuple[Store, Store]) -> None:
    one, two = stores
    first = one.duties.take("upkeep", "one")
    assert first.is_mine
    assert two.duties.take("upkeep", "two") == (False, first.term)
    again = one.duties.take("upkeep", "one")
    assert (again.is_mine, again.term != first.term) == (True, True)
    assert two.duties.take("upkeep", "two", first.term) == (False, again.term)
    assert two.duties.take("another", "two").is_mine
    assert count(one, "duties") == 2


def test_it_is_free_when_its_run_has_ended_or_its_term_was_watched_for_too_long(stores: tuple[Store, Store]) -> None:
    one, two = stores
    abandoned = one.duties.take("upkeep", "one").term
    theirs = two.duties.take("upkeep", "two", abandoned)
    assert theirs.is_mine
    assert one.duties.take("upkeep", "one", abandoned) == (False, theirs.term)
    two.runs.end("two")
    assert one.duties.take("upkeep", "one").is_mine


def test_who_finds_it_taken_waits_for_no_lock(tmp_path: Path) -> None:
    location = tmp_path / "ccflare.db"
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as two:
        one.runs.start("one", "host", 1)
        two.runs.start("two", "host", 2)
        term = one.duties.take("upkeep", "one").term
        with held_lock(location):
            assert two.duties.take("upkeep", "two") == (False, term)


def test_a_run_that_nobody_knows_keeps_it_until_its_term_was_watched(stores: tuple[Store, Store]) -> None:
    one, _ = stores
    term = one.duties.take("upkeep", "stranger").term
    assert one.duties.take("upkeep", "one") == (False, term)
    assert one.duties.take("upkeep", "one", term).is_mine
