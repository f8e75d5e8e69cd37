"""The tunnels that clients have opened: what comes through one counts as its opener's.

A connection that was upgraded, as to a WebSocket, is a tunnel in all but name: it ends with the key that asked for it.
"""

import logging
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client

from ccflare_core.clients.authentication import Authenticator, Principal

logger = logging.getLogger("ccflare")


class Tunnels:
    """Remembers who has opened which tunnel, for as long as its connection lives."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._openers: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()
        self._asking: WeakKeyDictionary[http.HTTPFlow, Principal] = WeakKeyDictionary()
        self._upgraders: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()

    def open(self, client: Client, principal: Principal) -> None:
        """The gate has let this connection become a tunnel."""
        self._openers[client] = principal

    def opener(self, client: Client) -> Principal | None:
        """Who has opened the tunnel that this connection is; None if it is none."""
        return self._openers.get(client)

    def is_open(self, client: Client) -> bool:
        """Whether this connection is a tunnel that the gate has let in."""
        return client in self._openers

    def note(self, flow: http.HTTPFlow, principal: Principal) -> None:
        """Remember who asks: its connection may become a tunnel by an upgrade."""
        self._asking[flow] = principal

    def upgraded(self, flow: http.HTTPFlow) -> None:
        """The connection goes on in another protocol, for the client that has asked for that."""
        if (principal := self._asking.get(flow)) is not None:
            self._upgraders[flow.client_conn] = principal

    def is_over(self, client: Client) -> bool:
        """Whether this connection is a tunnel, and what it was opened with would not open it again."""
        try:
            openers = (self._openers.get(client), self._upgraders.get(client))
            return any(self._has_lost(opener) for opener in openers if opener is not None)
        except Exception:
            logger.exception("A tunnel's key could not be looked at; the tunnel ends")
            return True

    def _has_lost(self, opener: Principal) -> bool:
        now = self._authenticator.recall(opener).principal
        return now is None or not opener.permissions <= now.permissions
