"""The rows that decide who may do what, signed: client keys, blocks, the second factor and its recovery codes.

Each has a MAC over its content and a version, in the table `row_signatures`, by a key that is derived from the newest
data key. What these signatures add up to stands in the signed head of the audit log, and with it in each anchor. So who
can write the database, but has not its key, cannot give himself a role, lift a limit or take a block away: a row that
was changed, put in, removed, or put back to what it once was, is found, and counts for nothing.

A signature changes only together with an entry, so an old head fits no log that is longer. What this cannot show is
that all of the database was put back: see check.py.
"""

import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from peewee import BooleanField, IntegrityError, Model

from ccflare_core.audit.chain import Audit
from ccflare_core.audit.entries import FIRST_HASH, ChainHead, sum_of
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import (
    BlockedAddressRow,
    ClientKeyRow,
    MigrationRow,
    RecoveryCodeRow,
    RowSignatureRow,
    RunRow,
    SecondFactorRow,
)
from ccflare_core.errors import AuditError, VaultError
from ccflare_core.program import typed

MODELS: tuple[type[Model], ...] = (ClientKeyRow, BlockedAddressRow, SecondFactorRow, RecoveryCodeRow)
_WORDS = dict(zip(MODELS, ("client key", "block", "second factor", "recovery code"), strict=True))
_MIGRATION = "0020_signed_rows"
_ALIVE_MS = 60_000
_SHOWN = 64
_BROKEN = (
    "the signatures of client keys, blocks and the second factor are not those that the audit log names: "
    f"restore a backup, or see `{typed('audit restart')}`"
)

_NOT_AS_WRITTEN = (
    "the database did not store the {} as it was written, so it is left as it was: somebody has put a trigger, a "
    "default or the like into the database; restore a backup"
)

Content = Mapping[str, object]
NOTHING: Content = MappingProxyType({})


class Signature(NamedTuple):
    """A row's MAC, and the number of the change that it is of."""

    version: int
    mac: str


Signatures = dict[str, dict[str, Signature]]
"""By kind and id."""


class Look(NamedTuple):
    """What was found of one kind of row, by id. Only rows that are in `sound` count: anything may be in the others."""

    is_whole: bool
    """Whether the signatures are those that the audit log names. If not, no row counts."""
    sound: Mapping[str, Content] = MappingProxyType({})
    altered: frozenset[str] = frozenset()
    """They are there, and are not as they were written."""
    gone: frozenset[str] = frozenset()
    """They were written, and are not there."""

    @property
    def is_sound(self) -> bool:
        """Whether all rows are as they were written."""
        return self.is_whole and not self.altered and not self.gone


