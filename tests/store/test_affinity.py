"""Which account holds which session, as the proxies on one database see it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from ccflare_core.accounts.affinity import Held, session_key
from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import SessionServed
from ccflare_core.store.affinity import StoredAffinity
from ccflare_core.store.store import Store
from database_kit import NOW, an_account, exchange, open_store


@pytest.fixture
def two(location: Location) -> Iterator[tuple[Store, Store]]:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as other:
        one.write([SessionServed(held("earlier"))])
        assert other.affinity.look() == []  # the start of a proxy reads all that there is
        yield one, other


def held(session: str, account_id: str = "a", at: float = NOW) -> Held:
    return Held(session, account_id, at)


def test_what_a_proxy_serves_is_told_to_another_one_once(two: tuple[Store, Store]) -> None:
    one, other = two
    one.write([SessionServed(held("s")), SessionServed(held("t")), SessionServed(held("s", "b"))])
    assert sorted(other.affinity.look()) == [held("s", "b"), held("t")]
    assert other.affinity.look() == []
    other.write([SessionServed(held("s", "c", NOW - 600))])  # its clock is late
    one.write([SessionServed(held("u"))])
    assert other.affinity.look() == [held("u")]  # what it has written itself is no news


def test_own_row_that_is_read_late_is_no_news_after_the_session_has_moved_on(two: tuple[Store, Store]) -> None:
    one, other = two
    one.affinity.look()
    one.write([SessionServed(held("s", "a"))])
    other.write([SessionServed(held("t"))])
    assert one.affinity.look() == [held("t")]
    other.write([SessionServed(held("s", "b", NOW + 1))])
    assert one.affinity.look() == [held("s", "b", NOW + 1)]


def test_news_that_could_not_be_read_come_with_the_next_look(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.write([SessionServed(held("s"))])
    rows = other.affinity._rows

    def fail_once(query: Any) -> list[tuple[Any, ...]]:
        monkeypatch.setattr(other.affinity, "_rows", rows)
        raise StoreError("away")

    monkeypatch.setattr(other.affinity, "_rows", fail_once)
    with pytest.raises(StoreError):
        other.affinity.look()
    assert other.affinity.look() == [held("s")]


def test_a_new_run_knows_the_sessions_that_were_served_last(two: tuple[Store, Store]) -> None:
    one, _ = two
    one.write([SessionServed(held("s"))])
    one.write([SessionServed(held("t"))])
    one.write([SessionServed(held("s", "b"))])
    assert one.affinity.newest(10) == [held("earlier"), held("t"), held("s", "b")]
    assert one.affinity.newest(1) == [held("s", "b")]


def test_old_sessions_and_too_many_go(two: tuple[Store, Store]) -> None:
    one, other = two
    for number in range(6):
        one.write([SessionServed(held(f"s{number}", at=NOW + number))])
    assert sum(one.affinity.purge(NOW + 1)) == 2
    assert sum(StoredAffinity(one._context, most=4).purge(NOW)) == 1
    assert [each.session for each in one.affinity.newest(10)] == ["s2", "s3", "s4", "s5"]
    assert sum(one.affinity.purge(NOW + 100)) == 4
    other.affinity.look()
    one.write([SessionServed(held("new"))])
    assert other.affinity.look() == [held("new")]


def test_sessions_go_with_their_account_and_with_what_was_recorded_of_them(two: tuple[Store, Store]) -> None:
    one, _ = two
    one.accounts.add(account := an_account())
    recorded = session_key("s-1")  # of the kit's exchanges
    one.write([SessionServed(held("s", account.id)), SessionServed(held(recorded)), *exchange("r1")])
    one.accounts.remove(account.id)
    assert [each.session for each in one.affinity.newest(10)] == ["earlier", recorded]
    list(one.history.delete(["r1"], bodies_only=True))
    assert len(one.affinity.newest(10)) == 2
    list(one.history.delete(["r1"]))
    assert [each.session for each in one.affinity.newest(10)] == ["earlier"]


@pytest.mark.parametrize("way", ["account", "request", "age"])
def test_a_session_is_news_also_where_the_newest_ones_were_deleted_since_the_last_look(
    two: tuple[Store, Store], way: str
) -> None:
    one, other = two
    one.accounts.add(account := an_account())
    recorded = session_key("s-1")  # of the kit's exchanges
    one.write([SessionServed(held("s", account.id))])
    one.write([SessionServed(held(recorded, account.id)), *exchange("r1")])
    assert len(other.affinity.look()) == 2
    if way == "account":
        one.accounts.remove(account.id)
    elif way == "request":
        list(one.history.delete(["r1"]))
    else:
        assert sum(one.affinity.purge(NOW + 1)) == 3
    one.write([SessionServed(held("new"))])
    assert other.affinity.look() == [held("new")]
    one.write([SessionServed(held("newer"))])
    assert other.affinity.look() == [held("newer")]
    assert "" not in [each.session for each in one.affinity.newest(10)]
    assert sum(one.affinity.purge(NOW + 1)) >= 2
    assert sum(one.affinity.purge(NOW + 1)) == 0
