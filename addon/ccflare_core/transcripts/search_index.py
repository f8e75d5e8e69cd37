"""The index of `ccflare_search_index=plain`: what was recorded, readable, in the database's file. SQLite only.

It tells a search where it has to look, and the search then reads that as it reads all without an index, so it finds the
same. What is not indexed yet, or too long for a short step, is looked through each time.

Triggers note in `search_rows` each block and body that comes or goes. The text is put into `search_index` and taken out
of it here: FTS5 may be used in no trigger of a database that does not trust its schema (see sqlite.py).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from peewee import Database, SqliteDatabase

from ccflare_core.errors import ConfigError, StoreError, VaultError
from ccflare_core.transcripts.read import Body, Transcripts
from ccflare_core.transcripts.search import readable

Query = Callable[..., list[tuple[Any, ...]]]

_WAITS, _INDEXED, _LEFT_OUT, _GONE = range(4)
_LONGEST = 128 * 1024
"""Bytes. More than that takes too long at once."""

_MOST_ROWS = 64
_MOST_TRIGRAMS = 50
_QUICK_SECONDS, _SLOW_SECONDS = 0.01, 0.02
_FTS = "CREATE VIRTUAL TABLE {} USING fts5 (text, tokenize = 'trigram', detail = 'none')"
_TABLES = (
    """CREATE TABLE search_rows (id INTEGER PRIMARY KEY AUTOINCREMENT, block_id INTEGER UNIQUE, request_id TEXT,
        part TEXT, state INTEGER NOT NULL DEFAULT 0, UNIQUE (request_id, part))""",
    "CREATE INDEX search_rows_state ON search_rows (state)",
    _FTS.format("search_index"),
    """CREATE TRIGGER search_block_added AFTER INSERT ON blocks
        BEGIN INSERT INTO search_rows (block_id) VALUES (NEW.id); END""",
    """CREATE TRIGGER search_block_gone AFTER DELETE ON blocks
        BEGIN UPDATE search_rows SET block_id = NULL, state = 3 WHERE block_id = OLD.id; END""",
    """CREATE TRIGGER search_body_added AFTER INSERT ON payloads WHEN NEW.chapter_id IS NULL AND NOT NEW.withheld
        BEGIN INSERT INTO search_rows (request_id, part) VALUES (NEW.request_id, NEW.part); END""",
    """CREATE TRIGGER search_body_gone AFTER DELETE ON payloads
        BEGIN UPDATE search_rows SET request_id = NULL, part = NULL, state = 3
        WHERE request_id = OLD.request_id AND part = OLD.part; END""",
    "INSERT INTO search_rows (block_id) SELECT id FROM blocks ORDER BY id",
    """INSERT INTO search_rows (request_id, part)
        SELECT request_id, part FROM payloads WHERE chapter_id IS NULL AND NOT withheld""",
)
_TRIGGERS = ("search_block_added", "search_block_gone", "search_body_added", "search_body_gone")
_SHADOWS = (("search_index_content", 0), ("search_index_data", 10))
"""FTS5's own tables, and up to which id they hold what it takes to open the index, and no text."""


class Candidates:
    """What a search has to look through, as Transcripts gives all of it."""

    def __init__(self, transcripts: Transcripts, query: Query, places: Sequence[tuple[Any, ...]]) -> None:
        self._transcripts = transcripts
        self._query = query
        self._blocks = sorted(block for block, _, _ in places if block is not None)
        self._wholes = [(request_id, part) for _, request_id, part in places if request_id is not None]
        self.requests_of = transcripts.requests_of
        self.body = transcripts.body

    @property
    def total(self) -> int:
        """How much that is."""
        return len(self._blocks) + len(self._wholes)

    def blocks(self, session: str | None = None) -> Iterator[tuple[int, bytes]]:
        """See Transcripts; of any session: the caller asks for the requests that have them."""
        for block in self._blocks:
            yield from self._transcripts.fetch([block]).items()

    def wholes(self, session: str | None = None) -> Iterator[tuple[str, str, Body]]:
        """See Transcripts."""
        for request_id, part in self._wholes:
            if self._is_in(request_id, session) and (body := self.body(request_id, part)):
                yield request_id, part, body

    def _is_in(self, request_id: str, session: str | None) -> bool:
        sql = "SELECT 1 FROM requests WHERE id = ? AND session_id = ?"
        return session is None or bool(self._query(sql, (request_id, session)))


