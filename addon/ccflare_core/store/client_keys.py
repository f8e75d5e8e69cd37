"""The stored client keys: made, shown once, changed, revoked, and recognised by their digests.

A digest is the HMAC of a key under the pepper of a data key, whose id stands in front of it as in front of a sealed
value. It cannot be made anew without the key itself; so that is done when the key is next used (`renew`).
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import peewee
from peewee import Case, fn

from ccflare_core.audit.signed_rows import NOTHING, Content, Look
from ccflare_core.clients.authentication import Digest, KeyRing
from ccflare_core.clients.keys import ClientKey, Role, new_secret
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import ClientKeyRow, RequestRow, RowSignatureRow
from ccflare_core.errors import NotFound, StoreError, VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.vault import Vault, head_of
from ccflare_core.store.client_runs import StoredClientRuns
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms, to_seconds

_TIMES = ("created_at", "expires_at", "revoked_at")
_LISTS = ("models", "accounts", "not_accounts")
_DOLLARS = ("dollars_per_day", "dollars_per_month")
_PLAIN = (
    *("id", "name", "requests_per_minute", "tokens_per_day", "concurrency", "low_priority", "record"),
    *("stateful", "tunnels"),
)
_MICRO = 1_000_000
NO_DIGESTS = {"digest": None, "old_digest": None, "old_until": None}
_DOCTOR = f"`{typed('doctor')}` says which"
_UNKNOWN = f"there is no client key called {{}}: `{typed('keys client list')}` shows all"


class Clients:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext, runs: StoredClientRuns) -> None:
        self._runs = runs
        self._database = context.database
        self._vault = context.vault
        self._transaction = context.transaction
        self._wall = context.wall
        self._record = context.record
        self._snapshot = context.snapshot
        self._signed = context.signed

    def all(self) -> list[ClientKey]:
        """Every client key, also those that are over, by name; with a data key only those that are as they were made.

        Raises StoreError if one cannot be read.
        """
        return self._keys()[0]

    def by_name(self, name: str) -> ClientKey:
        """The key of that name. Raises StoreError if there is none, or it is not as it was made."""
        for key in self._keys(ClientKeyRow.name == name)[0]:
            return key
        if self._ids(name):
            raise StoreError(f"the client key {name} was changed outside of ccflare, so it is denied: revoke it")
        raise NotFound(_UNKNOWN.format(name))

    def exist(self) -> bool:
        """Whether a client key was ever made, whatever became of its row."""
        rows = (ClientKeyRow.select(), RowSignatureRow.select().where(RowSignatureRow.kind == "client_keys"))
        with as_store_errors():
            return any(query.bind(self._database).exists() for query in rows)

    def ring(self) -> KeyRing:
        """What authentication needs to recognise the keys that are as they were made; how many others there are.

        Raises VaultError without a data key.
        """
        vault = self._vaulted()
        keys: dict[str, ClientKey] = {}
        digests: dict[bytes, Digest] = {}
        rows, look = self._sound()
        for row in rows:
            keys[row.id] = _key(row)
            if row.old_digest is not None:
                digests[bytes(row.old_digest)] = Digest(row.id, to_seconds(row.old_until))
            if row.digest is not None:
                digests[bytes(row.digest)] = Digest(row.id)
        temporary = self._temporary(keys, digests)
        used = {digest[len(head_of("")) : len(head_of(vault.key_id))].hex() for digest in digests}
        peppers = [each for each in vault.key_ids if each in used or each == vault.key_id]
        denied = len(look.altered) + len(look.gone) + (not look.is_whole)
        return KeyRing(_Digester(vault), tuple(peppers), keys, digests, temporary, denied, _Signer(vault))

    def _temporary(self, keys: Mapping[str, ClientKey], digests: dict[bytes, Digest]) -> dict[str, ClientKey]:
        """What the temporary keys of runs stand for, once their digests are among the others.

        That of a client key may be used as the key may, and counts for it, but manages nothing. One of the owner's own
        is good for requests and tunnels. Without any key there is none, so that it closes the proxy to nobody.
        """
        found: dict[str, ClientKey] = {}
        for run, secret in self._runs.secrets() if keys else ():
            owner = ClientKey(run.id, run.id, created_at=run.created_at, tunnels=True)
            own = owner if run.key_id == run.id else keys.get(run.key_id or "")
            if own is not None:
                found[run.id] = replace(own, role=Role.CLIENT)
                digests[self._digest(secret)] = Digest(own.id, run.until, run.id)
        return found

    def uses(self) -> dict[str, tuple[int, float | None, float | None, int]]:
        """What is recorded of each key, by id.

        Its requests, their cost in dollars as far as it is known, when the last one was, and how many have no price.
        """
        who, spent = RequestRow.client_id, fn.SUM(RequestRow.cost_usd)
        unpriced = fn.SUM(Case(None, [(RequestRow.cost_usd.is_null() & (RequestRow.output_tokens > 0), 1)], 0))
        query = RequestRow.select(who, fn.COUNT(RequestRow.id), spent, fn.MAX(RequestRow.timestamp), unpriced)
        rows: Any = query.where(who.is_null(False)).group_by(who).tuples().bind(self._database)
        with as_store_errors():
            return {key: (number, cost, to_seconds(last), none) for key, number, cost, last, none in rows}

    def add(self, key: ClientKey) -> str:
        """Store it and give the secret that stands for it, which nobody can ask for again.

        Raises StoreError if its name (or id) is taken, also by a key that is revoked.
        """
        secret = new_secret()
        try:
            with self._transaction():
                row = {**_columns(key), "digest": self._digest(secret)}
                ClientKeyRow.insert(row).execute(self._database)
                self._signed.sign(ClientKeyRow, key.id, row)
                self._record("client.add", key.name, id=key.id, fields=_told(key))
        except peewee.IntegrityError as error:
            raise StoreError(f"there is or was a client key called {key.name}: choose another name") from error
        return secret

    def change(self, name: str, **fields: Any) -> ClientKey:
        """Change these fields of the key and no others. Raises StoreError if it is gone or revoked."""
        with self._transaction():
            before = self._usable(name)
            changed = replace(before, **fields)
            self._update(changed.id, _columns(changed), self._stored(changed.id))
            old, new = _told(before), _told(changed)
            changes = {field: {"before": old[field], "after": new[field]} for field in new if old[field] != new[field]}
            self._record("client.change", name, id=changed.id, changes=changes)
        return changed

    def revoke(self, name: str) -> ClientKey:
        """End the key for good, and forget its digest. Raises StoreError if it is gone or revoked already.

        Of one that is not as it was made only the name is left.
        """
        with self._transaction():
            found = self._keys(ClientKeyRow.name == name)[0]
            ids = [] if found else self._ids(name)
            before = ClientKey(ids[0], name) if ids else self._usable(name)
            key = replace(before, revoked_at=self._wall())
            if ids:
                ClientKeyRow.delete().where(ClientKeyRow.name == name).execute(self._database)
                ClientKeyRow.insert({"id": key.id, "name": name, **_columns(key)}).execute(self._database)
            self._update(key.id, {**_columns(key), **NO_DIGESTS})
            self._record("client.revoke", name, id=key.id)
        return key

    def end(self, look: Look) -> None:
        """Revoke those that are not as they were made, and forget those that are gone; in a transaction of the store.

        An entry that it belongs to is written already.
        """
        for key_id in look.altered:
            rows: Any = ClientKeyRow.select(ClientKeyRow.name).where(ClientKeyRow.id == key_id).tuples()
            for (name,) in rows.bind(self._database):
                key = ClientKey(key_id, str(name), revoked_at=self._wall())
                self._update(key_id, {**_columns(key), **NO_DIGESTS})
                self._record("client.revoke", str(name), id=key_id)
        self._signed.forget(ClientKeyRow, look.gone)

    def rotate(self, name: str, grace: float) -> str:
        """A new secret for the key; the old one is valid for `grace` more seconds. Raises StoreError as `revoke`."""
        secret = new_secret()
        with self._transaction():
            key = self._usable(name)
            stored = self._stored(key.id)
            old = _bytes(stored.get("digest")) if grace > 0 else None
            until = to_ms(self._wall() + grace) if grace > 0 else None
            self._update(key.id, {"digest": self._digest(secret), "old_digest": old, "old_until": until}, stored)
            self._record("client.rotate", name, id=key.id, grace_seconds=grace)
        return secret

    def renew(self, key_id: str, secret: str) -> None:
        """Make the digest of this key anew with the newest pepper, if that is still the key's secret."""
        vault = self._vaulted()
        with self._transaction():
            if (stored := self._signed.look(ClientKeyRow).sound.get(key_id)) is None:
                return
            olds = [digest_of(vault, secret, old) for old in vault.key_ids[1:]]
            found = [name for name in ("digest", "old_digest") if _bytes(stored.get(name)) in olds]
            if found:
                self._update(key_id, dict.fromkeys(found, self._digest(secret)), stored)
                self._record("client.renew", "", id=key_id)

    def _update(self, key_id: str, columns: Mapping[str, Any], stored: Content = NOTHING) -> None:
        """Write these columns of a row that is `stored` so; all of it, if nothing is told."""
        ClientKeyRow.update(columns).where(ClientKeyRow.id == key_id).execute(self._database)
        self._signed.sign(ClientKeyRow, key_id, columns, stored)

    def _stored(self, key_id: str) -> Content:
        return self._signed.look(ClientKeyRow).sound[key_id]

    def _usable(self, name: str) -> ClientKey:
        key = self.by_name(name)
        if key.revoked_at is not None:
            raise StoreError(f"the client key {name} is revoked, and that is final: add another one")
        return key

    def _keys(self, *conditions: Any) -> tuple[list[ClientKey], Look]:
        try:
            rows, look = self._sound(*conditions)
            return [_key(row) for row in rows], look
        except (ValueError, TypeError) as error:  # nobody has looked whether the row is one of ours
            raise StoreError(f"a client key was changed outside of ccflare, and cannot be read: {_DOCTOR}") from error

    def _sound(self, *conditions: Any) -> tuple[list[ClientKeyRow], Look]:
        """The rows that are as they were written, and what was found of all; every row where there is no data key."""
        with as_store_errors(), self._snapshot():
            look = Look(True) if self._vault is None else self._signed.look(ClientKeyRow)
            all_ = conditions if self._vault is None else (ClientKeyRow.id.in_(list(look.sound)), *conditions)
            query = ClientKeyRow.select().where(*all_) if all_ else ClientKeyRow.select()
            return list(query.order_by(ClientKeyRow.name).bind(self._database)), look

    def _ids(self, name: str) -> list[str]:
        rows: Any = ClientKeyRow.select(ClientKeyRow.id).where(ClientKeyRow.name == name).tuples()
        with as_store_errors():
            return [str(key_id) for (key_id,) in rows.bind(self._database)]

    def _digest(self, secret: str) -> bytes:
        vault = self._vaulted()
        return digest_of(vault, secret, vault.key_id)

    def _vaulted(self) -> Vault:
        if self._vault is None:
            raise VaultError("a client key takes a data key: open the database with a key source")
        return self._vault


