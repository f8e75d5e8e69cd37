"""The stored OAuth tokens as several processes share them: one refreshes at a time, and none undoes another's work.

A lease says which run refreshes an account. It ends when it is given back, when that run is over, or when another run
has watched it for longer than a refresh can take. So no clocks have to agree, and one that jumps does no harm.
What protects the tokens themselves is the swap: an answer is stored only in place of the refresh token that it was
given for. A process that comes late changes nothing and gets what is there.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.token_refresh import LeaseAttempt
from ccflare_core.accounts.validity import Upkeep
from ccflare_core.anthropic.oauth import NOBODY, Owner, Tokens
from ccflare_core.audit.entries import Outcome, Secret, stamp
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import AccountRow, RefreshLeaseRow, RunRow
from ccflare_core.store.accounts import Accounts, refresh_digest
from ccflare_core.store.context import StoreContext
from ccflare_core.store.leases import take_lease
from ccflare_core.store.ledger import learn_owner
from ccflare_core.text import to_ms


class Logins:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(
        self, context: StoreContext, accounts: Accounts, is_settling: Callable[[], bool] = lambda: False
    ) -> None:
        """Nobody gets a lease while `is_settling`, see takeover.py."""
        self._is_settling = is_settling
        self._database = context.database
        self._transaction = context.transaction
        self._account = accounts.of_row
        self._columns = accounts.columns
        self._record = context.record

    def take_lease(
        self, account_id: str, owner: str, *, abandoned: str = "", clock: Callable[[], float] = time.monotonic
    ) -> LeaseAttempt | None:
        """Take the lease for the run `owner` if it is free, and read the account; None if that is gone.

        `abandoned` is the term of a lease that the caller has watched for long enough to end it. The lease's age counts
        from the commit, as until then nobody else sees it, however slow the database is.
        """
        with self._transaction():
            is_mine = not self._is_settling() and self._take(account_id, owner, abandoned)
            account = self._read(account_id)
            if account is None:
                self._release(account_id, owner)
                return None
            self._fill_digest(account)
            lease = RefreshLeaseRow.select().where(RefreshLeaseRow.account_id == account_id).bind(self._database)
            return LeaseAttempt(account, is_mine, next((each.term for each in lease), ""), clock())

    def renew_lease(self, account_id: str, owner: str) -> None:
        """Give the lease a new term, if the run still holds it, so that nobody takes it for abandoned."""
        is_ours = (RefreshLeaseRow.account_id == account_id) & (RefreshLeaseRow.owner == owner)
        with self._transaction():
            RefreshLeaseRow.update({"term": secrets.token_hex(8)}).where(is_ours).execute(self._database)

    def release_lease(self, account_id: str, owner: str) -> None:
        """Give the lease back, if the run still holds it."""
        with self._transaction():
            self._release(account_id, owner)

    def save_tokens(self, account_id: str, owner: str, spent: str, tokens: Tokens) -> Account | None:
        """Store what the refresh token `spent` was exchanged for and give the lease back, in one transaction.

        Returns the account as it is stored then; None if it is gone. It has other tokens if `spent` was no longer the
        stored one: then nothing was changed.
        """
        fields = {"access_token": tokens.access_token, "expires_at": tokens.expires_at, "needs_login": False}
        told = {"refresh_token": tokens.refresh_token, "login_expires_at": tokens.login_expires_at}
        fields |= {name: value for name, value in told.items() if value is not None}
        return self._swap(account_id, owner, spent, fields, told_owner=tokens.owner)

    def flag_login(self, account_id: str, owner: str, spent: str) -> Account | None:
        """Note that the provider has refused the refresh token `spent` for good; otherwise as `save_tokens`."""
        return self._swap(account_id, owner, spent, {"needs_login": True}, "failed")

    def note_failure(self, account: Account, retry_at: float, reason: str) -> None:
        """Note why the account's token was not refreshed, and until when (epoch seconds) nobody tries it again."""
        spent = account.refresh_token or ""
        is_stored = (AccountRow.id == account.id) & (AccountRow.refresh_digest == refresh_digest(spent))
        with self._transaction():
            noted = {AccountRow.refresh_retry_at: to_ms(retry_at)}
            AccountRow.update(noted).where(is_stored).execute(self._database)
            self._record(
                "token.refresh", account.name, "failed", id=account.id, reason=reason, retry_at=stamp(retry_at)
            )

    def upkeep(self) -> dict[str, Upkeep]:
        """What becomes of each account's token at the moment, by account id."""
        live = RunRow.select(RunRow.id).where(RunRow.ended_at.is_null())
        with as_store_errors():
            leases = RefreshLeaseRow.select().where(RefreshLeaseRow.owner.in_(live)).bind(self._database)
            leased = {lease.account_id for lease in leases}
            accounts = list(AccountRow.select().bind(self._database))
        return {each.id: _upkeep(each, each.id in leased) for each in accounts}

    def _swap(
        self,
        account_id: str,
        owner: str,
        spent: str,
        fields: Mapping[str, Any],
        outcome: Outcome = "ok",
        *,
        told_owner: Owner = NOBODY,
    ) -> Account | None:
        is_spent = (AccountRow.id == account_id) & (AccountRow.refresh_digest == refresh_digest(spent))
        with self._transaction():
            changed = AccountRow.update(self._columns(account_id, fields)).where(is_spent).execute(self._database)
            self._release(account_id, owner)
            if changed:
                learn_owner(self._database, account_id, told_owner)
            account = self._read(account_id)
            if account is not None and changed:
                told = {name: Secret(value) if isinstance(value, str) else value for name, value in fields.items()}
                self._record("token.refresh", account.name, outcome, id=account_id, spent=Secret(spent), **told)
            return account

    def _take(self, account_id: str, owner: str, abandoned: str) -> bool:
        key = {RefreshLeaseRow.account_id: account_id}
        return take_lease(self._database, RefreshLeaseRow, key, owner, abandoned)

    def _release(self, account_id: str, owner: str) -> None:
        is_ours = (RefreshLeaseRow.account_id == account_id) & (RefreshLeaseRow.owner == owner)
        RefreshLeaseRow.delete().where(is_ours).execute(self._database)

    def _read(self, account_id: str) -> Account | None:
        rows = AccountRow.select().where(AccountRow.id == account_id).bind(self._database)
        return next((self._account(row) for row in rows), None)

    def _fill_digest(self, account: Account) -> None:
        """For a row that is older than the column."""
        if account.refresh_token is not None:
            is_bare = (AccountRow.id == account.id) & AccountRow.refresh_digest.is_null()
            digest = {AccountRow.refresh_digest: refresh_digest(account.refresh_token)}
            AccountRow.update(digest).where(is_bare).execute(self._database)


def _upkeep(row: AccountRow, is_leased: bool) -> Upkeep:
    retry_at = None if row.refresh_retry_at is None else row.refresh_retry_at / 1000
    has_secret = row.access_token is not None or row.api_key is not None
    return Upkeep(is_leased, retry_at, has_secret, row.refresh_token is not None)
