"""What a restore carries over from the database that it sets aside: what was taken away, and what is newer.

A backup is older than the database it replaces. A client key that was revoked since, an address that was blocked and a
second factor that was enabled would be as before; a refresh token that was used since is dead, and trying it may end
the login. So these come from the database that is set aside. Rows go over as they are stored, still sealed: the data
keys that they need go with them. A row that somebody else has changed there (see signed_rows.py) is not carried over:
a client key of which that is so is ended, for nobody can tell what it was allowed last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peewee import Model

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.audit.signed_rows import Look
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import (
    AccountRow,
    BlockedAddressRow,
    ClientKeyRow,
    DataKeyRow,
    RecoveryCodeRow,
    SecondFactorRow,
)
from ccflare_core.errors import VaultError
from ccflare_core.store.accounts import Accounts
from ccflare_core.store.blocklist import Block, Blocklist
from ccflare_core.store.client_keys import NO_DIGESTS
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_CREDENTIALS = ("access_token", "refresh_token", "api_key", "expires_at", "login_at", "login_expires_at")
_NAME_LENGTH = 50

Row = Mapping[str, Any]


class Current(NamedTuple):
    """What the database that is set aside has. Its rows are as stored."""

    key_ids: frozenset[str]
    """The keys of its audit log; a backup of the same database has some of them."""
    audit_keys: Mapping[str, bytes]
    data_keys: list[Row]
    """Newest first."""
    accounts: dict[str, Account | None]
    """By id; None is one whose secrets do not open."""
    clients: dict[str, Row]
    ended: frozenset[str]
    """Ids of client keys that somebody else has changed or removed."""
    blocks: dict[str, Row]
    factor: Row | None
    is_factor_sound: bool
    """Whether that is what was enabled, if anything was."""
    recovery: list[Row]
    version: int
    """How often its rows were signed."""


@dataclass(slots=True)
class Carried:
    """What a restore has carried over, by name, and what it could not."""

    unknown: str = ""
    """Why the database that was set aside could not be read; "" if it was, or if there was none."""
    has_old: bool = True
    """Whether there was a database."""
    tokens: list[str] = field(default_factory=list)
    """Accounts that got their newer credentials."""
    logins: list[str] = field(default_factory=list)
    """Accounts that need a login, since nobody knows whether what the backup has is still good."""
    paused: list[str] = field(default_factory=list)
    """Accounts that stay paused, or are because they had been removed since the backup."""
    revoked: list[str] = field(default_factory=list)
    """Client keys that had been revoked since the backup, and are."""
    clients: list[str] = field(default_factory=list)
    """Client keys that are otherwise as they were last: made or changed since the backup."""
    ended: list[str] = field(default_factory=list)
    """Client keys that somebody else had changed, and that are revoked for it."""
    blocked: list[str] = field(default_factory=list)
    """Networks that had been blocked since the backup, and are."""
    factor: bool = False
    """Whether the second factor is the one that was in use last."""
    is_factor_lost: bool = False
    """Whether somebody else had changed the second factor, so that it is as in the backup."""
    back: dict[str, list[str]] = field(default_factory=dict)
    """What was gone and is back, by its kind."""
    missing: list[str] = field(default_factory=list)
    """Accounts that had been added since the backup, and are not in it."""


class CarryOver:
    """A part of the store: reads what is to be carried over, and takes it up in another one."""

    def __init__(self, context: StoreContext, accounts: Accounts, blocklist: Blocklist) -> None:
        self._database = context.database
        self._context = context
        self._accounts = accounts
        self._blocklist = blocklist
        self._signed = context.signed

    def read(self, audit_keys: Mapping[str, bytes]) -> Current:
        """What this database has. Raises StoreError, or ValueError if a value is none that was ever written."""
        keys, factor, codes = map(self._signed.look, (ClientKeyRow, SecondFactorRow, RecoveryCodeRow))
        factors = self._rows(SecondFactorRow) if factor.is_sound else []
        return Current(
            frozenset(audit_keys),
            audit_keys,
            sorted(self._rows(DataKeyRow), key=lambda row: -row["number"]),
            {row.id: self._account(row) for row in self._models(AccountRow)},
            {row["id"]: row for row in self._rows(ClientKeyRow, keys)},
            keys.altered | keys.gone,
            {str(block.network): _block_row(block) for block in self._blocklist.all()},
            factors[0] if factors else None,
            factor.is_sound,
            self._rows(RecoveryCodeRow, codes),
            self._signed.version,
        )

    def write(self, current: Current, *, is_related: bool) -> Carried:
        """Take it up here, in a transaction of the store; its data keys are here already.

        `is_related` says that this database is an older state of that one, and not of another: what is missing there
        was removed then.
        """
        done = Carried()
        self._take_accounts(current, done, is_related=is_related)
        self._take_clients(current.clients, done)
        self._end_clients(current.ended, done)
        self._take_blocks(current.blocks, done)
        self._take_factor(current, done)
        self._signed.advance(current.version)
        return done

    def distrust(self, why: str) -> Carried:
        """Mark what may have been used since the backup, where nobody can tell: in a transaction of the store."""
        done = Carried(unknown=why)
        for row in self._models(AccountRow):
            self._need_login(row, done)
        return done

    # Accounts

    def _take_accounts(self, current: Current, done: Carried, *, is_related: bool) -> None:
        here = {row.id: row for row in self._models(AccountRow)}
        for account_id, row in here.items():
            if account_id in current.accounts:
                self._take_account(row, current.accounts[account_id], done)
            elif is_related:
                done.back.setdefault("accounts", []).append(row.name)
                self._need_login(row, done)
                self._change(AccountRow, row.id, paused=True)
                done.paused.append(row.name)
        gone = [other.name if other else each for each, other in current.accounts.items() if each not in here]
        done.missing = sorted(gone)

    def _take_account(self, row: AccountRow, other: Account | None, done: Carried) -> None:
        if other is None:
            self._need_login(row, done)
            return
        mine = self._account(row)
        if mine is None or _recency(other) >= _recency(mine):
            self._take_credentials(row, mine, other, done)
        elif other.needs_login:
            self._need_login(row, done)
        if other.attention is not None:
            self._change(AccountRow, row.id, attention=other.attention)
        if other.paused and not row.paused:
            self._change(AccountRow, row.id, paused=True)
            done.paused.append(row.name)

    def _take_credentials(self, row: AccountRow, mine: Account | None, other: Account, done: Carried) -> None:
        names = (*_CREDENTIALS, "needs_login")
        if mine is not None and all(getattr(mine, name) == getattr(other, name) for name in names):
            return
        fields = {name: getattr(other, name) for name in names}
        columns = self._accounts.columns(row.id, fields)
        del columns["attention"]  # a new login would end it, and this is none
        self._change(AccountRow, row.id, **columns)
        done.tokens.append(row.name)

    def _need_login(self, row: AccountRow, done: Carried) -> None:
        if row.kind == Kind.OAUTH.value:
            self._change(AccountRow, row.id, needs_login=True)
            done.logins.append(row.name)

    def _account(self, row: AccountRow) -> Account | None:
        try:
            return self._accounts.of_row(row)
        except VaultError:
            return None

    # Who may do what

    def _take_clients(self, theirs: Mapping[str, Row], done: Carried) -> None:
        look = self._signed.look(ClientKeyRow)
        here = {row["id"]: row for row in self._rows(ClientKeyRow, look)}
        names = {row["name"]: row["id"] for row in theirs.values()}
        for key_id, row in here.items():
            if key_id in theirs:
                continue
            name = row["name"]
            if name in names:  # another key has got it since
                name = f"{name[:_NAME_LENGTH]}-{key_id[-8:]}"
                self._change_client(key_id, look, name=name)
            done.back.setdefault("client keys", []).append(name)
        for key_id, row in theirs.items():
            mine = here.get(key_id)
            if mine != row:
                self._put(ClientKeyRow, row)
                was_revoked = row["revoked_at"] is not None and (mine is None or mine["revoked_at"] is None)
                (done.revoked if was_revoked else done.clients).append(row["name"])

    def _end_clients(self, ended: frozenset[str], done: Carried) -> None:
        look = self._signed.look(ClientKeyRow)
        for row in self._rows(ClientKeyRow, look):
            if row["id"] in ended and row["revoked_at"] is None:
                now = to_ms(self._context.wall())
                self._change_client(row["id"], look, **NO_DIGESTS, revoked_at=now)
                done.ended.append(row["name"])

    def _take_blocks(self, theirs: Mapping[str, Row], done: Carried) -> None:
        here = {str(block.network) for block in self._blocklist.all()}
        for network in sorted(theirs.keys() - here):
            self._put(BlockedAddressRow, theirs[network])
            done.blocked.append(network)
        if back := sorted(here - theirs.keys()):
            done.back["blocks"] = back

    def _take_factor(self, current: Current, done: Carried) -> None:
        mine = next(iter(self._rows(SecondFactorRow)), None)
        done.is_factor_lost = not current.is_factor_sound
        is_used = current.factor is not None and current.factor["confirmed_at"] is not None
        if not is_used or current.factor is None:
            if mine is not None and mine["confirmed_at"] is not None and current.is_factor_sound:
                done.back["second factor"] = ["as it was in the backup"]
            return
        if (mine, self._rows(RecoveryCodeRow)) == (current.factor, current.recovery):
            return
        for model in (SecondFactorRow, RecoveryCodeRow):
            model.delete().execute(self._database)
            self._signed.forget(model)
        self._put(SecondFactorRow, current.factor)
        for code in current.recovery:
            self._put(RecoveryCodeRow, code)
        done.factor = True

    # Rows

    def _models(self, model: type[Model]) -> list[Any]:
        with as_store_errors():
            return list(model.select().bind(self._database))

    def _rows(self, model: type[Model], look: Look | None = None) -> list[Row]:
        """The rows, or those that were found sound."""
        key: Any = model._meta.primary_key
        with as_store_errors():
            query: Any = model.select().order_by(key).dicts()
            query = query if look is None else query.where(key.in_(list(look.sound)))
            return list(query.bind(self._database))

    def _put(self, model: type[Model], row: Row) -> None:
        """Store it in the place of the one that there may be, and sign it."""
        key: Any = model._meta.primary_key
        model.delete().where(key == row[key.name]).execute(self._database)
        model.insert(dict(row)).execute(self._database)
        self._signed.sign(model, row[key.name], row)

    def _change(self, model: type[Model], row_id: str, **values: object) -> None:
        model.update(values).where(model._meta.primary_key == row_id).execute(self._database)

    def _change_client(self, row_id: str, look: Look, **values: object) -> None:
        self._change(ClientKeyRow, row_id, **values)
        self._signed.sign(ClientKeyRow, row_id, values, look.sound[row_id])


def _block_row(block: Block) -> Row:
    return {"network": str(block.network), "created_at": to_ms(block.created_at), "reason": block.reason}


def _recency(account: Account) -> tuple[float, float]:
    """Which of two states of an account is the newer one: the later login, then the later refresh.

    Each refresh gives an access token that ends later than the one before.
    """
    return account.login_at or 0.0, account.expires_at or 0.0
