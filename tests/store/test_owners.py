"""The owners of ids in the database: shared, bounded in time and number, gone with their account."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from ccflare_core.accounts.owners import DAY, HOUR, Holding, Owner
from ccflare_core.anthropic.ids import Id, Kind
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import ExchangeFinished, IdForgotten, IdMade, IdUsed
from ccflare_core.store.owners import StoredOwners
from ccflare_core.store.store import Store
from database_kit import NOW, an_account, open_store, started

MS = round(NOW * 1000)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with closing(open_store(location)) as store:
        store.accounts.add(an_account("a"))
        yield store


@pytest.fixture
def account(store: Store) -> str:
    return store.accounts.all()[0].id


def made(text: str, account: str, *, kind: Kind = Kind.FILE, client: str = "", at: float = NOW) -> IdMade:
    return IdMade(kind.value, text, account, client, round(at * 1000))


def texts(store: Store) -> list[str]:
    return sorted(text for (text,) in store.query("SELECT text FROM owners"))


def purge(store: Store, now: float = NOW, most: int = 100_000) -> None:
    for _ in StoredOwners(replace(store._context, wall=lambda: now), most).purge():
        pass


def test_first_maker_stays(store: Store, account: str) -> None:
    store.write([made("file_1", account, client="one"), made("file_1", "other", client="two")])
    store.write([made("file_1", "other")])
    wanted = [Id(Kind.FILE, "file_1"), Id(Kind.BATCH, "file_1"), Id(Kind.FILE, "file_2")]
    assert store.owners.find(wanted) == {wanted[0]: Owner(account, "one", NOW, NOW)}


def test_use_and_deletion_are_kept_in_order(store: Store, account: str) -> None:
    store.write([made("x", account, kind=Kind.CONTAINER), IdUsed("container", "x", MS + 5000)])
    store.write([IdUsed("container", "x", MS - 5000)])
    assert store.owners.find([Id(Kind.CONTAINER, "x")])[Id(Kind.CONTAINER, "x")].used_at == NOW + 5
    store.write([made("y", account), IdForgotten("file", "y"), IdForgotten("container", "x")])
    assert texts(store) == []


def test_holdings_are_by_account_and_client(store: Store, account: str) -> None:
    ids = [made("1", account, client="one"), made("2", account, client="one", at=NOW + 5), made("3", account)]
    store.write([*ids, made("4", account, kind=Kind.BATCH, client="two")])
    assert sorted(store.owners.holdings(Kind.FILE)) == [Holding(account, "", NOW), Holding(account, "one", NOW + 5)]


def test_what_is_over_is_deleted(store: Store, account: str) -> None:
    for kind in Kind:
        store.write([made(kind.value, account, kind=kind)])
    store.write([IdUsed("container", "container", MS + round(20 * DAY * 1000))])
    purge(store, NOW + HOUR - 1)
    assert len(texts(store)) == len(Kind)
    purge(store, NOW + HOUR + 1)
    assert texts(store) == ["batch", "container", "file", "skill"]
    purge(store, NOW + 30 * DAY + 1)
    assert texts(store) == ["container", "file", "skill"]
    purge(store, NOW + 50 * DAY + 1)
    assert texts(store) == ["file", "skill"]


def test_longest_unused_of_an_account_go_first(store: Store, account: str) -> None:
    store.accounts.add(an_account("b"))
    other = store.accounts.by_name("b").id
    store.write([made(f"{n:04}", account, at=NOW + n) for n in range(1200)])
    store.write([made("of-another", other), IdUsed("file", "0000", MS + 9_000_000)])
    purge(store, most=10)
    assert texts(store) == ["0000", *(f"{n:04}" for n in range(1191, 1200)), "of-another"]


def test_ids_go_with_their_account_also_if_they_come_late(store: Store, account: str) -> None:
    store.write([made("1", account)])
    store.accounts.remove(account)
    assert texts(store) == []
    store.write([made("2", account)])
    purge(store)
    assert texts(store) == []


def test_deleted_request_takes_its_own_ids_along(store: Store, account: str) -> None:
    ended = ExchangeFinished("r", "ok", True, upstream_request_id="req_1", message_id="msg_1")
    store.write([started("r"), ended, made("req_1", account, kind=Kind.REQUEST), made("file_1", account)])
    store.write([made("msg_1", account, kind=Kind.MESSAGE), made("req_2", account, kind=Kind.REQUEST)])
    for _ in store.history.delete(["r"]):
        pass
    assert texts(store) == ["file_1", "req_2"]


def test_account_that_is_added_while_others_things_are_deleted_keeps_its_own(store: Store) -> None:
    store.write([made(f"{n:04}", "removed") for n in range(1200)])
    deleting = store.owners.purge()
    next(deleting)
    store.accounts.add(an_account("b"))
    store.write([made("mine", store.accounts.by_name("b").id)])

    for _ in deleting:
        pass

    assert texts(store) == ["mine"]
