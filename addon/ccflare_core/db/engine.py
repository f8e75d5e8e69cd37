"""The interface of a database engine, and its errors in one sentence each.

There are two engines: `sqlite.py` for a file, which is the default, and `postgres.py` for a server that several
machines share. Models, migrations and all queries are the same for both.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import peewee

from ccflare_core.db.announcements import Channel
from ccflare_core.errors import StoreError, Unusable


class Space(NamedTuple):
    """Bytes: of pages that hold something, of pages that wait for new rows, and what the disk has left."""

    used: int
    spare: int
    disk: int


class Engine(Protocol):
    """One connection, used by the thread that opened it, and all in which the two kinds of database differ.

    Every method raises StoreError if the database cannot be used now.
    """

    @property
    def database(self) -> peewee.Database:
        """What peewee's queries are executed on."""

    @property
    def is_frozen(self) -> bool:
        """Whether it is a copy that nobody here can write: nothing can be audited in it."""

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction that writes. Only one is open at a time, of all processes that share the database.

        What is read within it is therefore still true when it commits.
        """

    def snapshot(self) -> AbstractContextManager[None]:
        """A transaction that reads, and sees nothing of what others commit meanwhile."""

    def select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement, with `?` for each parameter. Figures are int or float."""

    def changed(self) -> bool:
        """Whether another connection has committed since the last call, or since this one was opened.

        Also after each of the `takeovers`.
        """

    @property
    def takeovers(self) -> int:
        """How often a standby was found to have taken the server's place: what was committed last may be missing."""

    @property
    def channel(self) -> Channel | None:
        """Where its changes are announced; None where other processes have to look for them."""

    def announce_test(self) -> None:
        """Announce something that tells nothing, to find out whether it arrives."""

    def was_committed(self, transaction: int) -> bool | None:
        """What became of a transaction that ended with CommitUnknown; None if the server cannot know."""

    def scrub(self, *, whole: bool) -> bool:
        """Wipe what deleted and replaced rows have left; with `whole` write the tables anew. False if not all is."""

    def log_bytes(self) -> int:
        """The size of a log that grows while some reader keeps a transaction open; 0 if there is none."""

    def space(self) -> Space | None:
        """What the database takes; None where that is a server's affair."""

    def shrink(self, pages: int) -> None:
        """Give up to so many spare pages back to the disk, in one short transaction."""

    def problems(self) -> list[str]:
        """What a look through all of it finds damaged, a few lines at most. It keeps nobody else waiting."""

    def close(self) -> None:
        """Close the connection; a second time is harmless."""


class CommitUnknown(Unusable):
    """The connection was lost while a transaction was committed: `Engine.was_committed` may tell later."""

    def __init__(self, transaction: int, why: str) -> None:
        super().__init__(why)
        self.transaction = transaction


_LOCKED = "another process holds the database's lock: wait for it, or end it"
_FULL = "the disk is full: free some space"
_READ_ONLY = "the database is read-only: give the user that runs ccflare the right to write it"
_DAMAGED = "the database is damaged: restore a backup"
_AWAY = "the database server cannot be reached: start it, or check host and port"
_LOGIN = "the database server refuses the login: check role and password (~/.pgpass), and the server's pg_hba.conf"
_NO_DATABASE = "the server has no such database: make it with `createdb`, or name another one"
_CROWDED = "the database server has too many connections: close some, or raise its max_connections"
_TLS = "the database server offers no TLS that can be relied on: see sslmode and sslrootcert"
_NO_TLS = "the database server offers no TLS: switch it on there (ssl = on), or see sslmode"
_OTHER_NAME = "the database server's certificate is for another name: connect by that name, or have it issued anew"
_UNVERIFIED = (
    "the database server's certificate cannot be verified: give the file of the authority that has signed it as "
    "sslrootcert, and see whether it has expired"
)
_NO_AUTHORITY = "there is no file with the authority of the database server's certificate: see sslrootcert"

# What begins a SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_STATES = (
    ("08P01", "a pooler in front of the database server refused the connection, or lost it: see its log"),
    ("08", _AWAY),
    ("25006", "the database server is read-only here: connect to the one that takes changes, not to a standby"),
    ("25P02", "a statement before this one failed, so the database server undid the transaction: it is tried again"),
    ("25P", "the database server has given up a transaction that stood still: it is tried again"),
    ("28", _LOGIN),
    ("3D000", _NO_DATABASE),
    ("3F000", "the role has no schema to make tables in: let it own the database"),
    ("42501", "the role may not do that: let it own the database and its tables"),
    ("53100", _FULL),
    ("53300", _CROWDED),
    ("55P03", _LOCKED),
    ("57014", "the database server took too long: see what keeps it busy"),
    ("57P", _AWAY),
    ("XX001", _DAMAGED),
    ("XX002", _DAMAGED),
)

