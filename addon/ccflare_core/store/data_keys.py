"""The table of data keys: what seals values, each wrapped by a key from outside of the database.

A key is made, becomes the newest, seals everything from then on, and is retired when nothing needs it any more. Every
transaction of the store asks first which keys there are. So no process ever writes with a key that is gone, however
late it hears of a change.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from peewee import Database

from ccflare_core.audit.chain import keep_key
from ccflare_core.audit.entries import Record
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import DataKeyRow, RunRow, SealedCountRow
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.secrets.vault import KEY_BYTES, Vault, key_id
from ccflare_core.store.resealing import DIGESTS, count_of
from ccflare_core.store.sealed_counts import sealed_counts
from ccflare_core.text import some, to_ms

_ALIVE_MS = 60_000
_GONE = "the database has lost the keys that its values are sealed with: restore it from a backup"


class DataKey(NamedTuple):
    """A row without the key itself. Times are epoch seconds."""

    id: str
    number: int
    created_at: float
    source: str
    sealed: int
    """How many values it has sealed at most, those that are no longer stored too."""


class Wrapped(NamedTuple):
    """A data key that only the key source of this name can unwrap."""

    id: str
    source: str
    wrapped: bytes


class DataKeys:
    """A part of the store: the ring of keys, and its changes."""

    def __init__(
        self,
        database: Database,
        source: KeySource,
        *,
        transaction: Callable[[], AbstractContextManager[None]],
        wall: Callable[[], float],
        read_only: bool,
        record: Record,
        resign: Callable[[], None],
    ) -> None:
        """Unwrap all keys; without any, make the first. Raises VaultError if one does not unwrap.

        `transaction` is the store's, which calls `refresh` once there is a ring; `record` writes into its audit log,
        whose head `resign` signs with the newest key.
        """
        self._database = database
        self._source = source
        self._transaction = transaction
        self._wall = wall
        self._record = record
        self._resign = resign
        self._execute: Callable[..., Any] = database.execute_sql
        self._keys: dict[str, bytes] = {}
        self._refused: dict[str, str] = {}
        self._seen: list[str] = []
        self.vault: Vault | None = None
        if not read_only and not self._ids():
            self._make_first()
        self._open()

    @property
    def trouble(self) -> str | None:
        """Why a key that another process made cannot be used here, if so."""
        return next(iter(self._refused.values()), None)

    def all(self) -> list[DataKey]:
        """All keys, newest first."""
        return list_keys(self._database)

    def refresh(self) -> None:
        """Take up what other processes have changed. Cheap if that is nothing.

        A new key that does not unwrap becomes `trouble`, and the newest one that does goes on sealing.
        """
        ids = self._ids()
        if ids == self._seen or self.vault is None:
            return
        for row in self._rows():
            if row.id not in self._keys and row.id not in self._refused:
                try:
                    self._keys[row.id] = self._unwrap(row)
                except VaultError as error:
                    self._refused[row.id] = f"a new data key cannot be used, restart the proxy: {error}"
        self._take(ids)

    def newest(self) -> Wrapped:
        """The key that seals, as it is stored."""
        row = self._rows()[0]
        return Wrapped(row.id, row.source, bytes(row.wrapped))

    def rotate(self) -> str:
        """Make a key that seals from now on; its id.

        Raises StoreError while a proxy runs that was started before the key source changed: it could not unwrap it.
        """
        key = os.urandom(KEY_BYTES)
        row = self._new_row(key)
        with self._transaction():
            newest, since = self._execute("SELECT MAX(number), MAX(source_at) FROM data_keys").fetchone()
            self._check_runs(since)
            DataKeyRow.insert({**row, "number": newest + 1, "source_at": since}).execute(self._database)
            self._record("key.rotate", str(row["id"]))
            self._keys[str(row["id"])] = key
            self.refresh()
            self._resign()
        return str(row["id"])

    def adopt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take up the keys of another database, newest first, that this one has not: they are the newer ones here.

        So what was sealed by them can be carried over, and a key that was replaced does not seal again. Raises
        VaultError if the source cannot unwrap one of them.
        """
        new = [row for row in reversed(rows) if row["id"] not in self._ids()]
        if not new:
            return
        found = {
            row["id"]: unwrap(self._source, Wrapped(row["id"], row["source"], bytes(row["wrapped"]))) for row in new
        }
        with self._transaction():
            newest = self._execute("SELECT MAX(number) FROM data_keys").fetchone()[0]
            for number, row in enumerate(new, newest + 1):
                DataKeyRow.insert({**row, "number": number}).execute(self._database)
            self._record("key.adopt", "", keys=list(found))
            self._keys |= found
            self.refresh()
            self._resign()

    def retire(self, wanted: str) -> None:
        """Delete a key, but for its audit key. Raises StoreError while it seals or any value needs it."""
        with self._transaction():
            ids = self._ids()
            if wanted not in ids:
                raise StoreError(f"there is no data key {wanted}: `{typed('keys status')}` shows all")
            if wanted == ids[0]:
                raise StoreError(f"this key seals what is new: run `{typed('keys rotate')}` first")
            if needing := count_of(self._database, wanted):
                raise StoreError(
                    f"this key is still needed by {some(needing, 'value')}: run `{typed('keys rewrap')}` first"
                )
            if digests := count_of(self._database, wanted, DIGESTS):
                raise StoreError(
                    f"this key is still needed by {some(digests, 'client key')}: each moves to the newest one when it "
                    f"is next used; see `{typed('keys client list')}`, and rotate or revoke those that are not used"
                )
            if self.vault is not None:
                keep_key(self._database, self.vault, wanted)
            DataKeyRow.delete().where(DataKeyRow.id == wanted).execute(self._database)
            SealedCountRow.delete().where(SealedCountRow.key_id == wanted).execute(self._database)
            self._record("key.retire", wanted)
        self.refresh()

    def change_source(self, source: KeySource, *, is_known: bool) -> None:
        """Wrap every key by `source` instead, in one transaction. No value is touched.

        `is_known` says that a running proxy finds the new wrapping key by itself. Raises VaultError if the source
        does not give back what it was given.
        """
        wrapped = {each: source.wrap(key, _context(each)) for each, key in self._keys.items()}
        for each, value in wrapped.items():
            if source.unwrap(value, _context(each)) != self._keys[each]:
                raise VaultError(f"the key source {source.name} does not give back what it was given: nothing changed")
        with self._transaction():
            if set(self._ids()) != set(wrapped):
                raise StoreError("the keys changed in the meantime: run it again")
            since = {} if is_known else {"source_at": self._now()}
            for each, value in wrapped.items():
                changes = {"wrapped": value, "source": source.name, **since}
                DataKeyRow.update(changes).where(DataKeyRow.id == each).execute(self._database)
            self._record("key.source", source.name, before=self._source.name)
        self._source = source

    def _open(self) -> None:
        for row in self._rows():
            if row.source != self._source.name:
                raise VaultError(
                    f"this database's keys are wrapped by the key source {row.source}, but {self._source.name} is "
                    f"configured: set ccflare_key_source to {row.source}, or change it by "
                    f"`{typed('keys change-source')}`"
                )
            self._keys[row.id] = self._unwrap(row)
        if self._keys:
            self._take(self._ids())

    def _take(self, ids: list[str]) -> None:
        self._keys = {each: self._keys[each] for each in ids if each in self._keys}
        self._refused = {each: why for each, why in self._refused.items() if each in ids}
        if not self._keys:
            raise StoreError(self.trouble or _GONE)
        if self.vault is None:
            self.vault = Vault(list(self._keys.values()), self.refresh)
        else:
            self.vault.replace(list(self._keys.values()))
        self._seen = ids

    def _make_first(self) -> None:
        # Wrapped before the lock is held: a source may take its time. If another process is first, its key counts.
        row = self._new_row(os.urandom(KEY_BYTES))
        with self._transaction():
            if not self._ids():
                DataKeyRow.insert({**row, "number": 1}).execute(self._database)

    def _new_row(self, key: bytes) -> dict[str, object]:
        new, now = key_id(key).hex(), self._now()
        wrapped = self._source.wrap(key, _context(new))
        return {"id": new, "wrapped": wrapped, "source": self._source.name, "source_at": now, "created_at": now}

    def _unwrap(self, row: DataKeyRow) -> bytes:
        return unwrap(self._source, Wrapped(row.id, row.source, bytes(row.wrapped)))

    def _check_runs(self, since: int) -> None:
        is_live = RunRow.ended_at.is_null() & (RunRow.heartbeat_at > self._now() - _ALIVE_MS)
        if RunRow.select().where(is_live & (RunRow.started_at < since)).bind(self._database).exists():
            raise StoreError("a proxy runs that does not have the new key source yet: restart it first")

    def _rows(self) -> list[DataKeyRow]:
        with as_store_errors():
            return [*DataKeyRow.select().order_by(DataKeyRow.number.desc()).bind(self._database)]

    def _ids(self) -> list[str]:
        with as_store_errors():
            return [each for (each,) in self._execute("SELECT id FROM data_keys ORDER BY number DESC").fetchall()]

    def _now(self) -> int:
        return to_ms(self._wall())


def list_keys(database: Database) -> list[DataKey]:
    """All keys of a database, newest first. It takes no key to see them."""
    with as_store_errors():
        rows = DataKeyRow.select().order_by(DataKeyRow.number.desc()).bind(database)
        counts = sealed_counts(database)
        return [DataKey(row.id, row.number, row.created_at / 1000, row.source, counts.get(row.id, 0)) for row in rows]


def unwrap(source: KeySource, key: Wrapped) -> bytes:
    """The data key itself. Raises VaultError if the source cannot unwrap it, or it is another one."""
    found = source.unwrap(key.wrapped, _context(key.id))
    if key_id(found).hex() != key.id:
        raise VaultError("a data key is not the one that its row names: restore the database from a backup")
    return found


def _context(key_id: str) -> bytes:
    """What a wrapped key is bound to."""
    return b"|ccflare data key|" + key_id.encode()
