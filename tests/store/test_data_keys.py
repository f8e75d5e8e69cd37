"""The ring of keys in the database, and the work on all that they have sealed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.secrets.key_sources import GivenKey
from ccflare_core.store.data_keys import DataKeys
from ccflare_core.store.resealing import CLEAR, COLUMNS, drain
from ccflare_core.store.store import Store
from ccflare_core.transcripts import packing
from database_kit import KEY, NOW, SECRETS, an_account, open_store, payload, started

OTHER = GivenKey(b"o" * 32)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


@pytest.fixture
def other(location: Location, store: Store) -> Iterator[Store]:
    """What another process has open."""
    other = open_store(location)
    yield other
    other.close()


def keys(store: Store) -> DataKeys:
    assert store.keys is not None
    return store.keys


def fill(store: Store, bodies: int = 3) -> None:
    store.accounts.add(an_account())
    store.write([record for n in range(bodies) for record in (started(f"r{n}"), payload(f"r{n}", b"body %d" % n))])


def body(store: Store, exchange_id: str) -> bytes:
    body = store.body(exchange_id, "request")
    assert body is not None
    return body.content


# -- the ring


def test_the_first_store_makes_a_key_and_the_next_finds_it(store: Store, other: Store) -> None:
    assert [key.id for key in keys(store).all()] == [key.id for key in keys(other).all()]
    assert [(key.number, key.created_at, key.source) for key in store.data_keys()] == [(1, NOW, "environment")]


def test_a_read_only_store_makes_no_key(location: Location) -> None:
    open_store(location, source=None).close()
    reader = Store.open(location, KEY, read_only=True)
    assert (reader.vault, reader.data_keys()) == (None, [])
    reader.close()


def test_another_process_reads_and_writes_with_a_new_key_at_once(store: Store, other: Store) -> None:
    new = keys(store).rotate()
    fill(store)
    assert other.accounts.all() == [an_account()]
    other.accounts.add(an_account("b"))
    other.write([started("r9"), payload("r9", b"nine")])
    assert store.value_counts() == {new: 10}
    assert body(store, "r9") == b"nine"


def test_who_has_not_heard_of_it_never_seals_with_a_retired_key(store: Store, other: Store) -> None:
    fill(store)
    [old] = store.data_keys()
    new = keys(store).rotate()
    drain(store.resealing().rewrap())
    keys(store).retire(old.id)
    other.write([started("r9"), payload("r9", b"nine")])
    other.accounts.update("id of max-1", api_key="sk-ant-api03-changed")
    assert store.value_counts() == {new: 8}  # with the old audit key
    assert body(other, "r9") == b"nine"


def test_another_source_than_the_one_that_wrapped_is_named(location: Location, store: Store) -> None:
    store.query("UPDATE data_keys SET source = 'keyring'")
    with pytest.raises(VaultError, match="wrapped by the key source keyring, but environment is configured"):
        open_store(location)


def test_a_row_that_names_another_key_is_refused(location: Location, store: Store) -> None:
    keys(store).rotate()
    first, second = [row[0] for row in store.query("SELECT wrapped FROM data_keys ORDER BY number")]
    store.query("UPDATE data_keys SET wrapped = ? WHERE number = 1", (second,))
    with pytest.raises(VaultError, match="does not unwrap"):
        open_store(location)
    assert first != second


def test_a_new_key_out_of_reach_is_told_and_the_old_one_goes_on(store: Store, other: Store) -> None:
    [old] = store.data_keys()
    keys(store).change_source(OTHER, is_known=False)
    keys(store).rotate()
    trouble = other.look_for_keys()
    assert trouble is not None
    assert "restart the proxy" in trouble
    other.write([started("r1"), payload("r1")])
    assert other.value_counts() == {old.id: 1}


def test_keys_that_are_gone_stop_every_write(store: Store) -> None:
    store.query("DELETE FROM data_keys")
    with pytest.raises(StoreError, match="lost the keys"):
        store.accounts.add(an_account())


# -- changes


def test_a_proxy_from_before_the_source_changed_forbids_a_new_key(store: Store, location: Location) -> None:
    store.runs.start("run-1", "host", 1)
    later = Store.open(location, KEY, wall=lambda: NOW + 5)
    keys(later).rotate()
    keys(later).change_source(OTHER, is_known=False)
    with pytest.raises(StoreError, match="restart it first"):
        keys(later).rotate()
    store.runs.end("run-1")
    assert len(keys(later).rotate()) == 16
    later.close()


def test_a_source_that_loses_what_it_is_given_changes_nothing(location: Location, store: Store) -> None:
    class Lossy(GivenKey):
        def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
            return bytes(32)

    with pytest.raises(VaultError, match="does not give back"):
        keys(store).change_source(Lossy(b"l" * 32), is_known=False)
    open_store(location).close()


def test_a_key_is_retired_only_when_nothing_needs_it(store: Store) -> None:
    fill(store)
    [old] = store.data_keys()
    for wanted, why in ((old.id, "seals what is new"), ("ffff", "no data key ffff")):
        with pytest.raises(StoreError, match=why):
            keys(store).retire(wanted)
    keys(store).rotate()
    with pytest.raises(StoreError, match="this key is still needed by 6 values"):
        keys(store).retire(old.id)
    drain(store.resealing().rewrap())
    keys(store).retire(old.id)
    assert len(store.data_keys()) == 1
    assert store.accounts.all() == [an_account()]


# -- the values


def test_rewrapping_changes_the_key_and_not_the_value(store: Store) -> None:
    fill(store, bodies=120)
    new = keys(store).rotate()
    batches = list(store.resealing().rewrap())
    assert sum(batches) == 123
    assert max(batches) <= 50
    assert store.value_counts() == {new: 123}
    assert (body(store, "r119"), store.accounts.all()) == (b"body 119", [an_account()])


def test_a_value_that_does_not_open_is_left_and_told(store: Store) -> None:
    fill(store)
    keys(store).rotate()
    store.query("UPDATE payloads SET body = substr(body, 1, 20) WHERE request_id = 'r1'")
    work = store.resealing()
    assert drain(work.rewrap()) == 5
    assert work.left == ["payloads.body of row r1/request"]


def test_what_is_stored_in_clear_stops_a_start_and_is_sealed_once(store: Store) -> None:
    fill(store)
    access, refresh, _ = SECRETS
    store.query("UPDATE accounts SET access_token = ?, refresh_token = ?", (access, refresh.encode()))
    store.query("UPDATE payloads SET body = ?, format = ? WHERE request_id = 'r0'", (b"in clear", packing.CLEAR))
    assert store.value_counts()[CLEAR] == 3
    with pytest.raises(VaultError, match=r"in clear: run `scripts/keys.py migrate-plaintext`"):
        store.accounts.all()
    assert [drain(store.resealing().seal_clear()) for _ in range(2)] == [3, 0]
    assert store.accounts.all() == [an_account()]
    assert body(store, "r0") == b"in clear"


def test_rewrapping_finds_bodies_by_the_index(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    plan = store.query("EXPLAIN QUERY PLAN SELECT part FROM payloads WHERE substr(body, 1, 9) IN (x'01', x'02')")
    assert "payloads_key" in plan[0][3]
    assert COLUMNS[-1].head().sql == "substr(body, 1, 9)"
    store.close()
