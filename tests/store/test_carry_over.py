"""What a restore carries over: nothing that was taken away since the backup comes back, no used-up token is tried."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.maintain.main import main
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.anthropic.oauth import Tokens
from ccflare_core.audit.check import Check
from ccflare_core.clients.authentication import Identity, identify
from ccflare_core.clients.totp import code_at, step_at
from ccflare_core.http.addresses import Network
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from database_kit import NOW, an_account
from desk import Desk

NETWORK = Network.parse("203.0.113.0/24")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    key = KeyFile(path.parent / "ccflare.key")
    with contextlib.closing(
        Store.open(path, key, audit_file=path.with_suffix(".audit.jsonl"), wall=lambda: NOW)
    ) as store:
        yield store


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database, its key and its audit log."""
    folder = tmp_path_factory.mktemp("made")
    with opened(folder / "ccflare.db") as store:
        store.accounts.add(an_account())
        store.accounts.add(Account("id of api", "api", Kind.API_KEY, api_key="sk-ant-api03-first", created_at=NOW))
    return folder


@pytest.fixture
def path(made_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_once, tmp_path / "here") / "ccflare.db"


def backed_up(path: Path, name: str = "a") -> Path:
    target = path.with_name(f"{name}.backup")
    assert main(["backup", str(target), "--database", str(path)], Desk(now=NOW).console()) == 0
    return target


def restored(path: Path, made: Path, *, later: int = 0) -> str:
    """What the command says; the log is whole after it."""
    desk = Desk(now=NOW + later)
    assert main(["restore", str(made), "--database", str(path)], desk.console()) == 0, desk.complained
    with opened(path) as store:
        assert Check(store.audit).run(path.with_suffix(".audit.jsonl"), is_used=True).problem is None
    return desk.said + desk.complained


def entry(path: Path) -> dict[str, Any]:
    """What the audit log has of what was carried over by the last restore."""
    with opened(path) as store:
        [(detail,)] = store.query("SELECT detail FROM audit_log WHERE action = 'backup.restore' ORDER BY id LIMIT 1")
    carried: dict[str, Any] = json.loads(detail)["carried"]
    return carried


def account(path: Path, name: str = "max-1") -> Account:
    with opened(path) as store:
        return store.accounts.by_name(name)


def caller(path: Path, secret: str) -> Identity:
    with opened(path) as store:
        return identify(store.clients.ring(), [secret], NOW, is_local=False, open_loopback=False)


def refreshed(store: Store, number: int = 1) -> None:
    """Exchange the refresh token, as the proxy does."""
    before = store.accounts.by_name("max-1")
    assert before.refresh_token is not None
    assert store.logins.take_lease(before.id, "run") is not None
    tokens = Tokens(f"sk-ant-oat01-access-{number}", f"sk-ant-ort01-refresh-{number}", NOW + 28_800 * number, None)
    store.logins.save_tokens(before.id, "run", before.refresh_token, tokens)


# -- Client keys


def test_a_client_key_that_was_revoked_since_stays_revoked(path: Path) -> None:
    with opened(path) as store:
        secret = store.clients.add(new_key("laptop", NOW))
    made = backed_up(path)
    with opened(path) as store:
        store.clients.revoke("laptop")

    assert "still so: the client keys laptop" in restored(path, made)

    assert caller(path, secret).principal is None
    assert entry(path)["revoked"] == ["laptop"]


def test_a_client_key_is_what_it_was_last_also_under_a_newer_data_key(path: Path) -> None:
    with opened(path) as store:
        old = store.clients.add(new_key("laptop", NOW))
    made = backed_up(path)
    with opened(path) as store:
        assert store.keys is not None
        newest = store.keys.rotate()
        store.clients.change("laptop", requests_per_minute=3)
        new, added = store.clients.rotate("laptop", 0), store.clients.add(new_key("ci", NOW))

    assert "as they were last: the client keys ci, laptop" in restored(path, made)

    principal = caller(path, new).principal
    assert principal is not None
    assert principal.key is not None
    assert principal.key.requests_per_minute == 3
    assert [caller(path, secret).principal is None for secret in (old, added)] == [True, False]
    with opened(path) as store:
        assert next(key.id for key in store.data_keys()) == newest


