"""Blocked addresses as they stand in the database."""

from collections.abc import Iterator

import pytest

from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError
from ccflare_core.http.addresses import Address, Network
from ccflare_core.store.store import Store
from database_kit import NOW, open_store


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def test_a_block_is_kept_with_its_reason_and_its_time(store: Store) -> None:
    assert store.blocklist.block(Network.parse("10.9.8.0/24"), "scans us")

    [block] = store.blocklist.all()
    assert (str(block.network), block.created_at, block.reason) == ("10.9.8.0/24", NOW, "scans us")
    assert store.blocklist.networks().have(Address.parse("::ffff:10.9.8.7"))


def test_a_second_block_changes_nothing(store: Store) -> None:
    store.blocklist.block(Network.parse("10.9.8.7"), "first")

    assert not store.blocklist.block(Network.parse("::ffff:10.9.8.7"), "second")
    assert [block.reason for block in store.blocklist.all()] == ["first"]


def test_what_is_unblocked_may_come_again(store: Store) -> None:
    store.blocklist.block(Network.parse("fe80::1%eth0"))

    store.blocklist.unblock(Network.parse("fe80::1%eth0"))

    assert store.blocklist.all() == []
    told = store.query("SELECT action, target FROM audit_log WHERE action LIKE 'address.%' ORDER BY id")
    assert told == [("address.block", "fe80::1%eth0/128"), ("address.unblock", "fe80::1%eth0/128")]
    with pytest.raises(StoreError, match="is not blocked as such"):
        store.blocklist.unblock(Network.parse("fe80::1%eth0"))
