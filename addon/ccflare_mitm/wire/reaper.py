"""Looks at every client's connection twice a second and ends those that are overdue, abandoned or no longer allowed.

The stream layer only notes when it last heard of whom (`deadlines`). Comparing that with the clock for all of them here
costs nothing where chunks pass, and needs no timer for any of them. What is found reaches the layers as an event, in
mitmproxy's own way; what cannot be told to anybody is closed.

mitmproxy's own `tcp_timeout` counts any byte on a client's connection as life, so that one byte a second holds it for
ever, and calls an upstream's silence "Client disconnected". It stays for what is none of ours: tunnels that are passed
on unopened.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from mitmproxy.connection import Client
from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.clients.strangers import Strangers
from ccflare_core.config.settings import Settings
from ccflare_core.text import some
from ccflare_mitm.wire.deadlines import DeadlinePassed, ReaderStalled, TunnelOver
from ccflare_mitm.wire.layer import FailoverLayer, LayerCommand
from ccflare_mitm.wire.sockets import most_clients, pause_reading, reset, unread_bytes, unsent_bytes
from ccflare_mitm.wire.states import State

logger = logging.getLogger("ccflare")

SWEEP_SECONDS = 0.5
"""How exactly deadlines are kept."""

NEVER = 10 * 365 * 86_400
REQUEST_TIMEOUT = 408


class Verdict(NamedTuple):
    """Why a connection is closed, and with which status if the client can be told."""

    why: str
    status: int | None = None


UNTOLD: Final = Verdict("nobody was identified on it")
"""Anybody could fill the log with these."""


class Standstill:
    """How long a number of bytes that wait has not gone down."""

    def __init__(self) -> None:
        self._value = 0
        self._since = 0.0

    def seconds(self, value: int, now: float) -> float:
        """Note the number as it is `now`; the seconds since it went down, 0 while nothing waits."""
        if not value or not self._value or value < self._value:
            self._since = now
        self._value = value
        return now - self._since


@dataclass(slots=True)
class Watch:
    """What is known of one client's connection."""

    handler: Any
    """mitmproxy's ConnectionHandler."""
    since: float
    """When its innermost layer began."""
    tcp_timeout: float
    layer: FailoverLayer | None = None
    is_foreign: bool = False
    head: tuple[int, float] = (-1, 0.0)
    """Which request's head is incomplete, by its stream id, and since when."""
    unread: Standstill = field(default_factory=Standstill)
    streams: dict[int, Standstill] = field(default_factory=dict)
    """The same for each HTTP/2 stream whose window is closed."""


NEW_SECONDS = 1.0
"""How long a connection's first request may take to come, in a stop: who connects to ask does so at once."""


def _is_new(watch: Watch, now: float) -> bool:
    awaits = watch.layer is None or watch.layer.awaits_first_request()
    return awaits and now - watch.since < NEW_SECONDS


UPSTREAM_CONNECTIONS = 100
"""How many one client may have to a host: as many as it may have streams."""