class SearchIndex:
    """A part of the store. The proxy's writer fills it step by step, or does away with it; any search may use it."""

    def __init__(
        self,
        database: Database,
        transcripts: Transcripts,
        *,
        query: Query,
        transaction: Callable[[], AbstractContextManager[None]],
        scrub: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._is_file = isinstance(database, SqliteDatabase)
        self._transcripts = transcripts
        self._query = query
        self._transaction = transaction
        self._scrub = scrub
        self._clock = clock
        self._is_plain: bool | None = None
        self._is_dropped = False
        self._most = 1

    def begin(self, *, plain: bool) -> None:
        """Say whether it is to be there. Raises ConfigError if this SQLite cannot make it."""
        if plain:
            self._check()
        self._is_plain = plain
        self._is_dropped = not self._tables() and not plain

    def step(self) -> bool:
        """Do a little of what is to be done, in about 20 ms; whether there is more. Raises StoreError."""
        if self._is_plain is None or self._is_dropped:
            return False
        began, tables = self._clock(), self._tables()
        if self._is_plain and not tables:
            self._make()
            return True
        is_wanted = self._is_plain and "search_rows" in tables
        goes_on = (self._forget() or self._fill()) if is_wanted else self._drop(tables)
        took = self._clock() - began
        self._most = min(2 * self._most, _MOST_ROWS) if took < _QUICK_SECONDS else self._most
        self._most = max(self._most // 2, 1) if took > _SLOW_SECONDS else self._most
        return goes_on

    def collect_garbage(self, *, whole: bool) -> None:
        """Take out the text of all that has been deleted, in many small steps; with `whole` write the index anew.

        Before SQLite 3.42 the index knows of a deleted text which three letters it had, until it is written anew.
        """
        if "search_rows" not in self._tables():
            return
        while self._forget():
            pass
        if whole:
            with self._transaction():
                self._query("INSERT INTO search_index (search_index) VALUES ('optimize')")

    def candidates(self, literal: str) -> Candidates | None:
        """Where `literal` may stand, in capitals or not; None if there is no index, or it is too short for one."""
        trigrams = sorted({literal[at : at + 3] for at in range(len(literal) - 2)})[:_MOST_TRIGRAMS]
        if not trigrams or "search_rows" not in self._tables():
            return None
        sql = "SELECT block_id, request_id, part FROM search_rows WHERE "
        # In this order: what is indexed in between is then found twice, and not left out.
        places = self._query(f"{sql} state IN (?, ?)", (_WAITS, _LEFT_OUT))
        match = " AND ".join('"{}"'.format(each.replace('"', '""')) for each in trigrams)
        matching = "state = ? AND id IN (SELECT rowid FROM search_index WHERE search_index MATCH ?)"
        places += self._query(sql + matching, (_INDEXED, match))
        return Candidates(self._transcripts, self._query, list(dict.fromkeys(places)))

    def _tables(self) -> set[str]:
        if not self._is_file:
            return set()
        sql = "SELECT name FROM sqlite_master WHERE name IN ('search_rows', 'search_index')"
        return {name for (name,) in self._query(sql)}

    def _check(self) -> None:
        try:
            self._query(_FTS.format("temp.search_probe"))
            self._query("DROP TABLE temp.search_probe")
        except StoreError as error:
            raise ConfigError(
                "ccflare_search_index: plain needs an SQLite with FTS5 and trigrams (3.34 or newer); allowed is none"
            ) from error

    def _make(self) -> None:
        with self._transaction():
            if self._tables():
                return  # another proxy was first
            for statement in _TABLES:
                self._query(statement)
            # From SQLite 3.42 on: no word of what is deleted waits in the index for the next merge.
            with contextlib.suppress(StoreError):
                self._query("INSERT INTO search_index (search_index, rank) VALUES ('secure-delete', 1)")

    def _forget(self) -> bool:
        gone = self._query("SELECT id FROM search_rows WHERE state = ? LIMIT ?", (_GONE, self._most))
        if gone:
            with self._transaction():
                for row in gone:
                    self._query("DELETE FROM search_index WHERE rowid = ?", row)
                    self._query("DELETE FROM search_rows WHERE id = ?", row)
        return bool(gone)

    def _fill(self) -> bool:
        sql = "SELECT id, block_id, request_id, part FROM search_rows WHERE state = ? ORDER BY id LIMIT ?"
        waiting = self._query(sql, (_WAITS, self._most))
        texts = [(row, self._text(*place)) for row, *place in waiting]  # opened before others have to wait
        if texts:
            with self._transaction():
                for row, text in texts:
                    self._put(row, text)
        return bool(texts)

    def _put(self, row: int, text: str | None) -> None:
        if text is not None:
            sql = "INSERT INTO search_index (rowid, text) SELECT id, ? FROM search_rows WHERE id = ? AND state = ?"
            self._query(sql, (text, row, _WAITS))
        state = _LEFT_OUT if text is None else _INDEXED
        self._query("UPDATE search_rows SET state = ? WHERE id = ? AND state = ?", (state, row, _WAITS))

    def _text(self, block: int | None, request_id: str, part: str) -> str | None:
        """None for what is left to the search: it is too long, or does not open, which the search will say."""
        try:
            if block is not None:
                content = self._transcripts.fetch([block]).get(block, b"")
            else:
                body = self._transcripts.body(request_id, part)
                content = readable(body) if body else b""
        except VaultError:
            return None
        # SQLite's tokenizer ends at a NUL.
        return content.decode("utf-8", "replace").replace("\0", " ") if len(content) <= _LONGEST else None

    def _drop(self, tables: set[str]) -> bool:
        """First the table without which no search uses the rest, then that piece by piece, overwritten with zeros."""
        if not tables:
            self._is_dropped = self._scrub()
            return False
        with self._transaction():
            if "search_rows" in tables:
                for trigger in _TRIGGERS:
                    self._query(f"DROP TRIGGER IF EXISTS {trigger}")
                self._query("DROP TABLE IF EXISTS search_rows")
            elif not any(self._emptied(*shadow) for shadow in _SHADOWS):
                self._query("DROP TABLE search_index")
        return True

    def _emptied(self, shadow: str, kept: int) -> bool:
        """Whether some rows were there to be deleted."""
        sql = f"DELETE FROM {shadow} WHERE id IN (SELECT id FROM {shadow} WHERE id > ? LIMIT ?) RETURNING 1"  # noqa: S608
        return bool(self._query(sql, (kept, self._most)))
