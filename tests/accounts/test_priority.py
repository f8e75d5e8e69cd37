"""Priorities of another place: 50 is added, and their order is kept whatever they are."""

from collections.abc import Callable
from typing import Any

import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.priority import FIRST, LAST, fitted
from ccflare_core.db.migrations import MIGRATIONS, migrate

NUMBERS = st.lists(st.integers(-60, 60) | st.integers(-1000, 1000), max_size=12)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), {}),
        ((0, 1, 5, -49, 49), {0: 50, 1: 51, 5: 55, -49: 1, 49: 99}),
        ((0, 10, 100, 1000), {0: 50, 10: 51, 100: 52, 1000: 53}),
        ((-200, -100, 3), {-200: 48, -100: 49, 3: 51}),
        (range(-60, 61), {each: max(1, min(50 + each, 99)) for each in range(-60, 61)}),
    ],
)
def test_priorities_are_fitted(before: tuple[int, ...], after: dict[int, int]) -> None:
    assert fitted(before) == after


@given(NUMBERS)
def test_order_is_kept(before: list[int]) -> None:
    after = fitted(before)
    assert all((a < b) == (after[a] < after[b]) for a in before for b in before)
    assert all(FIRST <= each <= LAST for each in after.values())


@given(NUMBERS)
def test_migration_does_the_same(before: list[int]) -> None:
    database = peewee.SqliteDatabase(":memory:", lock_type="IMMEDIATE")
    names = [migration.name for migration in MIGRATIONS]
    migrate(database, 1, MIGRATIONS[: names.index("0023_accounts")])
    run: Callable[[str], Any] = database.execute_sql
    for number, priority in enumerate(before):
        run(
            "INSERT INTO accounts (id, name, kind, priority, paused, created_at, updated_at, needs_login) "
            f"VALUES ('{number}', '{number}', 'oauth', {priority}, 0, 0, 0, 0)"
        )

    migrate(database, 2)

    rows = run("SELECT priority FROM accounts ORDER BY CAST(id AS INTEGER)").fetchall()
    assert [row[0] for row in rows] == [fitted(before)[each] for each in before]
    database.close()
