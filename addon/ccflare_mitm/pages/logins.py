"""Logging in to our pages: by a client key that may see them, or by a link of the owner's; and logging out."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ccflare_core.audit.entries import By
from ccflare_core.clients.authentication import OWNER, Authenticator, Principal, Why, identify
from ccflare_core.clients.checks import SLOW_DOWN
from ccflare_core.clients.keys import Permission, is_key
from ccflare_core.clients.sessions import Begun, Session, Sessions
from ccflare_core.http.rejection import Rejection
from ccflare_core.secrets.start_links import Link
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.pages.visit import Visit

LINK_ACTOR = "dashboard"
"""Who came by a link, as the audit log calls them."""
NO_KEY = Rejection(401, "This is no valid client key of this proxy.", is_recorded=False)
NO_LINK = Rejection(401, "This link was used, or is too old.", is_recorded=False)
NOT_PERMITTED = Rejection(403, f"This client key has no permission {Permission.DASHBOARD_VIEW}.", is_recorded=False)
WORKERS = Rejection(
    403,
    "The workers of this proxy do not know each other's logins: start one more proxy on the same database, with a port "
    "of its own, and log in there.",
    is_recorded=False,
)
_MOST_USED = 10_000


class Logins:
    """Begins and ends sessions. What cannot be audited is not begun."""

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        read_link: Callable[[str], Awaitable[Link | None]],
        note: Callable[[By, str], Awaitable[None]],
        clock: Callable[[], float],
        auditor: Auditor | None = None,
        *,
        is_worker: bool = False,
    ) -> None:
        """`read_link` knows the links that were made for this run; `note` writes into the audit log.

        A worker (`is_worker`) begins no session: the browser's next connection may be another one's.
        """
        self.sessions = sessions
        self._authenticator = authenticator
        self._read_link = read_link
        self._note = note
        self._clock = clock
        self._auditor = auditor
        self._is_worker = is_worker
        self._used: dict[bytes, float] = {}

    async def by_key(self, key: str, visit: Visit) -> Begun | Rejection:
        """A session for who has this key. As anywhere, who fails too often waits, and a right one passes."""
        if self._is_worker:
            return WORKERS
        presented = [key] if is_key(key) else [""]
        identity = identify(self._authenticator.ring, presented, visit.at, is_local=False, open_loopback=False)
        if (principal := identity.principal) is None:
            rejection = self._wait(visit.address) or NO_KEY
            self._authenticator.count_failure(visit.address, identity, self._clock())
            return self._deny(visit, rejection, identity.why or Why.UNKNOWN, identity.actor)
        if not principal.may(Permission.DASHBOARD_VIEW):
            return self._deny(visit, NOT_PERMITTED, f"no permission {Permission.DASHBOARD_VIEW}", identity.actor)
        self._authenticator.renew(identity)
        return await self._begin(principal, By(identity.actor, visit.address))

    async def by_link(self, token: str, visit: Visit) -> Begun | Rejection:
        """A session for the owner, who got the link from the proxy's start or from a command."""
        if self._is_worker:
            return WORKERS
        link = await self._read_link(token)
        if link is None or link.nonce in self._used:
            return self._deny(visit, NO_LINK, "no valid link", "")
        self._used = {nonce: until for nonce, until in self._used.items() if until > visit.at}
        if len(self._used) >= _MOST_USED:
            return self._deny(visit, NO_LINK, "too many links", "")
        self._used[link.nonce] = link.until
        return await self._begin(OWNER, By(LINK_ACTOR, visit.address))

    async def _begin(self, principal: Principal, by: By) -> Begun:
        await self._note(by, "dashboard.login")
        return self.sessions.begin(principal, self._clock())

    async def end(self, session: Session, visit: Visit) -> None:
        """Log out."""
        self.sessions.end(session)
        await self._note(By(visit.actor, visit.address), "dashboard.logout")

    def _wait(self, address: str) -> Rejection | None:
        wait = self._authenticator.throttle.wait(address, self._clock())
        return replace(SLOW_DOWN, retry_after=wait) if wait else None

    def _deny(self, visit: Visit, rejection: Rejection, why: str, actor: str) -> Rejection:
        if self._auditor is not None:
            self._auditor.denied(visit.address, why, actor=actor, target=visit.path)
        return rejection


def is_forged(session: Session, token: str) -> bool:
    """Whether a change does not come from a page of this session's."""
    return not hmac.compare_digest(session.token.encode(), token.encode())
