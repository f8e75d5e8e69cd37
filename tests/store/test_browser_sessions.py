"""Links that are good once over all proxies, and sessions whose end all learn of."""

import contextlib
from collections.abc import Iterator

import pytest

from ccflare_core.config.location import Location
from ccflare_core.store.store import Store
from ccflare_core.writer.news import Rules
from database_kit import NOW, count, open_store


@pytest.fixture
def stores(location: Location) -> Iterator[tuple[Store, Store]]:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as two:
        yield one, two


def test_a_link_is_used_once_by_whichever_proxy(stores: tuple[Store, Store]) -> None:
    one, two = stores
    assert one.browser_sessions.use_link("n", NOW + 60)
    assert not two.browser_sessions.use_link("n", NOW + 60)
    assert two.browser_sessions.use_link("m", NOW + 60)


def test_a_session_that_ends_in_one_has_ended_in_all(stores: tuple[Store, Store]) -> None:
    one, two = stores
    one.browser_sessions.end("s", NOW + 60)
    one.browser_sessions.end("s", NOW + 60)
    assert two.changed()
    assert Rules.of(two).ended_sessions == {"s"}


def test_what_is_over_anyway_is_forgotten_but_not_by_a_clock_that_is_a_little_fast(location: Location) -> None:
    with contextlib.closing(open_store(location)) as store:
        store.browser_sessions.use_link("n", NOW)
        store.browser_sessions.end("s", NOW + 60)
        assert store.browser_sessions.purge() == 0
    with contextlib.closing(open_store(location, now=NOW + 3630)) as later:
        assert later.browser_sessions.purge() == 1
        assert [count(later, table) for table in ("used_links", "ended_sessions")] == [0, 1]
