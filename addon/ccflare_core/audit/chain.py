"""The audit log: rows in a chain that nobody can change, delete or cut off unseen, written with what they tell of.

Each row is signed (HMAC-SHA256) together with the hash of the one before it. A signed head says where the chain ends.
The keys are derived from the data keys; the newest one signs. When a data key is retired, its audit key stays, sealed,
to check what it has signed.

An entry is added in the transaction of the change that it is about: neither is ever there without the other.
"""

import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from peewee import Database, IntegrityError

from ccflare_core.audit.entries import FIRST_HASH, NO_ROWS, By, ChainHead, Entry, Row, Secret, stamp
from ccflare_core.audit.file import AuditFile
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import AuditHeadRow, AuditKeyRow, AuditRow
from ccflare_core.errors import AuditError, VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.vault import Vault, place

__all__ = ["Audit", "By", "ChainHead", "Entry", "Row", "Secret", "Signer"]

ANCHOR = "anchor"
"""The one member of a line of the second sink that has an anchor in it."""
_PRUNED_AT_ONCE = 5000
_TELL_SECONDS = 10.0
_BROKEN = f"the audit log does not hold together: see `{typed('audit verify')}`, then restore a backup or `restart` it"
_HELD = (
    "the end of the audit log was not stored as it was written, so nothing was changed: somebody has put a trigger or "
    "the like into the database; restore a backup"
)
_UNKNOWN = "?"


