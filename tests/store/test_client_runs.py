"""Runs of clients in the database: begun, alive, ended, and the temporary keys that are stored nowhere."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from ccflare_core.clients.authentication import identify
from ccflare_core.clients.client_runs import LONGEST_SECONDS, OVER_SECONDS, ClientRun
from ccflare_core.clients.keys import ClientKey, Role
from ccflare_core.config.location import Location
from ccflare_core.errors import VaultError
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from database_kit import NOW, open_store, started

RUN = ClientRun(
    "run-1", NOW, NOW, account_id="id-1", account="max-1", project="site", tags=("a=b",), dollars=Decimal(5)
)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with contextlib.closing(open_store(location)) as store:
        yield store


def keyed(store: Store, **fields: object) -> ClientKey:
    """A client key that is stored already."""
    key = replace(new_key("laptop", NOW), **fields)  # type: ignore[arg-type]
    store.clients.add(key)
    return key


def later(location: Location, seconds: float) -> contextlib.closing[Store]:
    return contextlib.closing(open_store(location, now=NOW + seconds))


def test_a_run_comes_back_as_it_was_begun(store: Store) -> None:
    bare = ClientRun("run-2", NOW, NOW)

    assert (store.client_runs.begin(RUN), store.client_runs.begin(bare)) == ("", "")

    assert store.client_runs.active() == [RUN, bare]
    assert not store.clients.ring().has_keys


def test_a_secret_in_a_runs_tags_is_written_down_nowhere(store: Store) -> None:
    secret = f"sk-ant-api03-{'Planted0' * 5}"

    store.client_runs.begin(replace(RUN, tags=("a=b", f"key={secret}")))

    (run,) = store.client_runs.active()
    assert run.tags == ("a=b", "key=[redacted:anthropic-key]")
    assert secret not in str(store.query("SELECT * FROM audit_log", ()))


def test_a_run_is_over_when_it_has_ended_and_that_is_audited(store: Store) -> None:
    store.client_runs.begin(RUN)

    store.client_runs.end(RUN.id)
    store.client_runs.end(RUN.id)
    store.client_runs.beat(RUN.id)

    assert store.client_runs.active() == []
    actions = [row[0] for row in store.query("SELECT action FROM audit_log ORDER BY id", ())]
    assert [each for each in actions if each.startswith("run.")] == ["run.begin", "run.end"]


def test_a_run_whose_wrapper_was_killed_is_over_after_a_day_without_a_sign_of_life(
    store: Store, location: Location
) -> None:
    store.client_runs.begin(RUN)
    with later(location, 3600) as other:
        other.client_runs.beat(RUN.id)
    with later(location, OVER_SECONDS + 60) as other:
        assert [run.seen_at for run in other.client_runs.active()] == [NOW + 3600]
    with later(location, OVER_SECONDS + 3601) as other:
        assert other.client_runs.active() == []


def test_a_run_ends_at_last_whatever_its_signs_of_life(store: Store, location: Location) -> None:
    store.client_runs.begin(RUN)
    with later(location, LONGEST_SECONDS) as other:
        other.client_runs.beat(RUN.id)
        assert other.client_runs.active() == []


def test_a_run_has_spent_what_other_proxies_have_recorded(store: Store) -> None:
    store.client_runs.begin(RUN)
    for number, (proxy, cost, counted) in enumerate((("p1", 1.5, None), ("p1", None, 0.25), ("p2", 4.0, None)), 1):
        start = started(f"req_{number}")._replace(run_id=proxy)
        end = ExchangeFinished(start.id, "ok", True, cost_usd=cost, counted_usd=counted, client_run=RUN.id)
        store.write([start, end])

    assert [run.cost for run in store.client_runs.active(but="p2")] == [Decimal("1.75")]


def test_a_temporary_key_is_its_owners_key_but_for_requests_alone(store: Store) -> None:
    own = keyed(store, role=Role.ADMIN, models=("claude-haiku-*",), dollars_per_day=Decimal(3))

    secret = store.client_runs.begin(replace(RUN, key_id=own.id, is_keyed=True))
    found = identify(store.clients.ring(), [secret], NOW, is_local=True, open_loopback=False).principal

    assert found is not None
    assert found.key == replace(own, role=Role.CLIENT)
    assert (found.run, found.permissions) == (RUN.id, Role.CLIENT.permissions)


def test_a_temporary_key_ends_with_its_run_and_with_its_owners_key(store: Store) -> None:
    own = keyed(store)
    first = store.client_runs.begin(replace(RUN, key_id=own.id, is_keyed=True))
    second = store.client_runs.begin(replace(RUN, id="run-2", key_id=own.id, is_keyed=True))

    store.client_runs.end(RUN.id)
    ring = store.clients.ring()
    assert (ring.find(first), ring.find(second) is None) == (None, False)
    store.clients.revoke("laptop")
    assert identify(store.clients.ring(), [second], NOW, is_local=True, open_loopback=False).principal is None


def test_a_temporary_key_of_the_owners_own_is_for_requests_and_tunnels(store: Store) -> None:
    keyed(store)

    secret = store.client_runs.begin(replace(RUN, key_id=RUN.id, is_keyed=True))
    found = store.clients.ring().find(secret)

    assert found is not None
    assert (found.key.id, found.key.role, found.key.tunnels) == (RUN.id, Role.CLIENT, True)
    assert found.until == NOW + LONGEST_SECONDS


def test_a_temporary_key_is_never_the_first(store: Store) -> None:
    secret = store.client_runs.begin(replace(RUN, key_id=RUN.id, is_keyed=True))

    ring = store.clients.ring()
    assert (ring.find(secret), ring.has_keys) == (None, False)


def test_a_temporary_key_is_stored_nowhere(store: Store) -> None:
    own = keyed(store)
    secret = store.client_runs.begin(replace(RUN, key_id=own.id, is_keyed=True))

    tables = ("client_runs", "client_keys", "audit_log")
    text = json.dumps([store.query(f"SELECT * FROM {table}", ()) for table in tables], default=repr)
    assert secret.removeprefix("ccf_") not in text


@pytest.mark.parametrize("change", ["client_id = 'ck_other'", "created_at = created_at + 1", "id = 'run-9'"])
def test_a_row_that_somebody_else_has_changed_has_another_temporary_key(store: Store, change: str) -> None:
    own, other = keyed(store), replace(new_key("other", NOW), id="ck_other", role=Role.CLIENT)
    store.clients.add(other)
    secret = store.client_runs.begin(replace(RUN, key_id=own.id, is_keyed=True))
    execute: Callable[[str], object] = store._database.execute_sql
    with store._context.transaction():
        execute(f"UPDATE client_runs SET {change}")

    assert store.clients.ring().find(secret) is None


def test_a_run_is_begun_with_a_data_key_alone(location: Location) -> None:
    open_store(location).close()
    with contextlib.closing(open_store(location, source=None)) as store, pytest.raises(VaultError, match="no run can"):
        store.client_runs.begin(RUN)


def test_a_run_of_which_nothing_is_recorded_any_more_is_deleted_in_the_end(store: Store, location: Location) -> None:
    store.client_runs.begin(RUN)
    store.client_runs.begin(replace(RUN, id="run-2"))
    start = started("req_1")
    store.write([start, ExchangeFinished(start.id, "ok", True, client_run="run-2")])

    with later(location, LONGEST_SECONDS + 1) as other:
        other.client_runs.purge()
    assert [row[0] for row in store.query("SELECT id FROM client_runs", ())] == ["run-2"]
