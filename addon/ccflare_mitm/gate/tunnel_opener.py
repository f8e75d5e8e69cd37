"""Opens tunnels to other hosts: it looks where they lead, and for client keys counts them and keeps a record of them.

A connection to a server passes here too, whoever it is for, so that none leads back to this proxy.
"""

import logging
import secrets
from collections.abc import Callable
from typing import Final

from mitmproxy import http
from mitmproxy.proxy.mode_specs import UpstreamMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.exchange.records import Record, TunnelEnded, TunnelOpened
from ccflare_core.http import failure_words
from ccflare_core.http.rejection import Rejection
from ccflare_core.text import to_ms
from ccflare_mitm.gate.destinations import Destinations, Target
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.tunnel_story import TunnelStory
from ccflare_mitm.gate.tunnels import AskedFor

logger = logging.getLogger("ccflare")

NOT_LOOKED_AT: Final = "nobody could look where it leads"


class TunnelOpener:
    """See the module. `put` gets what is to be recorded, `records` says whether that is wanted of a key's mode."""

    def __init__(
        self,
        gate: Gate,
        destinations: Destinations,
        rates: RateLimits,
        put: Callable[[Record], None],
        *,
        run_id: str,
        wall: Callable[[], float],
        records: Callable[[str | None], bool],
    ) -> None:
        self._gate = gate
        self._destinations = destinations
        self._rates = rates
        self._put = put
        self._run_id = run_id
        self._wall = wall
        self._records = records

    async def connect(self, flow: http.HTTPFlow) -> None:
        """A client asks for a tunnel: decide whether it may have it.

        A key's request is counted before anything is awaited, and until the tunnel ends.
        """
        self._gate.enter(flow, is_connect=True)
        if (asked := self._gate.tunnels.take_asked(flow)) is None:
            return
        story = self._begin(flow, asked)
        try:
            found = await self._find(flow, is_limited=story is not None)
        except BaseException:
            self._refuse(flow, asked, story, Rejection(500, "Nobody could look where this tunnel leads."))
            raise
        if isinstance(found, Rejection):
            self._refuse(flow, asked, story, found)
        elif flow.client_conn.timestamp_end is not None:
            self._end(story)  # the client has left meanwhile, and nobody will say so again
        else:
            if story is not None:
                story.address = found.address
                self._record(story)
            self._gate.tunnels.open(flow, asked.principal, story)

    def _begin(self, flow: http.HTTPFlow, asked: AskedFor) -> TunnelStory | None:
        key, request = asked.principal.key, flow.request
        if key is None:
            return None
        host = request.host.lower()[:255]
        return TunnelStory(asked.principal, key, asked.client_ip, host, request.port, asked.at, self._give_back)

    async def _find(self, flow: http.HTTPFlow, *, is_limited: bool) -> Target | Rejection:
        is_indirect = isinstance(flow.client_conn.proxy_mode, UpstreamMode)
        host, port = flow.request.host.lower(), flow.request.port
        return await self._destinations.find(host, port, is_limited=is_limited, is_indirect=is_indirect)

    def _refuse(self, flow: http.HTTPFlow, asked: AskedFor, story: TunnelStory | None, why: Rejection) -> None:
        self._gate.refuse_tunnel(flow, asked, why)
        self._end(story)
        logger.warning("no tunnel for %s: %s", asked.client_ip, why.message)

    def _end(self, story: TunnelStory | None) -> None:
        if story is not None:
            story.end("not opened")

    async def aim(self, data: ServerConnectionHookData) -> None:
        """A server is about to be connected to: at the address that was looked at, and never at this proxy."""
        server = data.server
        if not server.address:
            return
        story = self._gate.tunnels.story(server)
        if story is not None:
            if story.address is not None:
                server.address = (str(story.address), story.port)
            elif not isinstance(data.client.proxy_mode, UpstreamMode):
                server.error = NOT_LOOKED_AT
        elif await self._destinations.comes_back(*server.address[:2]):
            server.error = failure_words.COMES_BACK

    def failed(self, data: ServerConnectionHookData) -> None:
        """A server could not be connected to. An exchange tells that in its own line; a tunnel gets one here."""
        if self._gate.tunnels.is_open(data.server) and data.server.address:
            host, port = data.server.address[:2]
            why = failure_words.of(data.server.error or "")
            logger.warning("no tunnel to %s:%d for %s: %s", host[:255], port, data.client.peername[0], why)

    # The record

    def _record(self, story: TunnelStory) -> None:
        key, address = story.key, story.address and str(story.address)
        id = f"tun_{secrets.token_hex(12)}"
        is_recorded = self._records(key.record)
        where = (story.client_ip, story.host, story.port, address)
        if is_recorded:
            self._put(TunnelOpened(id, key.id, key.name, *where, self._run_id, to_ms(story.began.wall)))

        def ended(story: TunnelStory, why: str) -> None:
            self._give_back(story, why)
            if is_recorded:
                at = to_ms(self._wall())
                self._put(TunnelEnded(id, at, story.sent_bytes, story.received_bytes, why))

        story.on_end = ended

    def _give_back(self, story: TunnelStory, why: str) -> None:
        self._rates.ended(story.key, story.began.wall, None, None, spends=False)