class Reaper:
    """See the module. `handlers` are mitmproxy's open connections, by the client's id.

    `is_over` tells of a client's connection that it is a tunnel and its key is over; `strangers` which connections
    nobody has been identified on.
    """

    def __init__(
        self,
        handlers: Mapping[Any, Any],
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
        is_over: Callable[[Client], bool] = lambda client: False,
        strangers: Strangers | None = None,
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self._clock = clock
        self._watches: dict[Any, Watch] = {}
        self._is_over = is_over
        self._strangers = strangers or Strangers()
        self._turned_away = 0
        self._hurried = asyncio.Event()

    def takes_more(self) -> bool:
        """Whether the newest of the open connections, which is among them already, is not one too many."""
        fits = len(self._handlers) <= most_clients(self._settings())
        self._turned_away += not fits
        return fits

    def watch(self, layer: FailoverLayer) -> None:
        """Look after this layer, the innermost of its client's connection."""
        if watch := self._watch(layer.context.client.id):
            watch.layer, watch.since = layer, self._clock()

    def let_go(self, client: Client) -> None:
        """Leave this connection to mitmproxy's `tcp_timeout`: what is in it is none of our business."""
        if watch := self._watch(client.id):
            watch.is_foreign = True
            watch.handler.timeout_watchdog.timeout = watch.tcp_timeout

    def leave_unread(self, client: Client, is_left: bool) -> None:
        """Stop reading a client's connection, so that it cannot send faster than its data can go on; or read again."""
        if handler := self._handlers.get(client.id):
            pause_reading(handler, is_left)

    def unsent_bytes(self, client: Client, server: Any) -> int:
        """How much waits in this process for a server of the client's."""
        handler = self._handlers.get(client.id)
        return unsent_bytes(handler, server) if handler else 0

    def unserved(self) -> int:
        """How many connections would be cut off in a stop now: a first request may be on its way there, as they have
        just come, or the client has not taken all of its answer yet.
        """
        now = self._clock()
        watches = [watch for key in list(self._handlers) if (watch := self._watch(key)) and not watch.is_foreign]
        return sum(_is_new(watch, now) or unread_bytes(watch.handler) > 0 for watch in watches)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), SWEEP_SECONDS)
            self._hurried.clear()
            await self.sweep()

    def hurry(self) -> None:
        """Sweep at once: the client keys are others now."""
        self._hurried.set()

    async def sweep(self) -> None:
        """Look at everything once."""
        now, settings = self._clock(), self._settings()
        closed: Counter[str] = Counter()
        for key in self._watches.keys() - self._handlers.keys():
            del self._watches[key]
        for key in list(self._handlers):
            watch = self._watch(key)
            if watch is None:
                continue
            try:
                if self._is_over(watch.handler.client):
                    verdict = await self._end_tunnel(watch)
                elif self._strangers.is_overdue(watch.handler.client.id):
                    watch.handler.close_connection(watch.handler.client)
                    verdict = UNTOLD
                elif not watch.is_foreign:
                    verdict = await self._look(watch, now, settings)
                else:
                    continue
            except Exception:  # one connection's trouble is not that of the others
                logger.exception("The deadlines of a connection could not be kept; it is tried again")
                continue
            if verdict is not None and verdict is not UNTOLD:
                closed[verdict.why] += 1
        if self._turned_away:
            logger.warning("%d client connections were refused: %d are open", self._turned_away, len(self._handlers))
            self._turned_away = 0
        for why, count in closed.items():
            logger.info("%s closed: %s", some(count, "client connection"), why)

    def _watch(self, key: Any) -> Watch | None:
        if key not in self._watches and (handler := self._handlers.get(key)) is not None:
            # mitmproxy has five for a client and a host, and a client's HTTP/2 streams have a connection upstream each.
            handler.max_conns = defaultdict(lambda: asyncio.Semaphore(UPSTREAM_CONNECTIONS))
            watchdog = handler.timeout_watchdog
            self._watches[key] = Watch(handler, self._clock(), watchdog.timeout)
            if handler.client.transport_protocol == "tcp":
                watchdog.timeout = NEVER
        return self._watches.get(key)

    async def _look(self, watch: Watch, now: float, settings: Settings) -> Verdict | None:
        unread = unread_bytes(watch.handler)
        if watch.unread.seconds(unread, now) >= settings.client_stall_seconds:
            return await self._cut_off(watch, settings)
        layer = watch.layer
        if layer is None:
            return self._close_silent(watch, now, settings)
        command, waiting, streams = LayerCommand(layer), layer.waiting_bytes(), layer.open_streams()
        for stream in streams:
            stream.note_progress()
            if unread and stream.state is State.RELAYING:
                stream.deadlines.heard_at = now  # its upstream is not read while the client lags behind
            if stream.deadlines.is_over(now):
                command.messages.append((stream, DeadlinePassed()))
        command.stalled = self._stalled_streams(watch, waiting, now, settings)
        verdict = None
        if all(stream.is_pipe for stream in streams) and not (unread or waiting):
            verdict = self._idle(watch, layer, now, settings)
        if verdict is not None:
            command.close_status = (verdict.status,)
        if command.messages or command.stalled or command.close_status:
            await command.bring(watch.handler)
        return verdict

    def _close_silent(self, watch: Watch, now: float, settings: Settings) -> Verdict | None:
        """Before there is a layer of ours nobody can be told."""
        if now - watch.since < settings.client_head_seconds:
            return None
        watch.handler.close_connection(watch.handler.client)
        return Verdict(f"no request within {settings.client_head_seconds} s")

    def _idle(self, watch: Watch, layer: FailoverLayer, now: float, settings: Settings) -> Verdict | None:
        """Whether a connection without an open request has been waited for long enough."""
        if self._strangers.is_refused(watch.handler.client.id):
            return UNTOLD
        begun = self._head_begun(watch, layer, now)
        if begun is not None and now - begun >= settings.client_head_seconds:
            return Verdict(f"no whole head of a request within {settings.client_head_seconds} s", REQUEST_TIMEOUT)
        if begun is None and now - layer.active_at >= settings.client_idle_seconds:
            return Verdict(f"idle for {settings.client_idle_seconds} s")
        return None

    def _head_begun(self, watch: Watch, layer: FailoverLayer, now: float) -> float | None:
        """Since when the head of a request is under way, the first one's from the start; None between requests."""
        if layer.awaits_first_request():
            return watch.since
        reader = layer.reader
        if not isinstance(reader, Http1Server) or reader.state != reader.read_headers or not reader.buf:
            return None
        if watch.head[0] != reader.stream_id:
            watch.head = (reader.stream_id, now)
        return watch.head[1]

    def _stalled_streams(self, watch: Watch, waiting: dict[int, int], now: float, settings: Settings) -> list[int]:
        """Those HTTP/2 streams of which nothing is taken; `waiting` has the bytes that wait in each."""
        for gone in watch.streams.keys() - waiting.keys():
            del watch.streams[gone]
        standing = {
            stream_id: watch.streams.setdefault(stream_id, Standstill()).seconds(size, now)
            for stream_id, size in waiting.items()
        }
        return [stream_id for stream_id, seconds in standing.items() if seconds >= settings.client_stall_seconds]

    async def _cut_off(self, watch: Watch, settings: Settings) -> Verdict:
        """End a connection whose client reads nothing; what waits for it would keep it open after a proper close."""
        await self._tell_streams(watch, ReaderStalled())
        if connection := watch.handler.transports.get(watch.handler.client):
            reset(connection.writer)
        return Verdict(f"nothing read for {settings.client_stall_seconds} s")

    async def _end_tunnel(self, watch: Watch) -> Verdict | None:
        """Cut a tunnel with all that goes on in it; None if it is gone already.

        Whatever is inside may be in the middle of anything, and of a foreign tunnel only its ends are known.
        """
        handler = watch.handler
        if handler.client not in handler.transports:
            return None
        try:
            await self._tell_streams(watch, TunnelOver())
        finally:
            if connection := handler.transports.get(handler.client):
                reset(connection.writer)
                handler.close_connection(handler.client)  # mitmproxy would wait for the server of a raw tunnel
        return Verdict("the client key that the tunnel was opened with is over")

    async def _tell_streams(self, watch: Watch, event: events.Event) -> None:
        """Tell all requests of a connection; what is a pipe by now has its own protocol, and hears of the close."""
        if layer := watch.layer:
            streams = [(stream, event) for stream in layer.open_streams() if not stream.is_pipe]
            await LayerCommand(layer, messages=streams).bring(watch.handler)
