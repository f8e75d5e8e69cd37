"""Rows that decide are signed: whatever somebody without the key does to them is found, and gives nobody anything."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.doctor import store_checks
from ccflare_cli.doctor.results import Level
from ccflare_core.audit.check import Check
from ccflare_core.audit.signed_rows import MODELS
from ccflare_core.clients.authentication import identify
from ccflare_core.clients.keys import Role
from ccflare_core.clients.totp import LOST, Factor, Used, Wrong, check, code_at, step_at
from ccflare_core.config.location import Location
from ccflare_core.errors import AuditError, StoreError
from ccflare_core.http.addresses import Network
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from database_kit import NOW, open_store

NETWORK = Network.parse("203.0.113.0/24")
VALUES = {"role": "admin", "digest": b"x", "old_digest": b"x", "models": '["*"]', "accounts": '["*"]', "record": "off"}
"""What somebody might write into a column; 9 into any other."""


class Kept:
    """A store in which all kinds of rows are in use, and its file."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.store = store
        limits = {"requests_per_minute": 1, "tokens_per_day": 1, "dollars_per_day": Decimal(1), "expires_at": NOW + 9}
        self.secrets = {name: store.clients.add(new_key(name, NOW, **limits)) for name in ("laptop", "ci")}
        store.blocklist.block(NETWORK, "guesses keys")
        self.seed = store.factors.enable().seed
        codes = store.factors.confirm(code_at(self.seed, step_at(NOW)))
        assert codes is not None
        self.codes = codes

    def attack(self, *statements: str, values: tuple[object, ...] = ()) -> None:
        """Change the file, as whoever can write it and has not its key."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for trigger in ("head_keep", "head_advance", "log_keep", "log_hold", "log_append"):
                connection.execute(f"DROP TRIGGER IF EXISTS audit_{trigger}")
            for statement in statements:
                connection.execute(statement, values if "?" in statement else ())

    def admits(self, name: str) -> bool:
        ring = self.store.clients.ring()
        return identify(ring, [self.secrets[name]], NOW, is_local=False, open_loopback=False).principal is not None

    @property
    def admitted(self) -> list[str]:
        return [name for name in self.secrets if self.admits(name)]

    @property
    def is_blocked(self) -> bool:
        return NETWORK in [block.network for block in self.store.blocklist.all()]

    @property
    def problems(self) -> list[str]:
        return self.store.signed_rows.problems()

    def verify(self) -> str | None:
        with self.store.snapshot():
            return Check(self.store.audit).run(is_used=True).problem


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Kept]:
    path = tmp_path_factory.mktemp("made") / "ccflare.db"
    with contextlib.closing(open_store(path)) as store:
        kept = Kept(path, store)
    return path.read_bytes(), kept


@pytest.fixture
def kept(made_once: tuple[bytes, Kept], tmp_path: Path) -> Iterator[Kept]:
    content, first = made_once
    path = tmp_path / "ccflare.db"
    path.write_bytes(content)
    with contextlib.closing(open_store(path)) as store:
        kept = Kept.__new__(Kept)
        kept.__dict__ = {**first.__dict__, "path": path, "store": store}
        yield kept


def columns(table: str) -> list[str]:
    (model,) = [model for model in MODELS if model._meta.table_name == table]
    return list(model._meta.sorted_field_names)


def test_rows_that_nobody_else_has_touched_count(kept: Kept) -> None:
    assert kept.problems == []
    assert kept.admitted == ["laptop", "ci"]
    assert kept.is_blocked
    assert kept.verify() is None


# -- One column, one row


@pytest.mark.parametrize("column", [each for each in columns("client_keys") if each != "id"])
def test_a_client_key_with_another_value_is_denied_and_the_others_are_not(kept: Kept, column: str) -> None:
    kept.attack(f"UPDATE client_keys SET {column} = ? WHERE name = 'laptop'", values=(VALUES.get(column, 9),))
    assert kept.admitted == ["ci"]
    [problem] = kept.problems
    assert "was changed or put in outside of ccflare, so it is denied" in problem
    assert kept.verify() == problem


@pytest.mark.parametrize("column", columns("blocked_addresses"))
def test_a_block_with_another_value_stays(kept: Kept, column: str) -> None:
    kept.attack(f"UPDATE blocked_addresses SET {column} = ?", values=("192.0.2.0/24" if column == "network" else 9,))
    assert kept.is_blocked
    assert kept.problems


@pytest.mark.parametrize("column", columns("second_factor"))
def test_a_second_factor_with_another_value_is_demanded_and_no_code_is_right(kept: Kept, column: str) -> None:
    value = None if column == "confirmed_at" else kept.store.query("SELECT seed FROM second_factor")[0][0][:-1] + b"x"
    kept.attack(f"UPDATE second_factor SET {column} = ?", values=(value if column in ("confirmed_at", "seed") else 9,))
    factor = kept.store.factors.get()
    assert factor is LOST
    assert factor.is_confirmed
    assert not isinstance(check(factor, code_at(kept.seed, step_at(NOW) + 1), NOW + 30), Used)
    assert kept.problems


def test_a_recovery_code_that_was_put_in_is_none(kept: Kept) -> None:
    kept.attack("INSERT INTO recovery_codes VALUES ('planted')")
    factor = kept.store.factors.get()
    assert factor is not None
    assert "planted" not in factor.recovery
    assert len(factor.recovery) == 10
    assert kept.problems


@pytest.mark.parametrize("key_id", ["'ck_1'", "x'00'", "x'636b'", "''"])
def test_a_client_key_that_was_put_in_is_denied_with_any_digest(kept: Kept, key_id: str) -> None:
    rest = ", ".join(each for each in columns("client_keys") if each not in ("id", "name"))
    kept.attack(
        f"INSERT INTO client_keys (id, name, {rest}) SELECT {key_id}, 'a planted one', {rest} FROM client_keys"
        " WHERE name = 'ci'",
        f"UPDATE client_keys SET role = 'admin' WHERE id = {key_id}",
    )
    ring = kept.store.clients.ring()
    found = identify(ring, [kept.secrets["ci"]], NOW, is_local=False, open_loopback=False)
    assert found.principal is not None
    assert found.principal.key is not None
    assert (found.principal.key.name, found.principal.key.role) == ("ci", Role.CLIENT)
    assert "a planted one was changed or put in" in kept.problems[0]
    kept.store.clients.revoke("a planted one")
    assert kept.problems == []


@pytest.mark.parametrize(
    "statement", ["UPDATE client_keys SET id = CAST(id AS BLOB)", "UPDATE client_keys SET id = 'x' || id"]
)
def test_a_client_key_with_another_id_is_denied(kept: Kept, statement: str) -> None:
    kept.attack(statement)
    assert kept.admitted == []
    assert len(kept.problems) == 4


def _factor(store: Store) -> Factor:
    factor = store.factors.get()
    assert factor is not None
    return factor


CHANGES: dict[str, Callable[[Store], object]] = {
    "add": lambda store: store.clients.add(new_key("new", NOW)),
    "change": lambda store: store.clients.change("laptop", requests_per_minute=2),
    "rotate": lambda store: store.clients.rotate("laptop", grace=60),
    "revoke": lambda store: store.clients.revoke("laptop"),
    "try a code": lambda store: store.factors.keep(Wrong(_factor(store), 0.0)),
    "new codes": lambda store: store.factors.renew_recovery(),
    "block": lambda store: store.blocklist.block(Network.parse("192.0.2.9")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "moment",
    ["INSERT ON client_keys", "UPDATE ON client_keys", "INSERT ON blocked_addresses", "UPDATE ON second_factor"],
)
def test_what_the_database_itself_changes_is_never_signed(kept: Kept, moment: str, change: str) -> None:
    """A trigger needs no key, and is there in the very moment in which we write a row and sign it."""
    kept.attack(
        f"CREATE TRIGGER helps AFTER {moment} BEGIN"
        " UPDATE client_keys SET low_priority = 1 WHERE name IN (SELECT name FROM client_keys) AND low_priority = 0;"
        " UPDATE blocked_addresses SET reason = 'other'; UPDATE second_factor SET confirmed_at = NULL; END"
    )
    with contextlib.suppress(AuditError):
        CHANGES[change](kept.store)
    assert not any(key.low_priority for key in kept.store.clients.all())
    assert all(block.reason != "other" for block in kept.store.blocklist.all())
    factor = kept.store.factors.get()
    assert factor is not None
    assert factor.is_confirmed


def test_a_change_that_was_not_stored_as_written_says_so_and_is_undone(kept: Kept) -> None:
    kept.attack("CREATE TRIGGER helps AFTER UPDATE ON client_keys BEGIN UPDATE client_keys SET role = 'admin'; END")
    with pytest.raises(AuditError, match="did not store the client key as it was written"):
        kept.store.clients.change("laptop", requests_per_minute=2)
    assert (kept.admitted, kept.problems) == (["laptop", "ci"], [])


@pytest.mark.parametrize("place", ["DELETE ON row_signatures", "UPDATE ON audit_head"])
def test_what_cannot_be_signed_anew_is_told_in_words_and_undone(kept: Kept, place: str) -> None:
    kept.attack(f"CREATE TRIGGER holds BEFORE {place} BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(AuditError, match="somebody has put a trigger"):
        kept.store.clients.revoke("laptop")
    assert (kept.admitted, kept.problems) == (["laptop", "ci"], [])


@pytest.mark.parametrize("table", ["blocked_addresses", "second_factor", "recovery_codes"])
def test_rows_with_ids_that_are_no_text_are_found(kept: Kept, table: str) -> None:
    key = columns(table)[0]
    kept.attack(f"UPDATE {table} SET {key} = CAST({key} AS BLOB)")
    assert kept.problems
    assert kept.is_blocked
    factor = kept.store.factors.get()
    assert factor is not None
    assert not factor.recovery or table == "blocked_addresses"


def test_a_block_that_was_put_in_stays_too_if_it_says_anything(kept: Kept) -> None:
    kept.attack(
        "INSERT INTO blocked_addresses VALUES ('192.0.2.0/24', 1, '')",
        "INSERT INTO blocked_addresses VALUES ('nonsense', 1, '')",
    )
    assert [str(block.network) for block in kept.store.blocklist.all()] == ["192.0.2.0/24", str(NETWORK)]
    assert len(kept.problems) == 2


@pytest.mark.parametrize("table", [model._meta.table_name for model in MODELS])
def test_rows_that_were_removed_are_missed(kept: Kept, table: str) -> None:
    kept.attack(f"DELETE FROM {table}")
    assert all("was removed outside of ccflare" in problem for problem in kept.problems)
    assert len(kept.problems) == {"client_keys": 2, "recovery_codes": 10}.get(table, 1)
    assert (kept.admitted == []) == (table == "client_keys")
    assert kept.store.clients.ring().has_keys
    assert kept.is_blocked
    assert (kept.store.factors.get() is LOST) == (table == "second_factor")


# -- What was put back to what it once was


def test_a_row_and_its_signature_from_before_fit_no_longer(kept: Kept) -> None:
    old = kept.path.read_bytes()
    kept.store.clients.change("laptop", role=Role.VIEWER)
    older = kept.path.with_name("older.db")
    older.write_bytes(old)
    kept.attack(f"ATTACH '{older}' AS older", *_put_back("client_keys", "row_signatures"))
    assert kept.admitted == []
    assert "restore a backup" in kept.problems[0]


def test_a_new_data_key_does_not_make_them_fit(kept: Kept) -> None:
    older = kept.path.with_name("older.db")
    older.write_bytes(kept.path.read_bytes())
    kept.store.clients.change("laptop", role=Role.VIEWER)
    kept.attack(f"ATTACH '{older}' AS older", *_put_back("client_keys", "row_signatures"))
    assert kept.store.keys is not None
    kept.store.keys.rotate()
    assert kept.admitted == []
    assert kept.problems


def _put_back(*tables: str) -> Iterator[str]:
    for table in tables:
        yield f"DELETE FROM main.{table}"
        yield f"INSERT INTO main.{table} SELECT * FROM older.{table}"


def test_a_head_from_before_fits_no_longer_either(kept: Kept) -> None:
    with contextlib.closing(sqlite3.connect(kept.path)) as connection:
        connection.execute("VACUUM INTO ?", (str(kept.path.with_name("older.db")),))
    kept.store.clients.revoke("laptop")
    tables = ("client_keys", "row_signatures", "audit_head")
    kept.attack(f"ATTACH '{kept.path.with_name('older.db')}' AS older", *_put_back(*tables))
    assert "was put in" in str(kept.verify())
    with pytest.raises(StoreError):
        kept.store.note("data.read")


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM row_signatures"],
        ["DELETE FROM row_signatures WHERE kind = 'client_keys'", "DELETE FROM client_keys"],
        ["UPDATE row_signatures SET version = 'x'"],
        ["UPDATE row_signatures SET version = x'00', mac = 1"],
        ["UPDATE audit_head SET signed_rows = ''"],
        ["UPDATE audit_head SET signed_rows = 'x', last_id = 'x'"],
        ["UPDATE audit_head SET key_id = 'x'"],
        ["DELETE FROM audit_head"],
    ],
)
def test_signatures_that_the_log_does_not_name_let_nobody_in(kept: Kept, statements: list[str]) -> None:
    kept.attack(*statements)
    assert kept.admitted == []
    assert kept.store.clients.ring().has_keys
    assert kept.is_blocked or "DELETE FROM row_signatures" not in statements
    assert kept.store.factors.get() is LOST
    assert kept.problems
    with pytest.raises(StoreError):
        kept.store.clients.add(new_key("new", NOW))


def test_rows_that_a_new_log_does_not_name_let_nobody_in(kept: Kept) -> None:
    kept.attack("DELETE FROM audit_head", "DELETE FROM audit_log", "DELETE FROM row_signatures")
    assert kept.admitted == []
    kept.store.note("data.read")
    kept.store.clients.add(new_key("new", NOW))
    assert kept.admitted == []
    assert kept.is_blocked
    assert kept.store.factors.get() is LOST


def test_doctor_says_so(kept: Kept) -> None:
    assert [result.level for result in store_checks.signed_rows(kept.store)] == [Level.OK]
    kept.attack("UPDATE second_factor SET failures = 9")
    [result] = store_checks.signed_rows(kept.store)
    assert (result.level, "second factor was changed" in result.found) == (Level.FAIL, True)


# -- What is done about it


def test_an_altered_client_key_can_be_revoked_and_nothing_else(kept: Kept) -> None:
    kept.attack("UPDATE client_keys SET role = 'admin' WHERE name = 'laptop'")
    changes: list[Callable[[], Any]] = [
        lambda: kept.store.clients.change("laptop", tokens_per_day=2),
        lambda: kept.store.clients.rotate("laptop", 0),
    ]
    for change in changes:
        with pytest.raises(StoreError, match="changed outside of ccflare"):
            change()
    kept.store.clients.revoke("laptop")
    assert kept.problems == []
    assert kept.store.clients.by_name("laptop").role is Role.CLIENT
    assert kept.admitted == ["ci"]


def test_an_altered_second_factor_can_be_disabled_and_nothing_else(kept: Kept) -> None:
    kept.attack("UPDATE second_factor SET last_step = 0")
    for change in (kept.store.factors.enable, kept.store.factors.renew_recovery):
        with pytest.raises(StoreError):
            change()
    kept.store.factors.disable()
    assert kept.problems == []


def test_a_block_that_was_put_in_can_be_lifted_however_it_is_spelt(kept: Kept) -> None:
    kept.attack("INSERT INTO blocked_addresses VALUES ('192.0.2.7', 1, '')")
    kept.store.blocklist.unblock(Network.parse("192.0.2.7"))
    assert kept.problems == []
    assert [block.network for block in kept.store.blocklist.all()] == [NETWORK]


def test_a_block_that_was_removed_can_be_lifted(kept: Kept) -> None:
    kept.attack("DELETE FROM blocked_addresses")
    kept.store.blocklist.unblock(NETWORK)
    assert kept.problems == []
    assert not kept.is_blocked


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM row_signatures"],
        ["DELETE FROM audit_head"],
        ["UPDATE audit_head SET last_id = 'x'"],
        ["DELETE FROM audit_head", "DELETE FROM blocked_addresses", "DELETE FROM client_keys WHERE name = 'ci'"],
    ],
)
def test_after_a_restart_of_the_log_no_client_key_is_left_and_codes_are_asked_for(
    kept: Kept, statements: list[str]
) -> None:
    kept.attack(*statements)
    problem = kept.verify()
    assert problem is not None
    kept.store.restart_audit(problem)
    assert kept.admitted == []
    assert {key.revoked_at is not None for key in kept.store.clients.all()} == {True}
    assert kept.is_blocked
    assert kept.store.factors.get() is LOST
    kept.store.factors.disable()
    assert kept.problems == []
    secret = kept.store.clients.add(new_key("new", NOW))
    assert kept.store.clients.ring().find(secret) is not None


# -- Keys, and several processes


def test_a_new_data_key_signs_them_anew_and_what_did_not_count_does_not_count(kept: Kept) -> None:
    kept.attack("UPDATE client_keys SET role = 'admin' WHERE name = 'laptop'")
    keys = kept.store.keys
    assert keys is not None
    old = keys.all()[0].id
    keys.rotate()
    drain(kept.store.resealing().rewrap())
    assert kept.admitted == ["ci"]
    assert len(kept.problems) == 1
    kept.store.clients.rotate("ci", 0)
    kept.store.clients.revoke("laptop")
    keys.retire(old)
    assert kept.problems == []
    assert kept.store.factors.get() is not LOST


def test_processes_that_share_a_database_see_each_others_changes_and_no_false_alarm(location: Location) -> None:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as other:
        secret = one.clients.add(new_key("laptop", NOW))
        one.blocklist.block(NETWORK)
        assert one.keys is not None
        one.keys.rotate()
        assert other.signed_rows.problems() == []  # it has not heard of the new data key yet
        assert other.clients.ring().find(secret) is not None
        other.clients.change("laptop", tunnels=True)
        other.factors.enable()
        assert one.signed_rows.problems() == []
        with one.snapshot():
            assert Check(one.audit).run(is_used=True).problem is None


def test_a_code_that_was_tried_is_an_entry_and_signed(kept: Kept) -> None:
    factor = kept.store.factors.get()
    assert factor is not None
    for code in ("000000", code_at(kept.seed, step_at(NOW) + 1), kept.codes[0]):
        assert kept.store.factors.keep(check(factor, code, NOW + 30))
    assert kept.problems == []
    rows = kept.store.query("SELECT action, outcome FROM audit_log ORDER BY id DESC LIMIT 3")
    assert rows[::-1] == [("mfa.code", "denied"), ("mfa.code", "ok"), ("mfa.recovery.use", "ok")]


# -- Rows from before


def make_older(store: Store) -> None:
    """The database as the version before has left it."""
    head = store.audit.head()
    assert head is not None
    with store._transaction():
        store._database.execute_sql("DELETE FROM row_signatures")  # type: ignore[no-untyped-call]
        store.audit.move(head._replace(signed_rows=""))


def test_rows_from_before_are_signed_once_with_an_entry(kept: Kept) -> None:
    make_older(kept.store)
    assert kept.admitted == ["laptop", "ci"]
    kept.store.sign_older_rows()
    kept.store.sign_older_rows()
    [(detail,)] = kept.store.query("SELECT detail FROM audit_log WHERE action = 'rows.sign'")
    assert '"client_keys":2' in detail
    assert kept.problems == []
    kept.attack("UPDATE client_keys SET role = 'admin' WHERE name = 'laptop'")
    assert kept.admitted == ["ci"]


def test_rows_from_before_wait_for_the_end_of_a_proxy_of_that_version(kept: Kept) -> None:
    make_older(kept.store)
    kept.attack("UPDATE migrations SET applied_at = applied_at + 1000 WHERE name = '0020_signed_rows'")
    kept.store.runs.start("old", "here", 1)
    kept.store.sign_older_rows()
    kept.store.clients.change("ci", tunnels=True)
    assert kept.problems == []
    assert kept.store.query("SELECT COUNT(*) FROM row_signatures") == [(0,)]
    kept.store.runs.end("old")
    kept.store.sign_older_rows()
    assert kept.store.query("SELECT COUNT(*) FROM row_signatures") == [(14,)]


def test_anchors_name_the_signatures_too(kept: Kept) -> None:
    anchor = kept.store.audit.anchor()
    head = kept.store.audit.head()
    assert head is not None
    assert head.signed_rows in anchor
    with kept.store.snapshot():
        assert Check(kept.store.audit).run(None, (anchor,), is_used=True).problem is None
        with pytest.raises(AuditError):
            Check(kept.store.audit).run(None, (anchor.replace(head.signed_rows, "0" + head.signed_rows),), is_used=True)
