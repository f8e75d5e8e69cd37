"""Opening the database file safely, and saying in one sentence what is wrong with it.

Nothing here may open() and close() the database or its -shm file itself: closing any handle drops the POSIX
locks that SQLite holds in this process, and another process then writes into the middle of our transaction.
stat and chmod are harmless.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import peewee

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

_SENTENCES = (
    ("locked", "another process holds the database's lock: wait for it, or end it"),
    ("full", "the disk is full: free some space"),
    ("readonly", "the database is read-only: give the user that runs ccflare the right to write it"),
    ("malformed", "the database is damaged: restore a backup"),
    ("not a database", "the file is no database, or a damaged one: name another one or restore a backup"),
    ("unable to open", "the database file or its folder cannot be opened: check their owner and mode"),
    ("I/O", "the disk reports an error: check it, and the file system"),
)

# peewee translates what happens while a statement starts, but not while its rows are fetched.
_ABOUT_THE_VALUES = (
    *(peewee.IntegrityError, peewee.DataError, peewee.ProgrammingError),
    *(sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError),
)
_ABOUT_THE_DATABASE = (peewee.DatabaseError, peewee.InterfaceError, sqlite3.DatabaseError)


def explain(error: BaseException) -> str:
    """The true cause of a database error, as a sentence.

    When SQLite has ended a transaction by itself (the disk is full), peewee's rollback fails too, and that is
    the error one sees; what happened is its context.
    """
    while "cannot rollback" in str(error) and error.__context__ is not None:
        error = error.__context__
    text = str(error)
    return next((sentence for sign, sentence in _SENTENCES if sign in text), f"the database reports: {text}")


@contextlib.contextmanager
def as_store_errors() -> Iterator[None]:
    """StoreError for whatever makes the database unusable. What is wrong with the values passes unchanged."""
    try:
        yield
    except _ABOUT_THE_VALUES:
        raise
    except _ABOUT_THE_DATABASE as error:
        raise StoreError(explain(error)) from error


def open_database(path: Path, now_ms: int) -> peewee.SqliteDatabase:
    """A connection for reading and writing, to a database that is made or brought up to date if need be.

    The folder is made with mode 0700; the file, and so its -wal and -shm, have 0600. Raises StoreError.
    """
    with _naming(path):
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
            return database


def open_to_read(path: Path) -> peewee.SqliteDatabase:
    """A connection that can only read, and neither makes nor changes the file. Raises StoreError."""
    with _naming(path):
        _check_file(path)
        with _connected(path, "ro") as database:
            _check_content(database, size=None)
            if pending(database):
                raise StoreError("it was made by an older ccflare: start the proxy once, which brings it up to date")
            return database


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Every error of the block as a StoreError that names the file."""
    try:
        with as_store_errors():
            yield
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}: check the path and its rights") from error


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
