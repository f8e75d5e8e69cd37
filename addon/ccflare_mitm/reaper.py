"""Looks at every client's connection twice a second, and ends what nobody will end.

The stream layer only notes when it last heard of whom (`patience`). Comparing that with the clock for all of them here
costs nothing where chunks pass, and needs no timer for any of them. What is found reaches the layers as an event, in
mitmproxy's own way; what cannot be told to anybody is closed.

mitmproxy's own `tcp_timeout` counts any byte on a client's connection as life, so that one byte a second holds it for
ever, and calls an upstream's silence "Client disconnected". It stays for what is none of ours: tunnels that are passed
on unopened.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mitmproxy.connection import Client
from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server

from ccflare_core.settings import Settings
from ccflare_mitm.layer import Errand, FailoverLayer
from ccflare_mitm.patience import DeadlinePassed, Phase, ReaderStalled

logger = logging.getLogger("ccflare")

SWEEP_SECONDS = 0.5
"""How exactly deadlines are kept."""

NEVER = 10 * 365 * 86_400
REQUEST_TIMEOUT = 408


class Verdict(NamedTuple):
    """Why a connection is closed, and with which status if the client can be told."""

    why: str
    status: int | None = None


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


class Reaper:
    """See the module. `handlers` are mitmproxy's open connections, by the client's id."""

    def __init__(
        self,
        handlers: Mapping[Any, Any],
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self._clock = clock
        self._watches: dict[Any, Watch] = {}

    def watch(self, layer: FailoverLayer) -> None:
        """Look after this layer, the innermost of its client's connection."""
        if watch := self._watch(layer.context.client.id):
            watch.layer, watch.since = layer, self._clock()

    def let_go(self, client: Client) -> None:
        """Leave this connection to mitmproxy's `tcp_timeout`: what is in it is none of our business."""
        if watch := self._watch(client.id):
            watch.is_foreign = True
            watch.handler.timeout_watchdog.timeout = watch.tcp_timeout

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except Exception:
                logger.exception("Deadlines could not be kept; they will be tried again")

    async def sweep(self) -> None:
        """Look at everything once."""
        now, settings = self._clock(), self._settings()
        closed: Counter[str] = Counter()
        for key in self._watches.keys() - self._handlers.keys():
            del self._watches[key]
        for key in list(self._handlers):
            watch = self._watch(key)
            if watch is None or watch.is_foreign:
                continue
            if verdict := await self._look(watch, now, settings):
                closed[verdict.why] += 1
        for why, count in closed.items():
            logger.info("%d client connection%s closed: %s", count, "s" * (count > 1), why)

    def _watch(self, key: Any) -> Watch | None:
        if key not in self._watches and (handler := self._handlers.get(key)) is not None:
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
        errand = Errand(layer)
        for stream in layer.open_streams():
            if unread and stream.patience.phase is Phase.ANSWER:
                stream.patience.heard_at = now  # its upstream is not read while the client lags behind
            elif stream.patience.is_over(now):
                errand.messages.append((stream, DeadlinePassed()))
        waiting = layer.waiting_bytes()
        errand.stalled = self._stalled_streams(watch, waiting, now, settings)
        verdict = None if unread or waiting else self._idle(watch, layer, now, settings)
        if verdict is not None:
            errand.farewell = (verdict.status,)
        if errand.messages or errand.stalled or errand.farewell:
            await self._send(watch, errand)
        return verdict

    def _close_silent(self, watch: Watch, now: float, settings: Settings) -> Verdict | None:
        """Before there is a layer of ours nobody can be told."""
        if now - watch.since < settings.client_head_seconds:
            return None
        watch.handler.close_connection(watch.handler.client)
        return Verdict(f"no request within {settings.client_head_seconds} s")

    def _idle(self, watch: Watch, layer: FailoverLayer, now: float, settings: Settings) -> Verdict | None:
        """Whether a connection without an open request has been waited for long enough."""
        reader = layer.reader
        if layer.is_busy():
            return None
        if isinstance(reader, Http1Server):
            partial, first = bool(reader.buf), reader.stream_id == 1
            if reader.state == reader.read_headers and partial:
                if watch.head[0] != reader.stream_id:
                    watch.head = (reader.stream_id, watch.since if first else now)
                if now - watch.head[1] >= settings.client_head_seconds:
                    return Verdict(
                        f"no whole head of a request within {settings.client_head_seconds} s", REQUEST_TIMEOUT
                    )
                return None
        else:
            first = isinstance(reader, Http2Server) and reader.h2_conn.highest_inbound_stream_id == 0
        if first and now - watch.since >= settings.client_head_seconds:
            return Verdict(f"no request within {settings.client_head_seconds} s")
        if now - layer.active_at >= settings.client_idle_seconds:
            return Verdict(f"idle for {settings.client_idle_seconds} s")
        return None

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
        if layer := watch.layer:
            streams = [(stream, ReaderStalled()) for stream in layer.open_streams()]
            await self._send(watch, Errand(layer, messages=[*streams]))
        if connection := watch.handler.transports.get(watch.handler.client):
            reset(connection.writer)
        return Verdict(f"nothing read for {settings.client_stall_seconds} s")

    async def _send(self, watch: Watch, errand: Errand) -> None:
        """Bring an errand to its layer as the end of a wait, which mitmproxy's layers around it hand through."""
        for outer, inner in itertools.pairwise(errand.layer.context.layers):
            if isinstance(outer, HttpLayer):
                outer.command_sources[errand] = inner
        await watch.handler.server_event(events.Wakeup(errand))


def unread_bytes(handler: Any) -> int:
    """How much a client has not taken yet, as soon as some of that waits in this process; 0 else."""
    connection = handler.transports.get(handler.client)
    transport = getattr(connection.writer, "transport", None) if connection else None
    waiting = int(transport.get_write_buffer_size()) if transport is not None else 0
    return waiting + unacknowledged_bytes(connection.writer.get_extra_info("socket")) if waiting else 0


def unacknowledged_bytes(peer: Any) -> int:
    """How much of it waits in the kernel (Linux; else 0), which asks for more only once a third of its buffer is free.

    Without this a client that reads slowly would for a while look like one that does not read.
    """
    with contextlib.suppress(OSError, AttributeError):
        return int(struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    return 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with what waits in it, here and in the kernel."""
    if (peer := writer.get_extra_info("socket")) is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
