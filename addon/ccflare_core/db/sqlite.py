"""The engine for a file: opening it safely, and what SQLite keeps beside it.

Nothing here may open() and close() the database or its -shm file itself: closing any handle drops the POSIX
locks that SQLite holds in this process, and another process then writes into the middle of our transaction.
stat and chmod are harmless.
"""

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import peewee

from ccflare_core.db.engine import Space, as_store_errors, connected, explain, naming
from ccflare_core.db.migrations import migrate, pending
from ccflare_core.errors import Gone, StoreError
from ccflare_core.files import beside, draft, make_private_folder, publish, sync_folder

APPLICATION_ID = 0x63636631
"""`ccf1`, in the file's header: this is a ccflare database and no other program's."""

_BUSY_SECONDS = 5
_QUICK_CHECK_BYTES = 256 * 1024 * 1024
_JOURNAL_BYTES = 64 * 1024 * 1024
_INCREMENTAL = 2
_COPIED_PAGES = 2000
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_IMMUTABLE = "ro&immutable=1"
_OLDER = "it was made by an older ccflare: start the proxy once, which brings it up to date"
_OLDER_COPY = "it was made by an older ccflare: copy it to a folder that can be written, and start the proxy on it once"
_WRITING = (
    ("foreign_keys", 1),
    ("synchronous", "FULL"),
    ("secure_delete", 1),
    ("journal_size_limit", _JOURNAL_BYTES),
)


class SQLite:
    """An open file. See Engine."""

    is_frozen = False
    takeovers = 0
    """See Engine; a file has no standby."""
    """See Engine."""
    channel = None
    """See Engine."""
    _mode = "ro"
    """In which another connection reads the file."""

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
            raise Gone("the database file was deleted or replaced while in use: restore it, then restart")
        with as_store_errors(), self.database.atomic():
            yield

    def announce_test(self) -> None:
        """See Engine; there is nobody to hear it."""

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
                self.database.pragma("auto_vacuum", _INCREMENTAL)  # it is VACUUM that changes a file without it
                self._execute("VACUUM")
            return not self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def log_bytes(self) -> int:
        """See Engine: the write-ahead log."""
        return file_size(beside(self._path, "-wal"))

    def space(self) -> Space:
        """See Engine."""
        with as_store_errors():
            size, all_pages, spare = (
                int(self.database.pragma(name)) for name in ("page_size", "page_count", "freelist_count")
            )
        return Space((all_pages - spare) * size, spare * size, free_bytes(self._path))

    def shrink(self, pages: int) -> None:
        """See Engine."""
        with self.transaction():
            self._execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()  # a page for each row that is fetched

    def problems(self) -> list[str]:
        """See Engine: a connection of its own sees the file as it is, and not the pages that this one remembers."""
        if self._identify() != self._identity:
            return ["the database file was deleted or replaced while in use"]
        if not file_size(self._path):  # SQLite would take it for a new one, and delete its log
            return ["the file is empty, so something has cut it off"]
        try:
            with contextlib.closing(sqlite3.connect(_uri(self._path, self._mode), uri=True)) as other:
                found = [row[0] for row in other.execute("PRAGMA quick_check(5)")]
                broken = other.execute("PRAGMA foreign_key_check").fetchmany(5)
        except sqlite3.DatabaseError as error:
            return [explain(error)]
        found += [
            f"row {row} of {table} refers to a row of {parent} that is not there" for table, row, parent, _ in broken
        ]
        return [line for line in found if line != "ok"]

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


class FrozenSQLite(SQLite):
    """A file that cannot be written here, nor its folder: a copy on a medium that is mounted read-only.

    SQLite reads it without locks and without a file beside it, and would take no notice of a change. So what it has
    read counts only if the file has stayed as it was.
    """

    is_frozen = True
    _mode = _IMMUTABLE

    def __init__(self, database: peewee.SqliteDatabase, path: Path, before: "_State") -> None:
        super().__init__(database, path)
        self._before = before

    def select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See Engine."""
        rows = super().select(sql, parameters)
        _check_unchanged(self._path, self._before)
        return rows

    def close(self) -> None:
        """See Engine. Raises StoreError if the file has changed."""
        if not self.database.is_closed():
            super().close()
            _check_unchanged(self._path, self._before)


class _State(NamedTuple):
    """What a file that was written, or has got another's place, has not all in common with the one before."""

    device: int
    inode: int
    size: int
    modified_ns: int


