"""The tables: migrations lead to exactly what the models say, once, and never from a newer database."""

from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

from ccflare_core.db.migrations import MIGRATIONS, Migration, migrate, pending
from ccflare_core.db.models import TABLES, ClientKeyRow, MigrationRow
from ccflare_core.errors import StoreError

LATER = (*MIGRATIONS, Migration("9999_later", ("ALTER TABLE accounts ADD COLUMN later TEXT",)))
BROKEN = (*MIGRATIONS, Migration("9999_broken", ("CREATE TABLE half (id TEXT)", "CREATE TABEL half")))


@pytest.fixture
def database() -> Iterator[peewee.SqliteDatabase]:
    database = peewee.SqliteDatabase(":memory:", lock_type="IMMEDIATE")
    yield database
    database.close()


def shape(database: peewee.SqliteDatabase, table: str) -> dict[str, tuple[str, bool, bool]]:
    """By column: SQLite's affinity, whether it may be NULL, whether it is in the primary key."""
    columns = database.get_columns(table)
    keys = set(database.get_primary_keys(table))
    return {c.name: (affinity(c.data_type), c.null and c.name not in keys, c.name in keys) for c in columns}


def affinity(data_type: str) -> str:
    """How SQLite stores a column declared so (https://sqlite.org/datatype3.html, section 3.1)."""
    rules = (("INT", "integer"), ("CHAR", "text"), ("TEXT", "text"), ("BLOB", "blob"), ("DOUB", "real"))
    found = next((name for sign, name in rules if sign in data_type.upper()), "numeric")
    return "integer" if data_type.upper().startswith("BOOL") else "real" if data_type == "REAL" else found


@pytest.mark.parametrize("model", TABLES, ids=lambda model: model._meta.table_name)
def test_migrations_make_what_the_models_say(model: type[peewee.Model], database: peewee.SqliteDatabase) -> None:
    wanted = peewee.SqliteDatabase(":memory:")
    peewee.SchemaManager(model, database=wanted).create_table()
    migrate(database, 1)
    table = model._meta.table_name
    assert shape(database, table) == shape(wanted, table)
    wanted.close()


def test_there_is_no_table_without_a_model(database: peewee.SqliteDatabase) -> None:
    migrate(database, 1)
    left_for_older_processes = {"cooldowns"}
    assert set(database.get_tables()) == {model._meta.table_name for model in TABLES} | left_for_older_processes


def test_migrating_again_changes_nothing(database: peewee.SqliteDatabase) -> None:
    migrate(database, 1)
    migrate(database, 2)
    applied = [row.applied_at for row in MigrationRow.select().bind(database)]
    assert applied == [1] * len(MIGRATIONS)


def test_a_new_step_is_taken_by_an_old_database(database: peewee.SqliteDatabase) -> None:
    migrate(database, 1)
    assert [step.name for step in pending(database, LATER)] == ["9999_later"]
    migrate(database, 2, LATER)
    assert "later" in shape(database, "accounts")
    assert pending(database, LATER) == []


def test_a_step_that_fails_leaves_no_trace(database: peewee.SqliteDatabase) -> None:
    migrate(database, 1)
    with pytest.raises(peewee.OperationalError):
        migrate(database, 2, BROKEN)
    assert "half" not in database.get_tables()
    assert [step.name for step in pending(database, BROKEN)] == ["9999_broken"]


def test_a_newer_database_is_refused(database: peewee.SqliteDatabase) -> None:
    migrate(database, 1, LATER)
    with pytest.raises(StoreError, match=r"newer ccflare.*9999_later"):
        migrate(database, 2)


def test_names_are_unique_and_in_order() -> None:
    names = [migration.name for migration in MIGRATIONS]
    assert names == sorted(set(names))


def test_cooldowns_of_the_version_before_go_on_by_their_scope(database: peewee.SqliteDatabase) -> None:
    run: Callable[[str], Any] = database.execute_sql
    names = [migration.name for migration in MIGRATIONS]
    migrate(database, 1, MIGRATIONS[: names.index("0013_scopes")])
    run("INSERT INTO cooldowns VALUES ('a', '', 5, 'why', 'window_spent', 2), ('a', 'opus', 6, '', '', 1)")

    migrate(database, 2)

    rows = run("SELECT * FROM scope_cooldowns ORDER BY scope").fetchall()
    assert rows == [("a", "account", "", 5, "why", "window_spent", 2), ("a", "family", "opus", 6, "", "", 1)]
    assert run("SELECT COUNT(*) FROM cooldowns").fetchall() == [(2,)]


def test_client_keys_keep_the_tunnels_that_they_had(database: peewee.SqliteDatabase) -> None:
    names = [migration.name for migration in MIGRATIONS]
    migrate(database, 1, MIGRATIONS[: names.index("0018_tunnels")])
    before = {"id": "ck_1", "name": "old", "role": "client", "created_at": 1, "low_priority": False}
    lists = dict.fromkeys(("models", "accounts", "not_accounts"), "[]")
    row = {**before, **lists}
    run: Callable[..., Any] = database.execute_sql
    run(f"INSERT INTO client_keys ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))

    migrate(database, 2)

    ClientKeyRow.insert({**row, "id": "ck_2", "name": "new", "tunnels": False}).execute(database)
    query = ClientKeyRow.select(ClientKeyRow.name, ClientKeyRow.tunnels).order_by(ClientKeyRow.name)
    assert list(query.tuples().bind(database)) == [("new", False), ("old", True)]


def test_what_was_sealed_before_it_was_counted_is_estimated_from_above(database: peewee.SqliteDatabase) -> None:
    names = [migration.name for migration in MIGRATIONS]
    migrate(database, 1, MIGRATIONS[: names.index("0019_sealed_counts")])
    run: Callable[..., Any] = database.execute_sql
    run("INSERT INTO data_keys VALUES ('k1', 1, x'00', 'file', 1, 1)")
    run("INSERT INTO blocks (id, address, body) VALUES (70, x'00', x'00')")  # others before it are deleted by now

    migrate(database, 2)

    assert run("SELECT key_id, sealed FROM sealed_counts").fetchall() == [("k1", 4 * 70)]
