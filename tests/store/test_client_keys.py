"""Client keys in the database: made, recognised, changed, and what outlives a new data key."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from ccflare_core.clients.keys import ClientKey, Role
from ccflare_core.config.location import Location
from ccflare_core.errors import NotFound, StoreError, VaultError
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store, has_client_keys
from database_kit import NOW, open_store, started

FULL = ClientKey(
    id="ck_1",
    name="laptop",
    role=Role.OPERATOR,
    created_at=NOW,
    expires_at=NOW + 60.5,
    requests_per_minute=30,
    tokens_per_day=10**10,
    dollars_per_day=Decimal("0.000001"),
    dollars_per_month=Decimal("1000000"),
    models=("claude-haiku-*",),
    accounts=("a,b", "ü"),
    not_accounts=("c",),
    concurrency=2,
    low_priority=True,
    record="metadata",
    stateful=True,
    tunnels=True,
)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with contextlib.closing(open_store(location)) as store:
        yield store


def is_known(store: Store, secret: str, now: float = NOW) -> bool:
    found = store.clients.ring().find(secret)
    return found is not None and found.key.is_valid(now) and (found.until is None or now < found.until)


def test_a_key_comes_back_as_it_was_stored(store: Store) -> None:
    store.clients.add(FULL)
    store.clients.add(bare := new_key("bare", NOW))

    assert store.clients.all() == [bare, FULL]
    assert store.clients.by_name("laptop") == FULL


def test_a_key_is_recognised_by_its_secret_alone(store: Store) -> None:
    secret = store.clients.add(FULL)
    other = store.clients.add(new_key("other", NOW))

    ring = store.clients.ring()

    assert (found := ring.find(secret)) is not None
    assert (found.key, found.until, found.is_current) == (FULL, None, True)
    assert (found := ring.find(other)) is not None
    assert found.key.name == "other"
    assert ring.find("") is ring.find("ccf_" + "x" * 32) is None


def test_names_are_taken_for_good(store: Store) -> None:
    store.clients.add(FULL)
    store.clients.revoke("laptop")
    with pytest.raises(StoreError, match="there is or was a client key called laptop"):
        store.clients.add(replace(FULL, id="ck_2"))


def test_a_change_changes_what_is_named(store: Store) -> None:
    store.clients.add(FULL)
    store.clients.change("laptop", concurrency=None, models=())
    assert store.clients.all() == [replace(FULL, concurrency=None, models=())]


def test_a_revoked_key_has_no_digest_any_more_and_stays_revoked(store: Store) -> None:
    secret = store.clients.add(FULL)
    store.clients.revoke("laptop")

    assert store.clients.by_name("laptop") == replace(FULL, revoked_at=NOW)
    assert store.query("SELECT digest, old_digest FROM client_keys") == [(None, None)]
    assert not is_known(store, secret)
    for again in (
        lambda: store.clients.change("laptop", concurrency=1),
        lambda: store.clients.rotate("laptop", 0),
        lambda: store.clients.revoke("laptop"),
    ):
        with pytest.raises(StoreError, match="that is final"):
            again()


@pytest.mark.parametrize(("grace", "old_is_valid"), [(0, False), (60, True)])
def test_a_rotation_gives_a_new_secret_and_may_leave_the_old_one_a_while(
    store: Store, grace: float, old_is_valid: bool
) -> None:
    old = store.clients.add(FULL)

    new = store.clients.rotate("laptop", grace)

    assert is_known(store, new)
    assert is_known(store, old) is old_is_valid
    assert not is_known(store, old, NOW + grace)


def test_nobody_has_a_key_that_does_not_exist(store: Store) -> None:
    with pytest.raises(NotFound):
        store.clients.revoke("nobody")


def test_a_digest_moves_to_the_newest_data_key_when_its_key_is_used(store: Store) -> None:
    assert store.keys is not None
    (first,) = store.data_keys()
    current, old = store.clients.add(FULL), store.clients.add(new_key("other", NOW))
    store.clients.rotate("other", 60)
    store.keys.rotate()
    assert store.value_counts()[first.id] == 3
    with pytest.raises(StoreError, match="this key is still needed by 3 client keys"):
        store.keys.retire(first.id)

    for secret, key in ((current, "ck_1"), (old, store.clients.by_name("other").id), ("ccf_" + "x" * 32, "ck_1")):
        store.clients.renew(key, secret)

    assert store.value_counts()[first.id] == 1
    assert (found := store.clients.ring().find(current)) is not None
    assert found.is_current
    assert is_known(store, old)
    store.clients.revoke("other")
    store.keys.retire(first.id)
    assert is_known(store, current)


def test_rewrapping_leaves_digests_alone(store: Store) -> None:
    assert store.keys is not None
    secret = store.clients.add(FULL)
    store.keys.rotate()
    work = store.resealing()
    assert (sum(work.rewrap()), work.left) == (0, [])
    assert is_known(store, secret)


def test_every_change_is_audited_and_no_secret_is_in_it(store: Store) -> None:
    secret = store.clients.add(FULL)
    store.clients.change("laptop", concurrency=5, dollars_per_day=None)
    new = store.clients.rotate("laptop", 60)
    store.clients.revoke("laptop")

    rows = store.query("SELECT action, target, detail FROM audit_log WHERE action LIKE 'client.%' ORDER BY id")
    assert [row[:2] for row in rows] == [(f"client.{verb}", "laptop") for verb in ("add", "change", "rotate", "revoke")]
    assert json.loads(rows[1][2])["changes"] == {
        "concurrency": {"before": 2, "after": 5},
        "dollars_per_day": {"before": "0.000001", "after": None},
    }
    assert not any(text in str(rows) for text in (secret, new))


def test_what_a_key_has_used_is_read_from_the_record(store: Store) -> None:
    store.clients.add(FULL)
    for number, (cost, tokens) in enumerate(((0.25, 7), (None, 7), (None, None), (0.5, 7))):
        name = f"r{number}"
        end = ExchangeFinished(name, "ok", True, cost_usd=cost, output_tokens=tokens)
        store.write([started(name)._replace(client_id="ck_1"), end])
    store.write([started("other")])

    assert store.clients.uses() == {"ck_1": (4, 0.75, NOW, 1)}


def test_without_a_data_key_keys_can_be_listed_but_not_recognised(store: Store, location: Location) -> None:
    store.clients.add(FULL)
    with contextlib.closing(Store.open(location, None, read_only=True)) as reader:
        assert reader.clients.all() == [FULL]
        with pytest.raises(VaultError):
            reader.clients.ring()


def test_whether_there_are_keys_is_known_without_opening_anything(store: Store, location: Location) -> None:
    assert not has_client_keys(location)
    store.clients.add(FULL)
    assert has_client_keys(location)


def test_where_no_database_is_there_are_no_keys(tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign.db").write_bytes(b"not a database" * 100)
    assert not has_client_keys(foreign)
    assert not has_client_keys(tmp_path / "none.db")


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        secrets = [store.clients.add(FULL), store.clients.rotate("laptop", 60)]
        raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(secret.encode() in raw or secret[4:].encode() in raw for secret in secrets)
