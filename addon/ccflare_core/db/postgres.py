"""The engine for a PostgreSQL server, which several machines can share; through the package `psycopg` (3).

All who write take turns, as with a file. The row of the table `ccflare` is what they queue for: a transaction begins by
counting it up, which locks it until the end. So everything that is read within a transaction is still true when it
commits, which the ring of keys, the leases and the runs rely on. Row locks on what each of them reads would do the same
for less waiting, but each query had to be right about them; SERIALIZABLE would make every caller repeat its work when
two have met. A batch of records takes some milliseconds, and each proxy writes at most twenty a second.

The same row tells whether others have written, and that the tables are ours. It is also how a connection that had to be
made anew knows that it still leads to the same database. With it comes the server's timeline, whose number grows when a
standby takes over. What was committed last may be missing there, and a server of an older timeline is one that was
taken over from: if it is started again, nothing may be written to it.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee
import psycopg
from psycopg.adapt import Buffer, Loader

from ccflare_core.config.location import Server
from ccflare_core.db.announcements import Channel, kind_changed
from ccflare_core.db.engine import CommitUnknown, as_store_errors, connected, explain, naming
from ccflare_core.db.migrations import migrate, pending
from ccflare_core.db.server_url import parameters, url_of
from ccflare_core.errors import StoreError, Unusable

_MARKER = "ccflare"
_LOCK = 0x63636631
"""`ccf1`: the advisory lock under which the tables are made."""

# Each transaction says what it needs and leaves nothing behind: a pooler (PgBouncer) may give the session to another
# program next. A process that is stopped in the middle must not keep all others waiting. Tokens must outlive a loss of
# power.
_BEGIN = """BEGIN ISOLATION LEVEL {level} {mode};
SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '{statement}';
SET LOCAL idle_in_transaction_session_timeout = '30s';
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'
"""
_TIMELINE = "CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
"""Eight hex digits; "" where it only reads, from a standby."""
_LOCK_SECONDS = 5.0
_NOT_AVAILABLE = "55P03"
_LOOK_SECONDS = 0.1
_PAUSE_SECONDS = 1.0
"""After an attempt to connect that failed; until then the answer is the same at once."""


class Postgres:
    """An open connection, made anew after it was lost. See Engine."""

    is_frozen = False
    """See Engine."""

    def __init__(self, database: "_Database") -> None:
        self.database = database
        self._execute: Callable[..., Any] = database.execute_sql
        self._id = self._timeline = ""
        self.takeovers = 0
        """See Engine."""
        self._takeovers_at_loss = 0
        self._is_stale = False
        self._tells = _TIMELINE if self._tells_timeline() else "''"
        self._id, self._seen = self._row()
        self.channel = Channel.of(self._id, secrets.token_hex(4))
        """See Engine."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """See Engine, and the module."""
        number, is_whole = 0, False
        is_outermost = not self.database.in_transaction()
        with as_store_errors():
            try:
                with self.database.atomic():
                    number = self._take_turn()
                    yield
                    if is_outermost and (kinds := self.database.changed_kinds):
                        self._announce(self.channel.text(kinds))
                    is_whole = True
            except peewee.DatabaseError as error:
                if is_whole and self.database.is_lost:
                    self._takeovers_at_loss = self.takeovers
                    raise CommitUnknown(number, explain(error)) from error
                raise
            self._seen += 1

    def _take_turn(self) -> int:
        """Wait for the lock; the transaction's number."""
        turn = f"UPDATE {_MARKER} SET changes = changes + 1 RETURNING id, {self._tells}, txid_current()"  # noqa: S608
        found = self._execute(turn).fetchall()
        self._check_identity(found)
        return int(found[0][2])

    def announce_test(self) -> None:
        """See Engine."""
        with as_store_errors():
            self._announce(self.channel.test)

    def _announce(self, text: str) -> None:
        """The server sends it when, and if, the transaction is committed."""
        self._execute("SELECT pg_notify(%s, %s)", (self.channel.name, text))

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """See Engine."""
        with as_store_errors(), self.database.atomic(isolation_level="REPEATABLE READ"):
            yield

    def select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See Engine. A literal in the statement must not hold a `?`."""
        with as_store_errors():
            cursor = self._execute(sql.replace("%", "%%").replace("?", "%s"), parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def changed(self) -> bool:
        """See Engine."""
        before, (_, self._seen) = self._seen, self._row()
        is_stale, self._is_stale = self._is_stale, False
        return self._seen != before or is_stale

    def was_committed(self, transaction: int) -> bool | None:
        """See Engine: a standby gives the numbers that it has not heard of to others. Raises StoreError meanwhile."""
        self._row()
        if self.takeovers != self._takeovers_at_loss:
            return None
        try:
            status = self.select("SELECT txid_status(?)", (transaction,))[0][0]
        except peewee.DataError:  # the number was never given: the server has crashed before it wrote it down
            return False
        if status == "in progress":
            raise StoreError("the database server still works on the last rows")
        return bool(status == "committed")

    def scrub(self, *, whole: bool) -> bool:
        """See Engine. What the server's own log and backups hold is for its owner to wipe.

        False if a reader stands in the way of writing the tables anew for longer than five seconds.
        """
        with as_store_errors():
            return all(self.database.vacuum(table, whole=whole) for table in self.database.get_tables())

    def log_bytes(self) -> int:
        """See Engine; the server looks after its log by itself."""
        return 0

    def space(self) -> None:
        """See Engine; what is deleted makes room within the server's files, which do not shrink by that."""

    def shrink(self, pages: int) -> None:
        """See Engine; the server does it by itself."""

    def problems(self) -> list[str]:
        """See Engine; the server keeps the references right, and its owner has `pg_amcheck` for the rest."""
        return []

    def close(self) -> None:
        """See Engine."""
        self.database.autoconnect = False
        self.database.close()

    def _row(self) -> tuple[str, int]:
        found = self.select(f"SELECT id, {self._tells}, changes FROM {_MARKER}")  # noqa: S608
        self._check_identity(found)
        return found[0][0], found[0][2]

    def _tells_timeline(self) -> bool:
        """Whether the server tells it; some that only speak PostgreSQL's language do not."""
        try:
            self.select(f"SELECT {_TIMELINE}")
        except StoreError:
            return False
        return True

    def _check_identity(self, found: Sequence[tuple[Any, ...]]) -> None:
        """StoreError if the rows of the marker's table, which begin with id and timeline, are not to be relied on."""
        if len(found) != 1 or self._id not in ("", found[0][0]):
            raise StoreError("this is another database than at the start: bring that one back, then restart")
        timeline: str = found[0][1]
        if timeline and timeline < self._timeline:
            raise StoreError("this server is the one that a standby took over from: stop it, or make it a standby")
        if timeline and timeline > self._timeline:
            if self._timeline:
                self.takeovers += 1
                self._is_stale = True
            self._timeline = timeline


