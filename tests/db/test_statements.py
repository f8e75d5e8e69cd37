"""Statements whose text is made once: they say what a query would, however many rows there are."""

from collections.abc import Iterator
from typing import Any

import peewee
import pytest

from ccflare_core.db.statements import ByKeys, Insert, render


class Fruit(peewee.Model):
    id = peewee.AutoField()
    name = peewee.TextField(unique=True)
    weight = peewee.IntegerField()


class Listening(peewee.SqliteDatabase):
    """Keeps the text of what it was told to do."""

    said: list[str]

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        self.said = [*getattr(self, "said", ()), sql]
        return super().execute_sql(sql, params)  # type: ignore[no-untyped-call]


@pytest.fixture
def database() -> Iterator[Listening]:
    database = Listening(":memory:")
    with database.bind_ctx([Fruit]):
        database.create_tables([Fruit])
        yield database
    database.close()


@pytest.mark.parametrize("number", [0, 1, 2, 99, 100, 101, 250])
def test_rows_are_inserted_however_many_they_are(database: peewee.SqliteDatabase, number: int) -> None:
    rows = [(f"fruit {n}", n) for n in range(number)]
    insert = Insert(database, Fruit, (Fruit.name, Fruit.weight), (Fruit.id,))

    ids = [row[0] for row in insert.run(rows)]

    assert ids == list(range(1, number + 1))
    assert list(Fruit.select(Fruit.name, Fruit.weight).order_by(Fruit.id).tuples()) == rows


def test_an_insert_of_many_rows_reads_as_the_query_builder_has_it(database: Listening) -> None:
    rows = [("plum", 40), ("pear", 150), ("fig", 30)]
    Insert(database, Fruit, (Fruit.name, Fruit.weight), (Fruit.id,), keeps_first=True).run(rows)

    query = Fruit.insert_many(rows, fields=(Fruit.name, Fruit.weight)).on_conflict_ignore().returning(Fruit.id)
    assert database.said[-1:] == [render(database, query)[0]]


def test_inserts_return_nothing_unless_asked(database: peewee.SqliteDatabase) -> None:
    insert = Insert(database, Fruit, (Fruit.name, Fruit.weight))
    assert insert.run([("plum", 40)]) == insert.run([("pear", 150)]) == []


@pytest.mark.parametrize("number", [0, 1, 500, 501, 1100])
def test_keys_are_found_however_many_they_are(database: peewee.SqliteDatabase, number: int) -> None:
    Insert(database, Fruit, (Fruit.name, Fruit.weight)).run([(f"fruit {n}", n) for n in range(1200)])
    by_ids = ByKeys(database, lambda keys: Fruit.select(Fruit.id, Fruit.weight).where(Fruit.id.in_(keys)))

    found = by_ids.run(range(1, number + 1))

    assert sorted(tuple(row) for row in found) == [(n + 1, n) for n in range(number)]


def test_a_query_about_many_keys_reads_as_the_query_builder_has_it(database: Listening) -> None:
    ByKeys(database, lambda keys: Fruit.select(Fruit.id).where(Fruit.id.in_(keys))).run([1, 2, 3])

    assert database.said[-1:] == [render(database, Fruit.select(Fruit.id).where(Fruit.id.in_([1, 2, 3])))[0]]


def test_rendered_queries_keep_values_out_of_their_text(database: peewee.SqliteDatabase) -> None:
    sql, parameters = render(database, Fruit.select(Fruit.id).where(Fruit.name == "x' OR '1"))
    assert "OR '1" not in sql
    assert parameters == ["x' OR '1"]
