"""Admin actions over HTTP: each is committed to the database before its page says so."""

import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from hashlib import sha256
from typing import Any, Protocol

from ccflare_core.accounts.account import Account
from ccflare_core.audit.entries import By
from ccflare_core.clients.authentication import Identity, KeyRing
from ccflare_core.clients.sessions import Session
from ccflare_core.errors import VaultError
from ccflare_core.secrets.start_links import new_token, read_token
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.store import Store
from ccflare_core.text import some
from ccflare_core.writer.writer import Writer
from ccflare_mitm.pages.visit import Visit

logger = logging.getLogger("ccflare")


class Call(Protocol):
    """Runs a function on the writer's store."""

    def __call__(self, function: Callable[[Store], Any], /) -> Awaitable[Any]: ...


class Management:
    """Changes the database and tells the running proxy at once. Raises what the store raises."""

    def __init__(
        self, call: Call, accounts_changed: Callable[[list[Account]], None], keys_changed: Callable[[KeyRing], None]
    ) -> None:
        self._call = call
        self._accounts_changed = accounts_changed
        self._keys_changed = keys_changed

    async def pause_account(self, visit: Visit, paused: bool) -> None:
        """Pause the account of that name, or resume it."""

        def change(store: Store) -> list[Account]:
            with store.acting(By(visit.actor, visit.address)):
                store.accounts.update(store.accounts.by_name(visit.name, secrets=False).id, paused=paused)
            return store.accounts.all()

        self._accounts_changed(await self._call(change))

    async def revoke_client(self, visit: Visit) -> None:
        """End the client key of that name."""

        def change(store: Store) -> KeyRing:
            with store.acting(By(visit.actor, visit.address)):
                store.clients.revoke(visit.name)
            return store.clients.ring()

        self._keys_changed(await self._call(change))

    async def note_reading(self, visit: Visit, target: str, part: str) -> None:
        """Write into the audit log that a conversation is read. Raises StoreError as `note` does."""
        await self.note(By(visit.actor, visit.address), "data.read", target, part=part)

    async def end_session(self, session: Session) -> None:
        """Tell all proxies that a session has ended."""
        await self._call(lambda store: store.browser_sessions.end(session.id, session.until))

    async def note(self, by: By, action: str, target: str = "", **detail: object) -> None:
        """Write into the audit log that somebody has done this. Raises StoreError if that cannot be written."""

        def write(store: Store) -> None:
            with store.acting(by):
                store.note(action, target, "ok", **detail)

        await self._call(write)


class StartLinks:
    """Makes and uses the links that log the owner in to any proxy on the database."""

    def __init__(
        self,
        call: Call,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._call = call
        self._wall = wall

    async def new(self) -> str:
        """The token of a new one."""
        return str(await self._call(lambda store: new_token(vault_of(store), self._wall())))

    async def use(self, token: str) -> bool:
        """Whether this is a link that was not used before, in whichever proxy: from now on it was."""
        now = self._wall()

        def use(store: Store) -> bool:
            link = read_token(vault_of(store), token, now)
            return link is not None and store.browser_sessions.use_link(sha256(link.nonce).hexdigest(), link.until)

        return bool(await self._call(use))


def vault_of(store: Store) -> Vault:
    """The store's vault. Raises VaultError if it was opened without a key."""
    if store.vault is None:
        raise VaultError("no link can be made or read without a key: open the database with a key source")
    return store.vault


def renew_digest(writer: Writer, key_id: str, secret: str) -> None:
    """Have a client key's digest made anew with the newest data key, now that the key itself is at hand."""
    writer.call(lambda store: store.clients.renew(key_id, secret)).add_done_callback(_renewed)


def _renewed(change: Future[None]) -> None:
    if error := change.exception():
        logger.warning("the digest of a client key stays with an old data key: %s", error)


def report_failures(source: str, identity: Identity, number: int) -> None:
    """Log that requests were refused for their key, once for each burst."""
    key = f" ({identity.key.name})" if identity.key else ""
    logger.warning("%s from %s refused for %s%s", some(number, "request"), source, identity.why, key)