class Signer:
    """Makes the HMACs of the audit log, with the keys of today and those of data keys that were retired."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._kept: dict[str, bytes] = {}

    @property
    def key_id(self) -> str:
        """The key that signs what is new."""
        return self._vault.key_id

    def mac(self, text: bytes, key_id: str | None = None) -> str:
        """The HMAC of `text` in hex. Raises VaultError if there is no such key any more."""
        if key_id is not None and key_id in self._kept:
            return hmac.digest(self._kept[key_id], text, "sha256").hex()
        try:
            return self._vault.mac("audit", text, key_id).hex()
        except VaultError:
            if key_id is None or not self._bring(key_id):
                raise
        return self.mac(text, key_id)

    def row_mac(self, text: bytes, key_id: str | None = None) -> str:
        """The HMAC of a row that is signed, see signed_rows.py. Raises VaultError if there is no such data key."""
        return self._vault.mac("rows", text, key_id).hex()

    def digest(self, secret: str, key_id: str | None = None) -> str:
        """What stands for a secret: `hmac-sha256:KEY:HEX`."""
        return f"hmac-sha256:{key_id or self.key_id}:{self.mac(b'secret' + secret.encode(), key_id)}"

    def key_ids(self) -> list[str]:
        """All keys, of today and kept."""
        kept = AuditKeyRow.select(AuditKeyRow.id).bind(self._database)
        return [*self._vault.key_ids, *(row.id for row in kept)]

    def keys(self) -> dict[str, bytes]:
        """The audit keys by their ids. Raises VaultError if a kept one does not open."""
        found = {each: self._vault.audit_key(each) for each in self._vault.key_ids}
        return found | {each: self._kept[each] for each in self.key_ids() if each not in found and self._bring(each)}

    def _bring(self, key_id: str) -> bool:
        for row in AuditKeyRow.select().where(AuditKeyRow.id == key_id).bind(self._database):
            self._kept[key_id] = self._vault.open(bytes(row.sealed), _place(key_id))
        return key_id in self._kept


def keep_key(database: Database, vault: Vault, key_id: str) -> None:
    """Store the audit key of a data key that is about to be deleted. Raises VaultError if the vault has no such key."""
    _keep(database, vault, key_id, vault.audit_key(key_id))


def _keep(database: Database, vault: Vault, key_id: str, key: bytes) -> None:
    AuditKeyRow.insert(id=key_id, sealed=vault.seal(key, _place(key_id))).execute(database)


class Audit:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(
        self,
        database: Database,
        vault: Callable[[], Vault | None],
        *,
        transaction: Callable[[], AbstractContextManager[None]],
        wall: Callable[[], float],
        file: AuditFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = self.database = database
        self._transaction = transaction
        self._wall = wall
        self._vault = vault
        self._known_signer: Signer | None = None
        self._execute: Callable[..., Any] = database.execute_sql
        self._clock = clock
        self._waiting: list[bytes] = []
        self._told_at = float("-inf")
        self.failing_since: float | None = None
        """Since when neither the table nor the file can be written (monotonic); any thread may look."""
        self.file = file
        """The second sink, if any."""

    @property
    def signer(self) -> Signer:
        """The keys of the log. Raises AuditError if the store was opened without a key."""
        vault = self._vault()
        if vault is None:
            raise AuditError("what is not audited cannot be done, and the audit log needs the database's key: give it")
        if self._known_signer is None:
            self._known_signer = Signer(self._database, vault)
        return self._known_signer

    # What is written

    def add(self, entry: Entry) -> None:
        """Write an entry, within a transaction of the store. Raises AuditError if the chain cannot be continued.

        Only one transaction is open at a time, of all processes, so no other one can add to the same end.
        """
        if not self._database.in_transaction():
            raise ValueError("an entry is added within a transaction of the store")
        head, signer = self._begin(), self.signer
        row = Row.make(head.last_id + 1, self._wall(), entry, signer.key_id, head.hash, signer.digest)
        row = row._replace(hash=signer.mac(row.signed_text()))
        try:
            AuditRow.insert(row._asdict()).execute(self._database)
        except IntegrityError as error:  # there is a row behind the end
            raise AuditError(_BROKEN) from error
        self.move(head._replace(last_id=row.id, hash=row.hash))
        self._waiting.append(row.line())

    def adopt(self, keys: Mapping[str, bytes]) -> None:
        """Keep the audit keys of another database, in a transaction of the store: its rows can be checked here too."""
        vault, known = self._vault(), self.signer.key_ids()
        for key_id, key in keys.items():
            if vault is not None and key_id not in known:
                _keep(self._database, vault, key_id, key)

    def resign(self) -> None:
        """Sign the head with the newest key, in the transaction that has made the key and added an entry."""
        if head := self.head():
            self.move(head)

    def head(self) -> ChainHead | None:
        """Where the chain ends, unchecked; None if nothing was ever written. Raises AuditError if it says nothing."""
        for row in AuditHeadRow.select().bind(self._database):
            head = _head(row)
            if any(type(number) is not int for number in (head.last_id, head.pruned_id)):  # SQLite takes anything
                raise AuditError(_BROKEN)
            return head
        return None

    def rows_after(self, number: int, limit: int) -> list[Row]:
        """At most `limit` rows with higher numbers than this, in order, unchecked."""
        sql = f"SELECT {', '.join(Row._fields)} FROM audit_log WHERE id > {number:d} ORDER BY id LIMIT {limit:d}"  # noqa: S608
        with as_store_errors():
            return [Row(*each) for each in self._execute(sql).fetchall()]

    def anchor(self) -> str:
        """The signed head as a text that can be kept elsewhere, for `audit.py verify --anchor`; "" if there is none."""
        head = self.head()
        if head is None:
            return ""
        key_id, text = self.signer.key_id, anchor_text(head.last_id, head.hash, head.signed_rows)
        rows = f":{head.signed_rows}" if head.signed_rows else ""
        return f"{head.last_id}:{head.hash}{rows}:{key_id}:{self.signer.mac(text, key_id)}"

    def keep(self, anchor: str) -> None:
        """Write the anchor into the second sink, from where it goes wherever that is shipped."""
        if self.file is not None:
            self.file.write([json.dumps({ANCHOR: anchor}).encode() + b"\n"])

    def prune(self, before: float, by: By) -> Iterator[int]:
        """Delete the oldest rows, those from before `before` (epoch seconds); yields each batch's number.

        An entry says so, and the head remembers where the chain begins now. Raises AuditError, with nothing deleted,
        where the chain does not hold together.
        """
        head = self.head()
        while head is not None:
            with self._transaction():
                done = self._prune_batch(before, head.last_id, by)
            if not done:
                return
            yield done

    def restart(self, by: By, reason: str) -> None:
        """Go on behind whatever is there, after the chain was broken. `verify` names the break all the same."""
        with self._transaction():
            last = AuditRow.select().order_by(AuditRow.id.desc()).bind(self._database).first()
            end = (0, FIRST_HASH) if last is None else (last.id, last.hash)
            try:
                old = self.head() or ChainHead(0, FIRST_HASH, 0, FIRST_HASH, "", NO_ROWS)
            except AuditError:
                old = ChainHead(0, FIRST_HASH, 0, _UNKNOWN, "", NO_ROWS)
            if old.mac and not self.is_ours(old):
                # Nothing may follow what it says was deleted on purpose, and the rows that it names count for nothing.
                old = old._replace(pruned_hash=_UNKNOWN, signed_rows=NO_ROWS)
            self.move(old._replace(last_id=max(end[0], old.last_id), hash=end[1]))
            self.add(Entry.of(by, "audit.restart", reason=reason))

    # The store's transactions

    def mark(self) -> int:
        """How much waits for the second sink."""
        return len(self._waiting)

    def rewind(self, mark: int) -> None:
        """Forget what came after `mark`: its transaction was undone."""
        del self._waiting[mark:]

    def publish(self) -> None:
        """Give the second sink what is committed."""
        if self._waiting and not self._database.in_transaction():
            lines, self._waiting = self._waiting, []
            if self.file is not None:
                self.file.write(lines)

    def aside(self, entry: Entry) -> bool:
        """Write an entry that the table cannot take into the file, as row 0; whether that worked."""
        if self._vault() is None or self.file is None:
            return False
        signer = self.signer
        row = Row.make(0, self._wall(), entry, signer.key_id, "", signer.digest)
        return self.file.write([row._replace(hash=signer.mac(row.signed_text())).line()])

    def worked(self) -> None:
        """A transaction was committed."""
        self.failing_since, self._told_at = None, float("-inf")

    def stumbled(self, by: By, cause: str) -> None:
        """The database cannot be written. While the file can, and says so, not all is lost."""
        now = self._clock()
        if now - self._told_at < _TELL_SECONDS:
            return
        self._told_at = now
        if self.aside(Entry.of(by, "audit.unavailable", "", "failed", cause=cause)):
            self.failing_since = None
        elif self.failing_since is None:
            self.failing_since = now

    # Pieces

    def _begin(self) -> ChainHead:
        """The head, checked; a new one where nothing was ever written."""
        head = self.head()
        if head is None:
            if AuditRow.select().bind(self._database).exists():
                raise AuditError(_BROKEN)
            return ChainHead(0, FIRST_HASH, 0, FIRST_HASH, "", NO_ROWS)
        if not self.is_ours(head):
            raise AuditError(_BROKEN)
        return head

    def is_ours(self, head: ChainHead) -> bool:
        """Whether the newest key has signed this head: an older one may have leaked, and is no longer good enough."""
        try:
            mac = self.signer.mac(head.signed_text(), head.key_id)  # takes up a key that another process has made
        except (VaultError, ValueError):
            return False
        return head.key_id == self.signer.key_id and hmac.compare_digest(head.mac.encode(), mac.encode())

    def move(self, head: ChainHead) -> None:
        """Sign this head and store it, in a transaction of the store."""
        head = head._replace(key_id=self.signer.key_id)
        fields = head._replace(mac=self.signer.mac(head.signed_text()))._asdict()
        if not AuditHeadRow.update(fields).where(AuditHeadRow.id == 1).execute(self._database):
            try:
                AuditHeadRow.insert(fields | {"id": 1}).execute(self._database)
            except IntegrityError as error:  # it is there, and stays as it is
                raise AuditError(_HELD) from error

    def _prune_batch(self, before: float, last: int, by: By) -> int:
        head = self._begin()
        end, previous, is_before = head.pruned_id, head.pruned_hash, stamp(before)
        for found in self.rows_after(end, _PRUNED_AT_ONCE):
            if found.ts_utc >= is_before or found.id > last:
                break
            if problem := fault(found, end + 1, previous, self.signer):
                raise AuditError(f"{problem}: nothing was deleted")
            end, previous = found.id, found.hash
        if end == head.pruned_id:
            return 0
        # Only what the head names as pruned can be deleted.
        self.move(head._replace(pruned_id=end, pruned_hash=previous))
        AuditRow.delete().where(AuditRow.id <= end).execute(self._database)
        self.add(Entry.of(by, "audit.prune", first=head.pruned_id + 1, last=end, hash=previous))
        return end - head.pruned_id


def fault(row: Row, expected: int, previous: str, signer: Signer) -> str | None:
    """What is wrong with a row that should be number `expected`, behind one with the hash `previous`."""
    if row.id != expected:
        return f"row {expected} is missing"
    try:
        is_signed = hmac.compare_digest(signer.mac(row.signed_text(), row.key_id), row.hash)
    except (VaultError, ValueError, TypeError):
        return f"row {row.id} names a key that there is not"
    if not is_signed:
        return f"row {row.id} was changed"
    return None if row.prev_hash == previous else f"row {row.id} does not follow the row before it"


def anchor_text(last_id: int, hash_: str, signed_rows: str) -> bytes:
    """What an anchor's mac is of."""
    return f"anchor{last_id}:{hash_}{signed_rows and ':'}{signed_rows}".encode()


def _head(row: AuditHeadRow) -> ChainHead:
    return ChainHead(row.last_id, row.hash, row.pruned_id, row.pruned_hash, row.key_id, row.signed_rows, row.mac)


def _place(key_id: str) -> str:
    return place("audit_keys", "sealed", key_id)