class _Digester:
    """`digest_of` for one vault, without showing it."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __call__(self, secret: str, pepper: str) -> bytes:
        return digest_of(self._vault, secret, pepper)


class _Signer:
    """Signs for browsers with one vault, without showing it."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __call__(self, text: bytes, key_id: str) -> bytes:
        return self._vault.mac("sessions", text, key_id)


def digest_of(vault: Vault, secret: str, pepper: str) -> bytes:
    """What is stored for a client key's secret: the id of the data key, then the HMAC under that one's pepper."""
    return head_of(pepper) + vault.mac("pepper", secret.encode(), pepper)


def new_key(name: str, now: float, **fields: Any) -> ClientKey:
    """A key with an id of its own that is yet to be stored."""
    return ClientKey(id=f"ck_{secrets.token_hex(8)}", name=name, created_at=now, **fields)


def _told(key: ClientKey) -> dict[str, object]:
    """What the audit log is told of a key."""
    told = {field.name: getattr(key, field.name) for field in fields(key) if field.name not in ("id", "name")}
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in told.items()}


def _bytes(stored: object) -> bytes | None:
    """The bytes of a column, as `Look` has them."""
    return bytes.fromhex(str(stored[1])) if isinstance(stored, list) else None


def _columns(key: ClientKey) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(key, name) for name in _PLAIN}
    row |= {name: to_ms(getattr(key, name)) for name in _TIMES}
    row |= {name: json.dumps(getattr(key, name)) for name in _LISTS}
    row |= {f"micro_{name}": None if (sum_ := getattr(key, name)) is None else int(sum_ * _MICRO) for name in _DOLLARS}
    return {**row, "role": key.role.value}


def _key(row: ClientKeyRow) -> ClientKey:
    values = {name: getattr(row, name) for name in _PLAIN}
    values |= {name: to_seconds(getattr(row, name)) for name in _TIMES}
    values |= {name: tuple(json.loads(getattr(row, name))) for name in _LISTS}
    for name in _DOLLARS:
        micro = getattr(row, f"micro_{name}")
        values[name] = None if micro is None else Decimal(micro) / _MICRO
    return ClientKey(**values, role=Role(row.role))