# What PgBouncer says with the SQLSTATE 08P01, which it has for everything.
_POOLER_SIGNS = (
    (
        "statement pooling",
        "the pooler (PgBouncer) pools statements, so nothing can be written safely: set its pool_mode to transaction",
    ),
    (
        "startup parameter",
        "the pooler (PgBouncer) refuses a parameter of the URL, such as options: leave that out",
    ),
    ("no such database", _NO_DATABASE),
    ("no more connections", _CROWDED),
)

_NO_SPACE = "Check free disk space"
"""The server's hint when a file cannot grow; its code is one for anything if a quota or a limit is the reason."""

# What stands in the text of an error without a SQLSTATE: one of SQLite, or one from before there is a connection.
_SIGNS = (
    ("does not match host name", _OTHER_NAME),
    ("root certificate file", _NO_AUTHORITY),
    ("certificate verify failed", _UNVERIFIED),
    ("does not support SSL", _NO_TLS),
    ("locked", _LOCKED),
    ("full", _FULL),
    ("readonly", _READ_ONLY),
    ("malformed", _DAMAGED),
    ("not a database", "the file is no database, or a damaged one: name another one or restore a backup"),
    (
        "unable to open",
        "the database file or its folder cannot be opened or written: check their owner, mode and mount",
    ),
    ("I/O", "the disk reports an error: check it, and the file system"),
    ("too many clients", _CROWDED),
    ("connection slots", _CROWDED),
    ("password", _LOGIN),
    ("pg_hba.conf", _LOGIN),
    ("FATAL:  role", _LOGIN),
    ("does not exist", _NO_DATABASE),
    ("certificate", _TLS),
    ("SSL", _TLS),
    ("connection", _AWAY),
    ("resolve host", _AWAY),
    ("timeout", _AWAY),
)

_ERRORS = (peewee.DatabaseError, peewee.InterfaceError, sqlite3.DatabaseError)
# peewee translates what happens while a statement starts, but not while its rows are fetched.
_ABOUT_THE_VALUES = (
    *(peewee.IntegrityError, peewee.DataError, peewee.ProgrammingError),
    *(sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError),
)
# Bad data, a broken constraint, a value of another type, one that is too long for an index.
_STATES_OF_VALUES = ("22", "23", "42804", "54")


def explain(error: BaseException) -> str:
    """The true cause of a database error, as a sentence.

    When SQLite has ended a transaction by itself (the disk is full), peewee's rollback fails too, and that is
    the error one sees; what happened is its context.
    """
    while "cannot rollback" in str(error) and error.__context__ is not None:
        error = error.__context__
    if found := next((sentence for sign, sentence in _POOLER_SIGNS if sign in str(error)), None):
        return found
    if _NO_SPACE in str(error):
        return _FULL
    if state := _state(error):
        found = next((sentence for sign, sentence in _STATES if state.startswith(sign)), None)
    else:
        found = next((sentence for sign, sentence in _SIGNS if sign in str(error)), None)
    if found is _AWAY and (refusal := str(error).partition("FATAL:")[2]):
        return f"the database server says: {refusal.strip()}"
    return found or f"the database reports: {error}"


def _state(error: BaseException) -> str | None:
    """PostgreSQL's code for it: the driver's own error has it, which peewee keeps as `orig`."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _is_about_the_values(error: BaseException) -> bool:
    if state := _state(error):
        return state.startswith(_STATES_OF_VALUES)
    return isinstance(error, _ABOUT_THE_VALUES)


@contextlib.contextmanager
def as_store_errors() -> Iterator[None]:
    """Unusable for whatever makes the database that. What is wrong with the values passes unchanged."""
    try:
        yield
    except _ERRORS as error:
        if _is_about_the_values(error):
            raise
        raise Unusable(explain(error)) from error


@contextlib.contextmanager
def connected[Base: peewee.Database](database: Base) -> Iterator[Base]:
    """The database with an open connection, which is closed again if the block fails."""
    try:
        database.connect()
        yield database
    except BaseException:
        database.close()
        raise


@contextlib.contextmanager
def naming(location: object) -> Iterator[None]:
    """Every error of the block as a StoreError that names the database."""
    try:
        with as_store_errors():
            yield
    except StoreError as error:
        raise StoreError(f"{location}: {error}") from error
    except OSError as error:
        raise StoreError(f"{location}: {error.strerror or error}: check the path and its rights") from error
