"""The tunnels that clients have opened: what comes through one counts as its opener's.

A connection that was upgraded, as to a WebSocket, is a tunnel in all but name: it ends with the key that asked for it.
"""

import logging
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client, Server

from ccflare_core.clients.authentication import Authenticator, Principal
from ccflare_core.clients.rate_limits import Moment
from ccflare_mitm.gate.tunnel_story import TunnelStory

logger = logging.getLogger("ccflare")

KEY_OVER: Final = "the client key that the tunnel was opened with is over"


class AskedFor(NamedTuple):
    """A tunnel to another host that the gate has nothing against: by whom, from where, and when."""

    principal: Principal
    client_ip: str
    at: Moment


class Tunnels:
    """Remembers who has opened which tunnel, for as long as its connection lives."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._openers: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()
        self._open: WeakKeyDictionary[Server, TunnelStory | None] = WeakKeyDictionary()
        self._stories: WeakKeyDictionary[Client, list[TunnelStory]] = WeakKeyDictionary()
        self._asked_for: WeakKeyDictionary[http.HTTPFlow, AskedFor] = WeakKeyDictionary()
        self._asking: WeakKeyDictionary[http.HTTPFlow, Principal] = WeakKeyDictionary()
        self._upgraders: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()

    def ask(self, flow: http.HTTPFlow, asked: AskedFor) -> None:
        """The CONNECT of `flow` may make a tunnel, if it leads where it may."""
        self._asked_for[flow] = asked

    def take_asked(self, flow: http.HTTPFlow) -> AskedFor | None:
        """What was asked for by `flow`, once."""
        return self._asked_for.pop(flow, None)

    def open(self, flow: http.HTTPFlow, principal: Principal, story: TunnelStory | None = None) -> None:
        """The gate lets the CONNECT of `flow` make a tunnel. There is a `story` if it is one that is looked after."""
        self._openers[flow.client_conn] = principal
        self._open[flow.server_conn] = story
        if story is not None:
            self._stories.setdefault(flow.client_conn, []).append(story)

    def opener(self, client: Client) -> Principal | None:
        """Who has opened the tunnel that this connection is; None if it is none."""
        return self._openers.get(client)

    def is_open(self, server: Server) -> bool:
        """Whether the gate has let in the tunnel that leads to this connection."""
        return server in self._open

    def story(self, server: Server) -> TunnelStory | None:
        """That of the tunnel which leads to this connection, if it is one that is looked after."""
        return self._open.get(server)

    def note(self, flow: http.HTTPFlow, principal: Principal) -> None:
        """Remember who asks: its connection may become a tunnel by an upgrade."""
        self._asking[flow] = principal

    def asker(self, flow: http.HTTPFlow) -> Principal | None:
        """Who has asked; None if that is not remembered."""
        return self._asking.get(flow)

    def upgraded(self, flow: http.HTTPFlow) -> None:
        """The connection goes on in another protocol, for the client that has asked for that."""
        if (principal := self._asking.get(flow)) is not None:
            self._upgraders[flow.client_conn] = principal

    def left(self, client: Client) -> None:
        """The client's connection is closed, and so are its tunnels."""
        for story in self._stories.pop(client, ()):
            story.end("closed")

    def close(self) -> None:
        """The proxy stops."""
        for stories in self._stories.values():
            for story in stories:
                story.end("the proxy stopped")

    def is_over(self, client: Client) -> bool:
        """Whether this connection is a tunnel, and what it was opened with would not open it again."""
        try:
            openers = (self._openers.get(client), self._upgraders.get(client))
            is_over = any(self._has_lost(opener) for opener in openers if opener is not None)
            is_over = is_over or any(self._may_no_longer(story) for story in self._stories.get(client, ()))
        except Exception:
            logger.exception("A tunnel's key could not be looked at; the tunnel ends")
            return True
        for story in self._stories.get(client, ()) if is_over else ():
            story.end(KEY_OVER)
        return is_over

    def _has_lost(self, opener: Principal) -> bool:
        now = self._authenticator.recall(opener).principal
        return now is None or not opener.permissions <= now.permissions

    def _may_no_longer(self, story: TunnelStory) -> bool:
        """Whether its key may not open such a tunnel any more."""
        now = self._authenticator.recall(story.principal).principal
        return not story.is_over and (now is None or now.key is None or not now.key.tunnels)
