"""What each part of the store works with: the store's one connection, its keys, its transactions, its audit log."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from peewee import Database, SqliteDatabase

from ccflare_core.audit.entries import Record
from ccflare_core.audit.signed_rows import SignedRows
from ccflare_core.db.engine import as_store_errors
from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import Vault


@dataclass(frozen=True, slots=True)
class StoreContext:
    """Made by the store, for its parts. Only the thread that opened the store may use it."""

    database: Database
    vault: Vault | None
    """None without a source for the key: then nothing can be sealed or opened."""
    transaction: Callable[[], AbstractContextManager[None]]
    """All writing is done in one; the innermost of several counts for nothing."""
    snapshot: Callable[[], AbstractContextManager[None]]
    """What is read in one is of one moment."""
    record: Record
    """Writes an entry into the audit log, in the transaction that is open."""
    signed: SignedRows
    """The signatures of rows that decide who may do what."""
    wall: Callable[[], float]
    """Epoch seconds."""
    now: Callable[[], float]
    """Epoch seconds by one clock for all processes on the database, wherever they run: that of its server, if any."""

    def key(self, without: str) -> Vault:
        """The vault. Raises VaultError, which begins with what cannot be done `without` a key."""
        if self.vault is None:
            raise VaultError(f"{without} without a key: open the database with a key source")
        return self.vault


def shared_clock(database: Database, wall: Callable[[], float]) -> Callable[[], float]:
    """What StoreContext calls `now`. A file's processes are on one machine, so there it is `wall`."""
    if isinstance(database, SqliteDatabase):
        return wall
    execute: Callable[[str], Any] = database.execute_sql

    def now() -> float:
        with as_store_errors():
            return float(execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())").fetchone()[0])

    return now
