"""The stored accounts, each of whose secrets is sealed for its own place; every change of one is audited."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import peewee

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import twin_by_secret
from ccflare_core.audit.entries import Secret
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import (
    AccountRow,
    CooldownRow,
    OwnerRow,
    ProbeRow,
    RefreshLeaseRow,
    SessionAccountRow,
    WindowRow,
)
from ccflare_core.errors import NotFound, StoreError, VaultError
from ccflare_core.http.egress import EgressProxy
from ccflare_core.program import typed
from ccflare_core.secrets.vault import is_sealed, place
from ccflare_core.store.affinity import delete_served
from ccflare_core.store.context import StoreContext
from ccflare_core.text import composed, to_ms, to_seconds

_SECRETS = ("access_token", "refresh_token", "api_key")
_SEALED = (*_SECRETS, "proxy")
_TIMES = ("expires_at", "created_at", "login_at", "login_expires_at")
_PLAIN = ("name", "kind", "priority", "paused", "needs_login", "attention", "person_id", "organization_id")
_NAMES = ("id", *_PLAIN, *_SEALED, *_TIMES)
_COLUMNS = tuple(getattr(AccountRow, name) for name in _NAMES)
_GONE = "the account is no longer there: another process has removed it"


class Accounts:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._database = context.database
        self._transaction = context.transaction
        self._record = context.record
        self._known: dict[tuple[Any, ...], Account] = {}
        """What was read last, by row: to open every secret of thousands for one that has changed takes long."""

    def all(self) -> list[Account]:
        """Every account, by priority and name.

        Raises VaultError, naming the account, if one of its secrets does not open.
        """
        query: Any = AccountRow.select(*_COLUMNS).order_by(AccountRow.priority, AccountRow.name).tuples()
        with as_store_errors():
            rows = [tuple(row) for row in query.bind(self._database)]
        known, self._known = self._known, {}
        for row in rows:
            self._known[row] = known.get(row) or self.of_row(AccountRow(**dict(zip(_NAMES, row, strict=True))))
        return list(self._known.values())

    def names(self) -> list[str]:
        """The name of every account, which it takes no key to know."""
        query: Any = AccountRow.select(AccountRow.name).bind(self._database)
        with as_store_errors():
            return [str(name) for (name,) in query.tuples()]

    def by_name(self, name: str, *, secrets: bool = True) -> Account:
        """The account of that name, maybe without its secrets. Raises StoreError if there is none."""
        query = AccountRow.select().where(AccountRow.name == composed(name))
        with as_store_errors():
            for row in query.bind(self._database) if name.isprintable() else ():  # else no database may take it
                return self.of_row(row, secrets=secrets)
        raise NotFound(f"there is no account called {name}: `{typed('accounts list')}` shows all")

    def add(self, account: Account, **detail: object) -> None:
        """Insert it; `detail` goes into the audit log.

        Raises StoreError if its name (or id) is taken, or if one of its secrets is another account's already.
        """
        names = (*_PLAIN, *_SEALED, *_TIMES)
        fields = {name: getattr(account, name) for name in names}
        with self._changing(account.name):
            self._refuse_twin(account)
            AccountRow.insert({**self.columns(account.id, fields), "id": account.id}).execute(self._database)
            told = {name: _told(name, value) for name, value in fields.items() if value is not None}
            self._record("account.add", account.name, "ok", id=account.id, fields=told, **detail)

    def _refuse_twin(self, account: Account) -> None:
        if twin := twin_by_secret(account, self.all()):
            what = "API key" if account.api_key else "token"
            raise StoreError(f"this {what} is that of the account {twin.name} already: use that one, or rename it")

    def update(self, account_id: str, **fields: Any) -> None:
        """Change these fields of the account and no others.

        Raises StoreError if the account is gone or the new name is taken.
        """
        is_it = AccountRow.id == account_id
        with self._changing(fields.get("name")):
            columns = self.columns(account_id, fields)
            before = AccountRow.select().where(is_it).bind(self._database).first()
            if before is None:
                raise StoreError(_GONE)
            AccountRow.update(columns).where(is_it).execute(self._database)
            told = {name: _change(name, getattr(before, name), value) for name, value in fields.items()}
            changes = {name: change for name, change in told.items() if change.get("before", ...) != change["after"]}
            if before.attention is not None and "attention" in columns:
                changes["attention"] = {"before": before.attention, "after": columns["attention"]}
            self._record(_action(fields), before.name, id=account_id, changes=changes)

    def need_attention(self, account_id: str, reason: str) -> bool:
        """Take it out until a person acts, as the provider says so; whether that is news."""
        is_it = (AccountRow.id == account_id) & AccountRow.attention.is_null()
        with self._transaction():
            row = AccountRow.select().where(is_it).bind(self._database).first()
            if row is not None:
                AccountRow.update({AccountRow.attention: reason}).where(is_it).execute(self._database)
                self._record("account.attention", row.name, id=account_id, reason=reason)
            return row is not None

    def remove(self, account_id: str) -> None:
        """Delete it with its cooldowns, its readings, its sessions, and the ids of what it has made.

        Its requests stay, with the name that it had.
        """
        is_it = AccountRow.id == account_id
        with self._transaction():
            row = AccountRow.select().where(is_it).bind(self._database).first()
            if row is None:
                raise StoreError(_GONE)
            for model in (CooldownRow, OwnerRow, ProbeRow, RefreshLeaseRow, WindowRow):
                model.delete().where(model.account_id == account_id).execute(self._database)
            delete_served(self._database, SessionAccountRow.account_id == account_id)
            AccountRow.delete().where(is_it).execute(self._database)
            self._record("account.remove", row.name, id=account_id)

    @contextlib.contextmanager
    def _changing(self, name: str | None) -> Iterator[None]:
        """A transaction; the sentence for a `name` that is taken."""
        try:
            with self._transaction():
                yield
        except peewee.IntegrityError as error:
            raise StoreError(f"there is an account called {name} already: choose another name") from error

    def columns(self, account_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of Account as columns: secrets sealed for their place, times in ms."""
        row: dict[str, Any] = {"updated_at": to_ms(self._context.wall())}
        for name, value in fields.items():
            if name in _SEALED:
                secret = value.url if isinstance(value, EgressProxy) else value
                row[name] = self._seal(secret, place("accounts", name, account_id))
                if name == "access_token":
                    row["refresh_retry_at"] = None
                if name == "api_key":
                    row["attention"] = None  # as a new login ends it
                if name == "refresh_token":
                    row["refresh_digest"] = None if value is None else refresh_digest(value)
            elif name in _TIMES:
                row[name] = to_ms(value)
                if name == "login_at":
                    row["attention"] = None  # a new login ends it
            elif name in _PLAIN:
                row[name] = value.value if isinstance(value, Kind) else value
                if name == "paused" and not value:
                    row["attention"] = None  # and so does a resume
            else:
                raise ValueError(f"an account has no field {name!r} that can be changed")
        return row

    def _seal(self, secret: str | None, where: str) -> bytes | None:
        if secret is None:
            return None
        return self._context.key("a secret cannot be stored").seal(secret.encode(), where)

    def of_row(self, row: AccountRow, *, secrets: bool = True) -> Account:
        """The account that a row holds, maybe without its secrets. Raises VaultError if one does not open."""
        values = {name: getattr(row, name) for name in _PLAIN}
        values |= {name: to_seconds(getattr(row, name)) for name in _TIMES}
        values |= {name: self._unseal(row, name) if secrets else None for name in _SECRETS}
        url = self._unseal(row, "proxy") if secrets else None
        proxy = EgressProxy.parse(url) if url else None
        return Account(id=row.id, proxy=proxy, **{**values, "kind": Kind(row.kind)})

    def _unseal(self, row: AccountRow, column: str) -> str | None:
        sealed: bytes | str | None = getattr(row, column)
        if sealed is None or self._context.vault is None:
            return None
        if not is_sealed(sealed):
            raise VaultError(
                f"the {column} of account {row.name} is stored in clear: run `{typed('keys migrate-plaintext')}`"
            )
        try:
            return self._context.vault.open(sealed, place("accounts", column, row.id)).decode()
        except VaultError as error:
            raise VaultError(
                f"the {column} of account {row.name} does not open with this key: "
                "bring back the key it was sealed with, or remove the account and add it again"
            ) from error


def _action(fields: Mapping[str, Any]) -> str:
    """What a change of an account is called in the audit log."""
    if any(name in fields for name in _SECRETS):
        return "login.done"
    if "paused" in fields and set(fields) <= {"paused", "attention"}:
        return "account.pause" if fields["paused"] else "account.resume"
    only = next(iter(fields)) if len(fields) == 1 else ""
    named = {"name": "account.rename", "priority": "account.priority", "proxy": "account.proxy"}
    return named.get(only, "account.change")


def _told(name: str, value: object) -> object:
    """A field's value as the audit log has it."""
    if value is None or name not in _SEALED:
        return value
    return Secret(value.url if isinstance(value, EgressProxy) else str(value))


def _change(name: str, before: object, after: object) -> dict[str, object]:
    if name in _SEALED:
        return {"after": _told(name, after)}
    return {"before": to_seconds(before) if name in _TIMES and isinstance(before, int) else before, "after": after}


def refresh_digest(token: str) -> str:
    """What stands for a refresh token in a comparison: it is too random to be found again from this."""
    return hashlib.sha256(b"ccflare refresh token\0" + token.encode()).hexdigest()
