"""Logging in to our pages: by a client key that may see them, or by a link of the owner's; and logging out."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ccflare_core.audit.entries import By
from ccflare_core.clients.authentication import Authenticator, Why, identify
from ccflare_core.clients.checks import SLOW_DOWN
from ccflare_core.clients.keys import Permission, is_key
from ccflare_core.clients.sessions import Begun, Session, Sessions
from ccflare_core.http.rejection import Rejection
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.pages.visit import Visit

LINK_ACTOR = "dashboard"
"""Who came by a link, as the audit log calls them."""
NO_KEY = Rejection(401, "This is no valid client key of this proxy.", is_recorded=False)
NO_LINK = Rejection(401, "This link was used, or is too old.", is_recorded=False)
NOT_PERMITTED = Rejection(403, f"This client key has no permission {Permission.DASHBOARD_VIEW}.", is_recorded=False)


async def tell_nobody(session: Session) -> None:
    """There are no others."""


class Logins:
    """Begins and ends sessions. What cannot be audited is not begun."""

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        use_link: Callable[[str], Awaitable[bool]],
        note: Callable[[By, str], Awaitable[None]],
        clock: Callable[[], float],
        auditor: Auditor | None = None,
        tell_end: Callable[[Session], Awaitable[None]] = tell_nobody,
    ) -> None:
        """`use_link` tells whether a link is good, once; `note` writes into the audit log; `clock` is monotonic.

        `tell_end` has all proxies on the database know of a session's end.
        """
        self.sessions = sessions
        self._authenticator = authenticator
        self._use_link = use_link
        self._note = note
        self._clock = clock
        self._auditor = auditor
        self._tell_end = tell_end

    async def by_key(self, key: str, visit: Visit) -> Begun | Rejection:
        """A session for who has this key. As anywhere, who fails too often waits, and a right one passes."""
        presented = [key] if is_key(key) else [""]
        identity = identify(self._authenticator.ring, presented, visit.at, is_local=False, open_loopback=False)
        if (principal := identity.principal) is None:
            rejection = self._wait(visit.address) or NO_KEY
            self._authenticator.count_failure(visit.address, identity, self._clock())
            return self._deny(visit, rejection, identity.why or Why.UNKNOWN, identity.actor)
        if not principal.may(Permission.DASHBOARD_VIEW):
            return self._deny(visit, NOT_PERMITTED, f"no permission {Permission.DASHBOARD_VIEW}", identity.actor)
        self._authenticator.renew(identity)
        whose = self._authenticator.ring.digest_of(key)
        return await self._begin(whose, By(identity.actor, visit.address), visit.at)

    async def by_link(self, token: str, visit: Visit) -> Begun | Rejection:
        """A session for the owner, who got the link from the proxy's start or from a command."""
        if not await self._use_link(token):
            return self._deny(visit, NO_LINK, "no valid link", "")
        return await self._begin(None, By(LINK_ACTOR, visit.address), visit.at)

    async def _begin(self, whose: bytes | None, by: By, now: float) -> Begun:
        await self._note(by, "dashboard.login")
        return self.sessions.begin(whose, now)

    async def end(self, session: Session, visit: Visit) -> None:
        """Log out."""
        self.sessions.end(session)
        await self._tell_end(session)
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
