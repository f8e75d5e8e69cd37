"""SQL text that is made once and used again and again: rendering a query costs more than running it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from peewee import Database, Field, Model

Row = Sequence[Any]

_MOST_ROWS = 100
_MOST_KEYS = 500


class Insert:
    """Inserts rows of one table by one statement a batch, rendered once and written out for each number of rows."""

    def __init__(
        self,
        database: Database,
        model: type[Model],
        columns: "Sequence[Field[Any]]",
        returning: "Sequence[Field[Any]]" = (),
        *,
        keeps_first: bool = False,
    ) -> None:
        """`keeps_first`: a row whose key is there already is left out."""
        self._execute: Callable[..., Any] = database.execute_sql
        self._render = partial(render, database)
        self._model = model
        self._columns = columns
        self._returning = returning
        self._keeps_first = keeps_first
        self._row = f"({', '.join([str(database.param)] * len(columns))})"
        self._of_one = ""
        self._statements: dict[int, str] = {}

    def run(self, rows: Sequence[Row]) -> list[Row]:
        """Insert all of `rows`, whose values stand in the order of the columns; what was to be returned of them."""
        done, found = 0, []
        while done < len(rows):
            count = min(_MOST_ROWS, len(rows) - done)
            values = [value for row in rows[done : done + count] for value in row]
            cursor = self._execute(self._statement(count), values)
            if self._returning:
                found += cursor.fetchall()
            done += count
        return found

    def _statement(self, count: int) -> str:
        if count not in self._statements:
            self._of_one = self._of_one or self._render_one()
            rows = ", ".join([self._row] * count)
            self._statements[count] = self._of_one.replace(f" VALUES {self._row}", f" VALUES {rows}", 1)
        return self._statements[count]

    def _render_one(self) -> str:
        query = self._model.insert_many([[None] * len(self._columns)], fields=self._columns)
        query = query.on_conflict_ignore() if self._keeps_first else query
        return self._render(query.returning(*self._returning) if self._returning else query)[0]


class ByKeys:
    """A query about rows of some keys, rendered once and written out for each number of keys."""

    def __init__(self, database: Database, build: Callable[[list[Any]], Any]) -> None:
        """`build` makes the query; it has no other parameters than the keys, which stand in one list."""
        self._execute: Callable[..., Any] = database.execute_sql
        self._render = partial(render, database)
        self._build = build
        self._key = str(database.param)
        self._of_one = ""
        self._statements: dict[int, str] = {}

    def run(self, keys: Sequence[Any]) -> list[Row]:
        """The rows that it gives."""
        found: list[Row] = []
        for start in range(0, len(keys), _MOST_KEYS):
            some = keys[start : start + _MOST_KEYS]
            found += self._execute(self._statement(len(some)), some).fetchall()
        return found

    def _statement(self, count: int) -> str:
        if count not in self._statements:
            self._of_one = self._of_one or self._render(self._build([None]))[0]
            keys = ", ".join([self._key] * count)
            self._statements[count] = self._of_one.replace(f"({self._key})", f"({keys})", 1)
        return self._statements[count]


def render(database: Database, query: Any) -> tuple[str, list[Any]]:
    """The query's SQL and its parameters."""
    context: Any = database.get_sql_context()
    sql, parameters = context.sql(query).query()
    return sql, parameters