def test_a_client_key_that_only_the_backup_has_gives_way_to_one_of_the_same_name(path: Path, tmp_path: Path) -> None:
    first = backed_up(path, "first")
    with opened(path) as store:
        store.clients.add(new_key("laptop", NOW))
    second = backed_up(path, "second")
    path.unlink()  # lost, and an older backup is put back
    restored(path, first)
    with opened(path) as store:
        secret = store.clients.add(new_key("laptop", NOW))

    said = restored(path, second)

    identity = caller(path, secret)
    assert identity.key is not None
    assert identity.key.name == "laptop"
    assert "client keys (laptop-" in said


# -- Blocks and the second factor


def test_a_block_stays_and_one_that_was_lifted_is_named(path: Path) -> None:
    lifted = Network.parse("198.51.100.7")
    with opened(path) as store:
        store.blocklist.block(lifted)
    made = backed_up(path)
    with opened(path) as store:
        store.blocklist.unblock(lifted)
        store.blocklist.block(NETWORK, "guesses keys")

    said = restored(path, made)

    with opened(path) as store:
        assert {block.network: block.reason for block in store.blocklist.all()} == {NETWORK: "guesses keys", lifted: ""}
    assert "Blocked since the backup, and still so: 203.0.113.0/24." in said
    assert "blocks (198.51.100.7/32)" in said


def enabled(store: Store) -> list[str]:
    codes = store.factors.confirm(code_at(store.factors.enable().seed, step_at(NOW)))
    assert codes is not None
    return codes


