"""Whether who was let in could come in again now: a session, a key, a permission or an address may be over by then."""

from collections.abc import Callable

from ccflare_core.clients.access import AccessLists, Caller
from ccflare_core.clients.authentication import OWNER, Authenticator, Identity
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.sessions import Sessions, identity_of
from ccflare_core.http.addresses import Address
from ccflare_mitm.pages.visit import WEB, Visit


class Standing:
    """Asks for those whose answer goes on. `wall` is in epoch seconds."""

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        access: AccessLists,
        wall: Callable[[], float],
    ) -> None:
        self._authenticator = authenticator
        self._sessions = sessions
        self._access = access
        self._wall = wall

    def may(self, visit: Visit, permission: Permission) -> bool:
        """Whether this visitor has the permission by now, and is still served."""
        if visit.by == WEB:  # its own login has no end
            return OWNER.may(permission)
        principal = self._identity(visit).principal
        caller = Caller(Address.parse(visit.address), visit.address, is_local=False)
        return principal is not None and principal.may(permission) and self._access.access.serves(caller)

    def _identity(self, visit: Visit) -> Identity:
        session, was = visit.session, visit.identity.principal
        if session is not None:
            is_on = self._sessions.is_on(session, self._wall())
            return identity_of(session, self._authenticator.ring, self._wall()) if is_on else Identity(None)
        return Identity(None) if was is None else self._authenticator.recall(was)