class _Database(peewee.PostgresqlDatabase):
    """peewee's, whose transactions say what they need, and which makes a lost connection anew.

    What is executed outside of a transaction gets one of its own.
    """

    WRITING, READING = "30s", "300s"

    def __init__(self, server: Server, *, read_only: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(str(server), prefer_psycopg3=True, thread_safe=False)
        self._server = server
        self._clock = clock
        self._retry_at = float("-inf")
        self._why = ""
        self._is_read_only = read_only
        self.changed_kinds: set[str] = set()
        """Of what the open transaction has changed rows that others look for, see announcements.py."""

    @property
    def is_lost(self) -> bool:
        """Whether there was a connection and it is broken."""
        return not self.is_closed() and bool(self.connection().closed)  # type: ignore[no-untyped-call]

    def cursor(self, named_cursor: str | None = None) -> Any:
        """A cursor, on a new connection if the old one is lost; not within a transaction, which is lost with it."""
        if self.is_lost and not self.in_transaction():
            self.dispose()
        return super().cursor(named_cursor)  # type: ignore[no-untyped-call]

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:
        """The cursor with the result."""
        if self.in_transaction():
            cursor: Any = super().execute_sql(sql, params)  # type: ignore[no-untyped-call]
            if (kind := kind_changed(sql)) and cursor.rowcount > 0:
                self.changed_kinds.add(kind)
            return cursor
        with self.atomic():
            return super().execute_sql(sql, params)  # type: ignore[no-untyped-call]

    def begin(self, isolation_level: str | None = None) -> None:
        """Begin a transaction. One with an isolation level only reads, and so do all of a connection that only reads.

        That the connection was lost while nobody used it, nobody needs to know.
        """
        statement = _BEGIN.format(
            level=isolation_level or "READ COMMITTED",
            mode="READ ONLY" if self._is_read_only or isolation_level else "READ WRITE",
            statement=self.READING if self._is_read_only else self.WRITING,
        )
        self.changed_kinds.clear()
        self._on_a_live_connection(lambda: super(_Database, self).execute_sql(statement))  # type: ignore[no-untyped-call]

    def vacuum(self, table: str, *, whole: bool) -> bool:
        """Wipe a table's deleted rows, or write it anew; False if others keep it locked for five seconds.

        That takes no transaction, and so no lock_timeout either: a locked table is skipped, and tried again.
        """
        statement = f'VACUUM ({"FULL, " * whole}SKIP_LOCKED) "{table}"'
        deadline = self._clock() + _LOCK_SECONDS
        skipped: list[str | None] = []
        connection = self.connection()  # type: ignore[no-untyped-call]
        connection.add_notice_handler(note := lambda notice: skipped.append(notice.sqlstate))
        try:
            while True:
                skipped.clear()
                super().execute_sql(statement)  # type: ignore[no-untyped-call]
                if _NOT_AVAILABLE not in skipped:
                    return True
                if self._clock() >= deadline:
                    return False
                time.sleep(_LOOK_SECONDS)
        finally:
            connection.remove_notice_handler(note)

    def _on_a_live_connection[T](self, act: Callable[[], T]) -> T:
        """What `act` gives; it is done twice if need be, which is harmless: whatever writes is in a transaction."""
        try:
            return act()
        except (peewee.OperationalError, peewee.InterfaceError):
            if self.in_transaction() or not self.is_lost:
                raise
            return act()

    def rollback(self) -> None:
        """Undo; a server does that by itself when it loses us."""
        if not self.is_lost:
            super().rollback()

    def _connect(self) -> "psycopg.Connection[Any]":
        """Called by peewee for each new connection."""
        if self._clock() < self._retry_at:
            raise Unusable(self._why)
        try:
            return self._dial()
        except (psycopg.Error, StoreError) as error:
            self._why = str(error) if isinstance(error, StoreError) else explain(error)
            self._retry_at = self._clock() + _PAUSE_SECONDS
            raise Unusable(self._why) from None  # the driver's own words may have the password in them

    def _dial(self) -> "psycopg.Connection[Any]":
        # Prepared statements would not survive a pooler between us, nor another version's migration.
        connection = psycopg.connect(**parameters(url_of(self._server), os.environ), autocommit=True)
        connection.prepare_threshold = None
        connection.adapters.register_loader("numeric", _Figure)
        return connection


class _Figure(Loader):
    """Sums and quotients as SQLite gives them: int or float, and no Decimal."""

    def load(self, data: Buffer) -> int | float:
        """Called by psycopg for each value of the type numeric."""
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def open_to_write(server: Server, now_ms: int) -> Postgres:
    """A connection for reading and writing, to tables that are made or brought up to date if need be.

    Raises StoreError.
    """
    with naming(server), connected(_Database(server, read_only=False)) as database:
        if not database.table_exists(_MARKER):
            _make(database, now_ms)
        engine = Postgres(database)
        if pending(database):
            with engine.transaction():
                migrate(database, now_ms)
        return engine


def open_to_read(server: Server) -> Postgres:
    """A connection that can only read, and makes nothing. Raises StoreError."""
    with naming(server), connected(_Database(server, read_only=True)) as database:
        if not database.table_exists(_MARKER):
            raise StoreError("there is no database yet: start the proxy or add an account first")
        if pending(database):
            raise StoreError("it was made by an older ccflare: start the proxy once, which brings it up to date")
        return Postgres(database)


def is_made(server: Server) -> bool:
    """Whether our tables are there. Raises StoreError if the server cannot be asked."""
    with naming(server), connected(_Database(server, read_only=True)) as database:
        found = database.table_exists(_MARKER)
        database.close()
        return bool(found)


def _make(database: _Database, now_ms: int) -> None:
    """Make the tables, all or none, unless another process is first."""
    execute: Callable[..., Any] = database.execute_sql
    with database.atomic():
        execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        if database.table_exists(_MARKER):
            return
        if database.get_tables():
            raise StoreError("this is another program's database: make one for ccflare alone, or a schema")
        if execute("SHOW server_encoding").fetchone()[0] != "UTF8":
            raise StoreError("the database cannot hold every text: make it with the encoding UTF8")
        execute(f"CREATE TABLE {_MARKER} (id TEXT NOT NULL PRIMARY KEY, changes BIGINT NOT NULL)")
        execute(f"INSERT INTO {_MARKER} VALUES (%s, 0)", (secrets.token_hex(8),))  # noqa: S608
        migrate(database, now_ms)
