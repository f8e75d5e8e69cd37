"""The audit log: each change leaves its row, in the same transaction, in a chain, on both kinds of database."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.oauth import Tokens
from ccflare_core.audit.check import Check
from ccflare_core.audit.entries import FIRST_HASH, By, Entry, Row, Secret, stamp
from ccflare_core.audit.file import AuditFile
from ccflare_core.config.location import Location
from ccflare_core.errors import AuditError, StoreError
from ccflare_core.store.store import Store
from database_kit import KEY, NOW, SECRETS, an_account, open_store

ID = "id of max-1"
CLIENT = By("client:ops", "10.0.0.7", "req_1")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def store(location: Location, copy: Path) -> Iterator[Store]:
    store = Store.open(location, KEY, audit_file=copy, wall=lambda: NOW)
    yield store
    store.close()


def rows(store: Store) -> list[Row]:
    return [Row(*row) for row in store.query(f"SELECT {', '.join(Row._fields)} FROM audit_log ORDER BY id")]


def actions(store: Store) -> list[tuple[str, str, str]]:
    return [(row.action, row.target, row.outcome) for row in rows(store)]


def test_each_change_of_an_account_leaves_its_row(store: Store) -> None:
    store.accounts.add(an_account(), imported_from="claude-code")
    store.accounts.update(ID, paused=True)
    store.accounts.update(ID, paused=False)
    store.accounts.update(ID, priority=7)
    store.accounts.update(ID, name="max-2")
    store.accounts.update(ID, access_token="sk-ant-oat01-other", needs_login=False)
    store.accounts.remove(ID)

    assert actions(store) == [
        ("account.add", "max-1", "ok"),
        ("account.pause", "max-1", "ok"),
        ("account.resume", "max-1", "ok"),
        ("account.priority", "max-1", "ok"),
        ("account.rename", "max-1", "ok"),
        ("login.done", "max-2", "ok"),
        ("account.remove", "max-2", "ok"),
    ]
    assert json.loads(rows(store)[3].detail)["changes"] == {"priority": {"before": 50, "after": 7}}
    assert json.loads(rows(store)[0].detail)["imported_from"] == "claude-code"


def test_each_refresh_leaves_its_row(store: Store) -> None:
    store.accounts.add(an_account())
    store.logins.note_failure(an_account(), NOW + 60, "busy")
    store.logins.save_tokens(ID, "run-1", SECRETS[1], Tokens("sk-ant-oat01-2", "sk-ant-ort01-2", NOW + 60))
    store.logins.save_tokens(ID, "run-1", SECRETS[1], Tokens("sk-ant-oat01-3", "sk-ant-ort01-3", NOW + 60))
    store.logins.flag_login(ID, "run-1", "sk-ant-ort01-2")

    outcomes = [(row.outcome, json.loads(row.detail)) for row in rows(store)[1:]]
    assert [(outcome, set(detail) - {"id"}) for outcome, detail in outcomes] == [
        ("failed", {"reason", "retry_at"}),
        ("ok", {"spent", "access_token", "refresh_token", "expires_at", "needs_login"}),
        ("failed", {"spent", "needs_login"}),
    ]
    assert outcomes[1][1]["refresh_token"] == outcomes[2][1]["spent"]


def test_each_change_of_keys_leaves_its_row(store: Store) -> None:
    assert store.keys is not None
    [old] = store.data_keys()
    new = store.keys.rotate()
    store.keys.retire(old.id)
    store.keys.change_source(KEY, is_known=False)

    assert actions(store) == [
        ("key.rotate", new, "ok"),
        ("key.retire", old.id, "ok"),
        ("key.source", "environment", "ok"),
    ]
    assert [row.key_id for row in rows(store)] == [old.id, new, new]


def test_rows_are_a_chain_in_the_table_and_in_the_file(store: Store, copy: Path) -> None:
    store.accounts.add(an_account())
    store.accounts.update(ID, paused=True)

    first, second = rows(store)
    assert (first.id, first.prev_hash, second.prev_hash) == (1, FIRST_HASH, first.hash)
    assert [Row(**json.loads(line)) for line in copy.read_text().splitlines()] == [first, second]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert first.ts_utc == stamp(NOW) == "2027-01-15T08:00:00.000+00:00"


def test_who_acts_is_named(store: Store) -> None:
    with store.acting(CLIENT):
        store.accounts.add(an_account())
    store.accounts.update(ID, paused=True)

    assert [(row.actor, row.ip, row.request_id) for row in rows(store)] == [CLIENT, ("proxy", "", "")]


def test_a_change_that_is_undone_leaves_nothing(store: Store, copy: Path) -> None:
    store.accounts.add(an_account())
    with pytest.raises(StoreError):
        store.accounts.add(an_account())
    with pytest.raises(StoreError), store.audited("data.purge"):
        store.accounts.remove("nobody")

    assert actions(store) == [("account.add", "max-1", "ok")]
    assert len(copy.read_text().splitlines()) == 1


def test_an_entry_needs_a_transaction_and_a_key(location: Location, store: Store) -> None:
    with pytest.raises(ValueError, match="within a transaction"):
        store.audit.add(Entry.of(CLIENT, "data.read"))
    store.accounts.add(an_account())
    blind = open_store(location, source=None)
    with pytest.raises(AuditError, match="needs the database's key"):
        blind.accounts.update(ID, paused=True)
    blind.close()


def test_an_equal_secret_has_an_equal_mark(store: Store) -> None:
    for secret in ("one", "two", "one"):
        with store.audited("client.add", secret=Secret(secret)):
            pass
    one, two, again = (json.loads(row.detail)["secret"] for row in rows(store))
    assert one == again == store.audit.signer.digest("one")
    assert one != two
    assert repr(Secret("one")) == "Secret()"


def test_old_rows_can_be_deleted_on_purpose_only(store: Store, location: Location) -> None:
    for _ in range(3):
        store.note("data.read")
    with pytest.raises(Exception, match="cannot be deleted"):
        store.query("DELETE FROM audit_log WHERE id = 1")
    later = open_store(location, now=NOW + 10)
    assert sum(later.audit.prune(NOW + 5, CLIENT)) == 3
    assert [(row.id, row.action) for row in rows(later)] == [(4, "audit.prune")]
    later.note("data.read")
    with later.snapshot():
        report = Check(later.audit).run()
    assert (report.problem, report.rows) == (None, 2)
    later.close()


class TestFile:
    def test_it_appends_and_follows_a_rename(self, copy: Path) -> None:
        file = AuditFile(copy)
        assert file.write([b"1\n"])
        copy.rename(copy.with_suffix(".1"))
        assert file.write([b"2\n", b"3\n"])
        assert (copy.with_suffix(".1").read_bytes(), copy.read_bytes()) == (b"1\n", b"2\n3\n")

    def test_what_it_cannot_write_is_told_and_stops_nobody(self, copy: Path) -> None:
        copy.mkdir()
        file = AuditFile(copy)
        assert not file.write([b"1\n", b"2\n"])
        assert "Is a directory" in str(file.trouble)
        copy.rmdir()
        assert file.write([b"3\n"])
        assert file.trouble is None

    def test_a_link_is_not_followed(self, copy: Path, tmp_path: Path) -> None:
        copy.symlink_to(tmp_path / "elsewhere")
        assert not AuditFile(copy).write([b"1\n"])

    def test_a_pipe_that_nobody_empties_does_not_hold_it_up(self, copy: Path) -> None:
        os.mkfifo(copy)
        reader = os.open(copy, os.O_RDONLY | os.O_NONBLOCK)
        assert not AuditFile(copy).write([b"x" * 1_000_000])
        os.close(reader)