def _state(path: Path) -> _State:
    info = path.stat()
    return _State(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _check_unchanged(path: Path, before: _State) -> None:
    with naming(path):
        if _state(path) != before or file_size(beside(path, "-wal")):
            raise StoreError(
                "the file was changed while it was read, so nothing that was shown is certain: try again, and if that "
                "stays so, copy it to a folder that can be written"
            )


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
        before, frozen = _state(path), is_frozen(path)
        with _connected(path, _IMMUTABLE if frozen else "ro") as database:
            _check_content(database, size=None)
            if pending(database):
                raise StoreError(_OLDER_COPY if frozen else _OLDER)
            return FrozenSQLite(database, path, before) if frozen else SQLite(database, path)


def is_frozen(path: Path) -> bool:
    """Whether SQLite could not make the files beside the database that it reads one with.

    With both of them there it needs to make none, and a program that has the database open elsewhere tells by them
    what it writes. Raises StoreError if there are changes in its log that only a folder that can be written shows.
    """
    if os.access(path, os.W_OK) or os.access(path.parent, os.W_OK) or beside(path, "-shm").exists():
        return False
    if file_size(beside(path, "-wal")):
        raise StoreError(
            "its -wal holds changes that cannot be read in a folder that cannot be written: copy both to one that can"
        )
    return True


def _connected(path: Path, mode: str) -> AbstractContextManager[peewee.SqliteDatabase]:
    """An open connection, closed again if the block fails. SQLite keeps it to the thread that made it."""
    database = peewee.SqliteDatabase(
        _uri(path, mode),
        uri=True,
        timeout=_BUSY_SECONDS,
        pragmas=(("trusted_schema", 0),),
        # A deferred transaction that reads first fails at once, without waiting, when another one commits.
        lock_type="IMMEDIATE",
        autoconnect=False,
        thread_safe=False,
    )
    return connected(database)


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _create(path: Path, now_ms: int) -> None:
    """Make the whole database under another name, then give it its own: no one ever sees half of it."""
    if file_size(beside(path, "-wal")):
        raise StoreError("the file is missing although its -wal is there: restore it, or move the -wal away")
    with draft(path) as new:
        with _connected(new, "rw") as database:
            database.pragma("auto_vacuum", _INCREMENTAL)  # before anything is written
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


def copy(path: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Write what the database is now into the empty file `target`, while others go on writing. Raises StoreError.

    `progress` is told how many of how many pages are done. In WAL mode a reader keeps nobody waiting, and what it
    has begun to read stays the same to it: so a copy of one moment is made in steps, and never begun again.
    """
    with naming(path), _connected(path, "ro") as database, contextlib.closing(database):
        connection: sqlite3.Connection = database.connection()  # type: ignore[no-untyped-call]
        with contextlib.closing(sqlite3.connect(target)) as new, database.atomic("DEFERRED"):
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            new.execute("PRAGMA synchronous = OFF")  # the caller syncs it if it has to last
            connection.backup(new, pages=_COPIED_PAGES, progress=lambda _, left, all_: progress(all_ - left, all_))


def replace(path: Path, new: Path, word: str) -> Path | None:
    """Give the finished file `new` the database's name, and the database from before another; which one, if there was.

    At no moment is there none: a process that is killed in here leaves the one or the other. (Not so on a file system
    without hard links.) Raises StoreError while any process has the database open, and then all is as before.
    """
    with naming(path):
        check_unused(path)
        if not file_size(beside(path, "-wal")):
            for suffix in ("-wal", "-shm"):  # a reader leaves them there, with nothing in them
                beside(path, suffix).unlink(missing_ok=True)
        if not path.exists() and not beside(path, "-wal").exists():
            if not publish(new, path):
                raise StoreError("another program has just made a database here: move it away, and restore again")
            return None
        aside = beside(path, f".{word}")
        _keep_aside(path, aside)
        try:
            for suffix in ("-wal", "-shm"):  # SQLite would take them for those of the new file
                beside(path, suffix).unlink(missing_ok=True)
            new.replace(path)
        except OSError:
            _bring_back(aside, path)
            raise
        sync_folder(path.parent)
        return aside


def _keep_aside(path: Path, aside: Path) -> None:
    """Give a database that nobody uses a second name, with all that lies beside it, or else another one."""
    for suffix in ("", "-wal", "-shm"):
        file, kept = beside(path, suffix), beside(aside, suffix)
        try:
            os.link(file, kept)
        except FileNotFoundError:
            continue
        except FileExistsError:
            raise
        except OSError:  # no hard links here
            file.rename(kept)


def _bring_back(aside: Path, path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            beside(aside, suffix).rename(beside(path, suffix))
            beside(aside, suffix).unlink()  # two names of one file are left as they are


def check_unused(path: Path) -> None:
    """Raise StoreError if a process has the database open. It does not have to be a sound one, or to be there.

    A process that uses a database in WAL mode has a lock on these bytes as long as it is open
    (https://www.sqlite.org/src/file/src/os.h, SHARED_FIRST). No connection of this process may be open: see the module.
    """
    try:
        import fcntl
    except ImportError:  # on Windows an open file cannot be renamed in the first place
        return
    if not path.exists():
        return
    with path.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError:
            raise StoreError("a program has the database open: stop the proxy, and whatever else uses it") from None


def free_bytes(path: Path) -> int:
    """What the disk has left for the file at `path`, or for a new one there. A huge number if it cannot be asked."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 2**63


def file_size(path: Path) -> int:
    """Bytes; 0 if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
