"""The engine for a file: opening it safely, and what SQLite keeps beside it.

Nothing here may open() and close() the database or its -shm file itself: closing any handle drops the POSIX
locks that SQLite holds in this process, and another process then writes into the middle of our transaction.
stat and chmod are harmless.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import peewee

from ccflare_core.database import as_store_errors, naming
from ccflare_core.errors import StoreError
from ccflare_core.files import draft, make_private_folder, publish
from ccflare_core.migrations import migrate, pending

APPLICATION_ID = 0x63636631
"""`ccf1`, in the file's header: this is a ccflare database and no other program's."""

_BUSY_SECONDS = 5
_QUICK_CHECK_BYTES = 256 * 1024 * 1024
_JOURNAL_BYTES = 64 * 1024 * 1024
_WRITING = (
    ("foreign_keys", 1),
    ("synchronous", "FULL"),
    ("secure_delete", 1),
    ("journal_size_limit", _JOURNAL_BYTES),
)


class SQLite:
    """An open file. See Engine."""

    def __init__(self, database: peewee.SqliteDatabase, path: Path) -> None:
        self.database = database
        self._path = path
        self._execute: Callable[..., Any] = database.execute_sql
        self._identity = self._identify()
        self._version = self._data_version()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """See Engine: an IMMEDIATE transaction has the file's only write lock from its beginning."""
        if self._identify() != self._identity:
            # SQLite would go on writing into a file that no longer has a name.
            raise StoreError("the database file was deleted or replaced while in use: restore it, then restart")
        with as_store_errors(), self.database.atomic():
            yield

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """See Engine."""
        with as_store_errors(), self.database.atomic("DEFERRED"):
            yield

    def select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See Engine."""
        with as_store_errors():
            return list(self._execute(sql, parameters).fetchall())

    def changed(self) -> bool:
        """See Engine."""
        before, self._version = self._version, self._data_version()
        return self._version != before

    def was_committed(self, transaction: int) -> bool:
        """See Engine; a file has committed when it says so, and else it has not."""
        return False

    def scrub(self, *, whole: bool) -> bool:
        """See Engine: the write-ahead log is emptied, and deleted rows were overwritten with zeros (secure_delete).

        A reader stands in the way if it takes longer than five seconds.
        """
        with as_store_errors():
            if whole:
                self._execute("VACUUM")
            return not self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def log_bytes(self) -> int:
        """See Engine: the write-ahead log."""
        return file_size(beside(self._path, "-wal"))

    def close(self) -> None:
        """See Engine."""
        self.database.close()

    def _data_version(self) -> int:
        with as_store_errors():
            return int(self.database.pragma("data_version"))

    def _identify(self) -> tuple[int, int] | None:
        try:
            info = self._path.stat()
        except OSError:
            return None
        return info.st_dev, info.st_ino


def open_to_write(path: Path, now_ms: int) -> SQLite:
    """A connection for reading and writing, to a database that is made or brought up to date if need be.

    The folder is made with mode 0700; the file, and so its -wal and -shm, have 0600. Raises StoreError.
    """
    with naming(path):
        make_private_folder(path.parent)
        if not path.exists():
            _create(path, now_ms)
        info = _check_file(path)
        if info.st_uid != os.geteuid():
            raise StoreError("the file belongs to another user: run as that user, or name another file")
        _make_private(path)
        with _connected(path, "rw") as database:
            _check_content(database, info.st_size)
            for pragma, value in _WRITING:
                database.pragma(pragma, value)
            if database.pragma("journal_mode", "wal") != "wal":
                raise StoreError("its file system cannot share a write-ahead log: put it on a local disk")
            migrate(database, now_ms)
            return SQLite(database, path)


def open_to_read(path: Path) -> SQLite:
    """A connection that can only read, and neither makes nor changes the file. Raises StoreError."""
    with naming(path):
        _check_file(path)
        with _connected(path, "ro") as database:
            _check_content(database, size=None)
            if pending(database):
                raise StoreError("it was made by an older ccflare: start the proxy once, which brings it up to date")
            return SQLite(database, path)


def is_whole(path: Path) -> bool:
    """Whether all pages, rows and indexes of the file hold together. It is read from end to end."""
    with naming(path), _connected(path, "ro") as database, contextlib.closing(database):
        return bool(database.pragma("quick_check(1)") == "ok")


@contextlib.contextmanager
def _connected(path: Path, mode: str) -> Iterator[peewee.SqliteDatabase]:
    """An open connection, closed again if the block fails. SQLite keeps it to the thread that made it."""
    database = peewee.SqliteDatabase(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        pragmas=(("trusted_schema", 0),),
        # A deferred transaction that reads first fails at once, without waiting, when another one commits.
        lock_type="IMMEDIATE",
        autoconnect=False,
        thread_safe=False,
    )
    try:
        database.connect()
        yield database
    except BaseException:
        database.close()
        raise


def _create(path: Path, now_ms: int) -> None:
    """Make the whole database under another name, then give it its own: no one ever sees half of it."""
    if file_size(beside(path, "-wal")):
        raise StoreError("the file is missing although its -wal is there: restore it, or move the -wal away")
    with draft(path) as new:
        with _connected(new, "rw") as database:
            database.pragma("application_id", APPLICATION_ID)
            migrate(database, now_ms)
            database.pragma("journal_mode", "wal")
            database.close()
        publish(new, path)


def _check_file(path: Path) -> os.stat_result:
    if not path.exists():
        raise StoreError("there is no database yet: start the proxy or add an account first")
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise StoreError("this is not a file: name another one")
    if info.st_size == 0:
        # SQLite would take it for a new database. Ours are never empty: see _create.
        raise StoreError("the file is empty, so something has cut it off: restore a backup, or delete it to start anew")
    return info


def _check_content(database: peewee.SqliteDatabase, size: int | None) -> None:
    if database.pragma("application_id") != APPLICATION_ID:
        raise StoreError("this is another program's database: name another file")
    if size is not None and size < _QUICK_CHECK_BYTES and database.pragma("quick_check(1)") != "ok":
        raise StoreError("the database is damaged: restore a backup")


def _make_private(path: Path) -> None:
    for file in (path, beside(path, "-wal"), beside(path, "-shm")):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def beside(path: Path, suffix: str) -> Path:
    """The file that SQLite keeps beside the database under this suffix: "-wal" or "-shm"."""
    return path.with_name(path.name + suffix)


def file_size(path: Path) -> int:
    """Bytes; 0 if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
