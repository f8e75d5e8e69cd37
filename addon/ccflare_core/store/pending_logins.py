"""Logins that were begun and wait for their code: rows that are good for ten minutes and for one use.

The code alone is worth nothing: it takes the verifier to redeem it, and that is sealed here.
"""

import secrets

from ccflare_core.anthropic.oauth import PENDING_SECONDS, Mode, PendingLogin
from ccflare_core.db.models import OAuthSessionRow
from ccflare_core.errors import TokenError, VaultError
from ccflare_core.secrets.vault import Vault, place
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_TABLE = "oauth_sessions"


class Sessions:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._vault = context.vault
        self._transaction = context.transaction
        self._wall = context.wall

    def begin(self, account_name: str, pending: PendingLogin) -> str:
        """Keep the login until its code comes, and give the id to `take` it by. Drops those whose time is over."""
        session_id, vault = secrets.token_hex(16), self._key()
        with self._transaction():
            self._purge()
            OAuthSessionRow.insert(self._row(vault, session_id, account_name, pending)).execute(self._database)
        return session_id

    def _row(self, vault: Vault, session_id: str, account_name: str, pending: PendingLogin) -> dict[str, object]:
        return {
            "id": session_id,
            "account_name": account_name,
            "mode": pending.mode.value,
            "state": vault.seal(pending.state.encode(), place(_TABLE, "state", session_id)),
            "verifier": vault.seal(pending.verifier.encode(), place(_TABLE, "verifier", session_id)),
            "created_at": to_ms(pending.created_at),
            "expires_at": to_ms(pending.created_at + PENDING_SECONDS),
        }

    def take(self, session_id: str, account_name: str) -> PendingLogin:
        """The login, once. Raises TokenError the second time, too late, or for another account."""
        is_asked = (OAuthSessionRow.id == session_id) & (OAuthSessionRow.account_name == account_name)
        vault = self._key()
        with self._transaction():
            row = OAuthSessionRow.select().where(is_asked).bind(self._database).first()
            self._delete(session_id)
        if row is None:
            raise TokenError("this login was used before, given up, or its time is over: begin again")
        pending = PendingLogin(
            verifier=vault.open(row.verifier, place(_TABLE, "verifier", session_id)).decode(),
            state=vault.open(row.state, place(_TABLE, "state", session_id)).decode(),
            mode=Mode(row.mode),
            created_at=row.created_at / 1000,
        )
        if pending.is_expired(self._wall()):
            raise TokenError(f"the login was not finished within {PENDING_SECONDS / 60:.0f} minutes: begin again")
        return pending

    def discard(self, session_id: str) -> None:
        """Delete it, if it is still there."""
        with self._transaction():
            self._delete(session_id)

    def purge(self) -> None:
        """Delete those whose time is over."""
        with self._transaction():
            self._purge()

    def _purge(self) -> None:
        is_over = OAuthSessionRow.expires_at <= to_ms(self._wall())
        OAuthSessionRow.delete().where(is_over).execute(self._database)

    def _delete(self, session_id: str) -> None:
        OAuthSessionRow.delete().where(OAuthSessionRow.id == session_id).execute(self._database)

    def _key(self) -> Vault:
        if self._vault is None:
            raise VaultError("a login cannot be kept without a key: open the database with a key source")
        return self._vault