class SignedRows:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, audit: Audit, snapshot: Callable[[], AbstractContextManager[None]]) -> None:
        self._audit = audit
        self._database = audit.database
        self._snapshot = snapshot
        self._execute: Callable[..., Any] = audit.database.execute_sql

    # What is found

    def look(self, model: type[Model]) -> Look:
        """Which rows of this kind count. Raises AuditError without a key."""
        return self.looks(model)[model]

    def looks(self, *models: type[Model]) -> dict[type[Model], Look]:
        """The same of several kinds, at one moment."""
        with as_store_errors(), self._snapshot():
            try:
                head = self._audit.head()
            except AuditError:
                return {model: Look(False, altered=frozenset(self._contents(model))) for model in models}
            signatures = self._signatures()
            return {model: self._judge(model, head, signatures) for model in models}

    def _judge(self, model: type[Model], head: ChainHead | None, signatures: Signatures) -> Look:
        contents, signed = self._contents(model), signatures[_kind(model)]
        gone = frozenset(signed.keys() - contents.keys())
        if head is not None and not head.signed_rows and self._audit.is_ours(head):
            return Look(True, contents)  # it is from before, see `begin`
        is_whole = self._names(head, signatures)
        sound = {
            each: content
            for each, content in contents.items()
            if is_whole and self._holds(model, each, signed.get(each), content, head)
        }
        return Look(is_whole, sound, frozenset(contents.keys() - sound.keys()), gone)

    def problems(self) -> list[str]:
        """What is wrong, a sentence each, whatever the kind."""
        looks = self.looks(*MODELS)
        if not all(look.is_whole for look in looks.values()):
            return [_BROKEN]
        return [
            f"{self._named(model, each)} was {what} outside of ccflare{_counts(model)}"
            for model, look in looks.items()
            for what, ids in (("changed or put in", look.altered), ("removed", look.gone))
            for each in sorted(ids)
        ]

    @property
    def version(self) -> int:
        """How often rows were signed."""
        head = self._audit.head()
        return head.version if head else 0

    # What is changed

    def sign(self, model: type[Model], row_id: str, columns: Content, before: Content = NOTHING) -> None:
        """Sign a row of which these columns were just written, and which else is as `before`.

        In a transaction of the store, with an entry about the change. Raises AuditError if it is another row now (who
        can write the database can have it change what we write), or if the signatures so far are not those that the
        audit log names.
        """
        kept = {name: value for name, value in before.items() if name not in columns}
        content = {**kept, **_content(model, columns)}
        if self._contents(model).get(row_id) != content:
            raise AuditError(_NOT_AS_WRITTEN.format(_WORDS[model]))
        head, signatures = self._begin()
        if head.last_id and not head.signed_rows:
            return  # it is from before, see `begin`
        version = head.version + 1
        signature = Signature(version, self._mac(model, row_id, version, content))
        self._store(model, row_id, signature, signatures[_kind(model)])
        self._move(head, version, signatures)

    def forget(self, model: type[Model], ids: Iterable[str] | None = None) -> None:
        """Take away the signatures of these rows (None: all of the kind), which are gone. Else as `sign`."""
        head, signatures = self._begin()
        if head.last_id and not head.signed_rows:
            return
        signed = signatures[_kind(model)]
        for each in list(signed) if ids is None else ids:
            self._forget(model, each, signed)
        self._move(head, head.version + 1, signatures)

    @contextmanager
    def kept(self, model: type[Model], row_id: str, column: str) -> Iterator[None]:
        """The block changes how this column is stored and not what it says: what was signed before is signed anew."""
        before = self.look(model).sound.get(row_id)
        yield
        if before is not None:
            now = self._contents(model).get(row_id, NOTHING)
            self.sign(model, row_id, {column: now.get(column)}, before)

    def are_older(self) -> bool:
        """Whether the rows are from before there were signatures, and `begin` is to be called."""
        try:
            head = self._audit.head()
        except AuditError:
            return False
        return head is not None and not head.signed_rows and self._audit.is_ours(head)

    def begin(self, now_ms: int, record: Callable[[Mapping[str, int]], None]) -> None:
        """Sign the rows from before there were signatures, once, in a transaction of the store.

        `record` is told how many of which kind, for the entry. While a proxy of the version before still runs nothing
        is signed, for it could no longer continue the audit log.
        """
        head = self._audit.head()
        if head is None or not self.are_older() or self._has_older_run(now_ms):
            return
        RowSignatureRow.delete().execute(self._database)
        signatures = self._signatures()
        for model in MODELS:
            for each, content in self._contents(model).items():
                signature = Signature(1, self._mac(model, each, 1, content))
                self._store(model, each, signature, signatures[_kind(model)])
        self._move(head, 1, signatures)
        record({kind: len(signed) for kind, signed in signatures.items()})

    def renew(self) -> None:
        """Sign the rows and the head with the newest key, in the transaction that made it and has added an entry.

        What did not count before does not count now. (The entry has found the head to be ours, by the key before.)
        """
        head, signatures = self._audit.head(), self._signatures()
        if head is not None and _sum(head.version, signatures) == head.signed_rows:
            for model in MODELS:
                signed = signatures[_kind(model)]
                for each, content in self._contents(model).items():
                    old = signed.get(each)
                    if old is not None and self._holds(model, each, old, content, head):
                        new = old._replace(mac=self._mac(model, each, old.version, content))
                        self._store(model, each, new, signed)
            self._move(head, head.version, signatures)
        self._audit.resign()

    def advance(self, other: int) -> None:
        """Count this as a change that is later than the `other` database's newest; in a transaction of the store.

        An entry goes with it, which thereby says where the signatures stand now.
        """
        head, signatures = self._begin()
        if head.signed_rows:
            self._move(head, max(head.version, other) + 1, signatures)

    def restart(self) -> None:
        """After a look at which nothing was whole, and a restart of the audit log in the same transaction: go on.

        Only signatures of rows that are gone are left, so that none of those that are there counts until it is signed.
        """
        head, signatures = self._audit.head(), self._signatures()
        for model in MODELS:
            for each in self._contents(model):
                self._forget(model, each, signatures[_kind(model)])
        if head is not None:
            self._move(head, head.version + 1, signatures)

    # Pieces

    def _begin(self) -> tuple[ChainHead, Signatures]:
        """The head and the signatures that it names; those of a new database, if there is no head yet."""
        head, signatures = self._audit.head(), self._signatures()
        is_older = head is not None and not head.signed_rows and self._audit.is_ours(head)
        if not is_older and not self._names(head, signatures):
            raise AuditError(_BROKEN)
        return head or ChainHead(0, FIRST_HASH, 0, FIRST_HASH, ""), signatures

    def _names(self, head: ChainHead | None, signatures: Signatures) -> bool:
        """Whether these are the signatures that the head names; without a head there are none."""
        if head is None:
            return not any(signatures.values())
        return self._audit.is_ours(head) and _sum(head.version, signatures) == head.signed_rows

    def _move(self, head: ChainHead, version: int, signatures: Signatures) -> None:
        self._audit.move(head._replace(signed_rows=_sum(version, signatures)))

    def _holds(
        self, model: type[Model], row_id: str, signature: Signature | None, content: Content, head: ChainHead | None
    ) -> bool:
        if signature is None or head is None:
            return False
        try:
            expected = self._mac(model, row_id, signature.version, content, head.key_id)
        except (VaultError, ValueError):
            return False
        return hmac.compare_digest(expected.encode(), signature.mac.encode())

    def _mac(self, model: type[Model], row_id: str, version: int, content: Content, key_id: str | None = None) -> str:
        text = json.dumps([_kind(model), row_id, version, content], sort_keys=True, separators=(",", ":"))
        return self._audit.signer.row_mac(text.encode(), key_id)

    def _contents(self, model: type[Model]) -> dict[str, Content]:
        """The rows as they are stored, by id: someone may have put anything into them."""
        fields: list[Any] = [model._meta.fields[name] for name in model._meta.sorted_field_names]
        names = [field.column_name for field in fields]
        found = self._execute(f"SELECT {', '.join(names)} FROM {_kind(model)}").fetchall()  # noqa: S608
        rows = [_content(model, dict(zip(names, row, strict=True))) for row in found]
        key: Any = model._meta.primary_key
        return {str(row.get(key.column_name)): row for row in rows}

    def _signatures(self) -> Signatures:
        """All signatures, by kind and id."""
        found: Signatures = {_kind(model): {} for model in MODELS}
        sql = "SELECT kind, row_id, version, mac FROM row_signatures"
        for kind, row_id, version, mac in self._execute(sql).fetchall():
            number = version if type(version) is int else -1  # SQLite takes anything
            found.setdefault(str(kind), {})[str(row_id)] = Signature(number, str(mac))
        return found

    def _store(self, model: type[Model], row_id: str, new: Signature, signed: dict[str, Signature]) -> None:
        self._forget(model, row_id, signed)
        signed[row_id] = new
        row = {"kind": _kind(model), "row_id": row_id, **new._asdict()}
        try:
            RowSignatureRow.insert(row).execute(self._database)
        except IntegrityError as error:  # the old one could not be taken away
            raise AuditError(_NOT_AS_WRITTEN.format(f"signature of the {_WORDS[model]}")) from error

    def _forget(self, model: type[Model], row_id: str, signed: dict[str, Signature]) -> None:
        if signed.pop(row_id, None) is not None:
            is_it = (RowSignatureRow.kind == _kind(model)) & (RowSignatureRow.row_id == row_id)
            RowSignatureRow.delete().where(is_it).execute(self._database)

    def _has_older_run(self, now_ms: int) -> bool:
        """Whether a proxy runs that was started before there were signatures."""
        since = MigrationRow.select().where(MigrationRow.name == _MIGRATION).bind(self._database).get().applied_at
        is_live = RunRow.ended_at.is_null() & (RunRow.heartbeat_at > now_ms - _ALIVE_MS)
        return bool(RunRow.select().where(is_live & (RunRow.started_at < since)).bind(self._database).exists())

    def _named(self, model: type[Model], row_id: str) -> str:
        """The row for a person. What is in it may be anybody's."""
        if model is SecondFactorRow:  # there is but one
            return _WORDS[model]
        if model is ClientKeyRow:
            found = self._execute("SELECT id, name FROM client_keys").fetchall()
            row_id = next((str(name) for id_, name in found if str(_plain(id_)) == row_id), row_id)
        text = row_id if row_id.isprintable() else ascii(row_id)
        return f"{_WORDS[model]} {text if len(text) < _SHOWN else f'{text[:8]}…'}"


def _kind(model: type[Model]) -> str:
    return str(model._meta.table_name)


def _content(model: type[Model], row: Content) -> Content:
    """What is signed of a row.

    What is NULL, or a switch that is off, is left out: so a column that a later version adds changes nothing.
    """
    switches = {field.column_name for field in model._meta.sorted_fields if isinstance(field, BooleanField)}
    return {name: _plain(value) for name, value in row.items() if value is not None and (value or name not in switches)}


def _plain(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return ["hex", bytes(value).hex()]
    return int(value) if isinstance(value, bool) else value


def _sum(version: int, signatures: Signatures) -> str:
    return sum_of(
        version, [(kind, row_id, *each) for kind, signed in signatures.items() for row_id, each in signed.items()]
    )


def _counts(model: type[Model]) -> str:
    """What follows from it."""
    return {
        ClientKeyRow: ", so it is denied: revoke it",
        BlockedAddressRow: ", and stays: unblock it, or block it anew",
        SecondFactorRow: ", so no code is right: disable it, and enable it anew",
        RecoveryCodeRow: ", so it is none: make new ones",
    }[model]