def test_a_second_factor_that_was_enabled_since_is_asked_for(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        enabled(store)
        factor = store.factors.get()
        assert store.keys is not None
        store.keys.rotate()
        drain(store.resealing().rewrap())
    assert "The second factor is as it was last." in restored(path, made)
    with opened(path) as store:
        assert store.factors.get() == factor


def test_a_code_that_was_used_since_stays_used(path: Path) -> None:
    with opened(path) as store:
        enabled(store)
    made = backed_up(path)
    with opened(path) as store:
        store.factors.renew_recovery()
        factor = store.factors.get()
    restored(path, made)
    with opened(path) as store:
        assert store.factors.get() == factor


def test_a_second_factor_that_was_disabled_since_is_back_and_named(path: Path) -> None:
    with opened(path) as store:
        enabled(store)
    made = backed_up(path)
    with opened(path) as store:
        store.factors.disable()
    assert "second factor (as it was in the backup)" in restored(path, made)
    with opened(path) as store:
        assert store.factors.get() is not None


# -- Accounts


def test_newer_tokens_come_from_the_database_that_is_set_aside(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        refreshed(store)
        store.accounts.update("id of api", api_key="sk-ant-api03-second")
    before = [account(path, name) for name in ("max-1", "api")]

    assert "Newer credentials were carried over from it for api, max-1." in restored(path, made)

    assert [account(path, name) for name in ("max-1", "api")] == before
    assert before[0].refresh_token == "sk-ant-ort01-refresh-1"
    with opened(path) as store:  # and it is known which token is stored
        refreshed(store, 2)
    assert account(path).refresh_token == "sk-ant-ort01-refresh-2"


def test_tokens_that_did_not_change_are_not_touched(path: Path) -> None:
    before = account(path)
    made = backed_up(path)
    said = restored(path, made)
    assert account(path) == before
    assert "carried over" not in said
    assert "login" not in said


@pytest.mark.parametrize("field", ["needs_login", "paused"])
def test_an_account_that_was_taken_out_stays_out(path: Path, field: str) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store.accounts.update("id of max-1", **{field: True})
    restored(path, made)
    assert getattr(account(path), field) is True


def test_an_account_that_needs_attention_goes_on_needing_it(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        refreshed(store)
        store.accounts.need_attention("id of max-1", "the organization is disabled")
    restored(path, made)
    assert account(path).attention == "the organization is disabled"


def test_newer_tokens_of_the_backup_stay(path: Path) -> None:
    first = backed_up(path, "first")
    with opened(path) as store:
        refreshed(store)
    newest, second = account(path), backed_up(path, "second")
    path.unlink()
    restored(path, first)
    restored(path, second, later=1)
    assert account(path) == newest


def test_a_login_that_is_over_stays_over_whatever_the_backup_has(path: Path) -> None:
    first = backed_up(path, "first")
    with opened(path) as store:
        refreshed(store)
    second = backed_up(path, "second")
    path.write_bytes(b"no database at all" * 500)
    restored(path, first)
    restored(path, second, later=1)
    assert account(path).needs_login


def test_an_account_that_was_removed_since_is_back_paused_and_needs_a_login(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        for name in ("max-1", "api"):
            store.accounts.remove(f"id of {name}")

    said = restored(path, made)

    assert [(a.paused, a.needs_login) for a in (account(path), account(path, "api"))] == [(True, True), (True, False)]
    assert "back with it: accounts (api, max-1)" in said
    assert "Need a login, for their tokens may be used up: max-1." in said


def test_an_account_that_was_added_since_is_named(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store.accounts.add(an_account("max-2"))
    assert "not in it: the accounts max-2." in restored(path, made)


def test_tokens_that_do_not_open_are_replaced_by_a_login(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store._database.execute_sql("UPDATE accounts SET access_token = refresh_token")  # type: ignore[no-untyped-call]
    restored(path, made)
    assert account(path).needs_login


# -- Nothing to carry over from


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500])
def test_a_database_that_cannot_be_read_is_told_and_accounts_need_a_login(path: Path, content: bytes) -> None:
    made, before = backed_up(path), account(path)
    path.write_bytes(content)

    said = restored(path, made)

    assert "cannot be read" in said
    assert "client keys, addresses, the second factor" in said
    assert account(path) == replace(before, needs_login=True)
    assert not account(path, "api").needs_login
    assert entry(path)["unknown"]


def test_a_damaged_row_makes_it_one_that_cannot_be_read(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store._database.execute_sql("UPDATE accounts SET kind = 'x'")  # type: ignore[no-untyped-call]
    assert "cannot be read" in restored(path, made)
    assert account(path).needs_login


def test_where_there_was_no_database_that_is_told_and_logins_stay(path: Path) -> None:
    made, before = backed_up(path), account(path)
    path.unlink()
    assert "There was no database to carry anything over from" in restored(path, made)
    assert account(path) == before


def make_another(path: Path) -> None:
    path.unlink()
    with opened(path) as store:
        store.blocklist.block(NETWORK)


def make_another_with_a_key(path: Path) -> None:
    path.unlink()
    with opened(path) as store:
        store.clients.add(new_key("laptop", NOW))


@pytest.mark.parametrize("make", [make_another, make_another_with_a_key])
def test_another_database_says_nothing_about_the_accounts(path: Path, make: Callable[[Path], None]) -> None:
    made, before = backed_up(path), account(path)
    path.with_suffix(".audit.jsonl").unlink()
    make(path)
    said = restored(path, made)
    assert account(path) == before
    assert "back with it" not in said
    with opened(path) as store:
        assert bool(store.blocklist.all()) != bool(store.clients.all())


def test_a_data_key_that_was_retired_since_is_back_and_seals_nothing_new(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        assert store.keys is not None
        old = store.data_keys()[0].id
        new = store.keys.rotate()
        drain(store.resealing().rewrap())
        store.keys.retire(old)
    assert f"data keys ({old})" in restored(path, made)
    with opened(path) as store:
        assert [key.id for key in store.data_keys()] == [new, old]
        assert store.accounts.all()


# -- Rows that somebody else has changed in the database that is set aside


def attack(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE client_keys SET role = 'admin'", "DELETE FROM client_keys", "DELETE FROM row_signatures"],
)
def test_a_client_key_that_was_altered_there_is_ended_and_named(path: Path, statement: str) -> None:
    with opened(path) as store:
        secret = store.clients.add(new_key("laptop", NOW))
    made = backed_up(path)
    attack(path, statement)
    assert "revoked for it: the client keys laptop." in restored(path, made)
    assert caller(path, secret).principal is None


def test_a_second_factor_that_was_altered_there_is_as_in_the_backup_and_named(path: Path) -> None:
    with opened(path) as store:
        enabled(store)
        factor = store.factors.get()
    made = backed_up(path)
    attack(path, "DELETE FROM second_factor")
    assert "The second factor was changed outside of ccflare" in restored(path, made)
    with opened(path) as store:
        assert store.factors.get() == factor


def test_a_block_that_was_removed_there_stays(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store.blocklist.block(NETWORK)
    attack(path, "DELETE FROM blocked_addresses")
    restored(path, made)
    with opened(path) as store:
        assert NETWORK in [block.network for block in store.blocklist.all()]


def test_signatures_after_a_restore_are_later_than_all_before(path: Path) -> None:
    made = backed_up(path)
    with opened(path) as store:
        store.clients.add(new_key("laptop", NOW))
        store.clients.change("laptop", tunnels=True)
        before = store.signed_rows.version
    restored(path, made)
    with opened(path) as store:
        assert store.signed_rows.version > before
