"""Our HTTP layer: mitmproxy's with our streams in it, hooks run on the spot, one socket write per event."""

import itertools
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

from mitmproxy import flow, http
from mitmproxy.connection import Connection
from mitmproxy.net.http import http1
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import ClientTLSLayer, DNSLayer, TCPLayer, UDPLayer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, HttpStream, RegisterHttpConnection
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpConnectUpstreamHook
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server

from ccflare_core.anthropic.answers import Answer, error
from ccflare_core.http import failure_words
from ccflare_core.secrets.echo import trace
from ccflare_mitm.host.contract import json_error_page
from ccflare_mitm.host.messages import make_response
from ccflare_mitm.host.peers import closing
from ccflare_mitm.wire.deadlines import ReaderStalled
from ccflare_mitm.wire.hooks import ResumeHook, subject_of
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.stream import FailoverStream
from ccflare_mitm.wire.way_out import introduce

logger = logging.getLogger("ccflare")

UNREAD_BYTES = 1024 * 1024
"""How much a client may send that is no whole head, or no whole line of chunked framing: mitmproxy keeps all of it.

The gate allows less, but needs a whole head to say so and to write a row.
"""


_PEER = re.compile(r"(?:\[[0-9a-f:.]+\]|[0-9.]+):\d+: ")
"""Whom a line of mitmproxy's log is about, which stands in front of some."""


@dataclass(eq=False)
class LayerCommand(commands.RequestWakeup):
    """What the reaper, or the feeder, has a layer do to its streams or its connection.

    mitmproxy never sees it as a command, which it would wait for. It is handed to the layer as if its wait were over.
    """

    layer: "FailoverLayer"
    """The layer that does it; the layers around it hand it through."""
    messages: list[tuple[FailoverStream, events.Event]] = field(default_factory=list)
    """Events, each with the stream that it is for."""
    stalled: list[int] = field(default_factory=list)
    """Ids of HTTP/2 streams whose client does not take what waits for it."""
    close_status: tuple[int | None] | None = None
    """Set: close the client's connection, with this status (if any) when a request's head is only half here."""
    delay: float = 0.0

    async def bring(self, handler: Any) -> None:
        """Hand it to its layer as the end of a wait, which mitmproxy's layers around it hand through.

        `handler` is mitmproxy's ConnectionHandler of the client.
        """
        for outer, inner in itertools.pairwise(self.layer.context.layers):
            if isinstance(outer, HttpLayer):
                outer.command_sources[self] = inner
        await handler.server_event(events.Wakeup(self))


class FailoverLayer(HttpLayer):
    """mitmproxy's HTTP layer with our streams in it, and one socket write per event."""

    def __init__(self, context: Context, mode: HTTPMode, services: Services) -> None:
        super().__init__(context, mode)
        self.services = services
        self.used: WeakSet[Connection] = WeakSet()
        """Server connections that have carried a request already."""
        self.is_inside_upstream = False
        self.active_at = time.monotonic()
        """When something last came, from whomever."""
        self._attempt_ids = itertools.count(2, 2)
        self._intercepted: dict[flow.Flow, commands.StartHook] = {}

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Pass on what mitmproxy's layer wants done, with neighbouring writes joined and hooks run on the spot.

        An upstream packet with many events would otherwise cost a system call for each on the way to the client, and
        each hook a task.
        """
        if is_traffic := isinstance(event, events.ConnectionEvent):
            self.active_at = time.monotonic()
        self.is_inside_upstream = is_traffic and event.connection is not self.context.client  # type: ignore[attr-defined]
        try:
            writes = Writes()
            sources = [self._commands(event)]  # a stack: what a hook leads to comes before what follows the hook
            while sources:
                for command in sources[-1]:
                    if type(command) is commands.SendData:
                        yield from writes.add(command)
                    elif (
                        isinstance(command, commands.StartHook)
                        and not isinstance(command, ResumeHook)  # mitmproxy's to wait for
                        and self.services.hooks.run(command)
                    ):
                        subject = subject_of(command)
                        if (held := self._held_by_user(command, subject)) is None:
                            sources.append(self._completed(events.HookCompleted(command), subject))
                            break
                        yield from writes.flush()
                        yield held
                    else:
                        yield from writes.flush()
                        yield in_words(command) if isinstance(command, commands.Log) else command
                else:
                    sources.pop()
            yield from writes.flush()
        except Exception as problem:
            # mitmproxy would log this and leave the client hanging.
            logger.error("ccflare failed inside; the client's connection is closed\n%s", trace(problem))
            for stream in self.open_streams():
                stream.abandon()
            yield commands.CloseConnection(self.context.client)

    def _commands(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup) and isinstance(event.command, LayerCommand) and event.command.layer is self:
            return self._carry_out(event.command)
        if isinstance(event, events.HookCompleted) and isinstance(event.command, ResumeHook):
            event = events.HookCompleted(self._intercepted.pop(event.command.flow))
        if isinstance(event, events.HookCompleted):
            return self._completed(event, subject_of(event.command))
        if isinstance(event, events.DataReceived) and event.connection is self.context.client:
            return self._read_client(event)
        handled: CommandGenerator[None] = super()._handle_event(event)
        return handled

    def _completed(self, event: events.HookCompleted, subject: Any) -> CommandGenerator[None]:
        """A hook is done, or what the user has held goes on. Whatever addons did, what was decided stands."""
        if isinstance(subject, http.HTTPFlow):
            self.services.decisions.uphold(subject)
            if isinstance(event.command, HttpConnectUpstreamHook):
                introduce(subject)
        handled: CommandGenerator[None] = super()._handle_event(event)
        return handled

    def event_to_child(self, child: Any, event: events.Event) -> CommandGenerator[None]:
        """As mitmproxy's; with the head of an answer of ours go the cookies that its flow does not show."""
        if type(event) is ResponseHeaders:
            event = self._with_cookies(child, event)
            if self._is_last(child, event.response):
                event = replace(event, response=closing(event.response))
        handled: CommandGenerator[None] = super().event_to_child(child, event)
        return handled

    def _with_cookies(self, child: Any, head: ResponseHeaders) -> ResponseHeaders:
        stream = self.streams.get(head.stream_id)
        if stream is None or child is stream or not (cookies := self.services.decisions.unshown(stream.flow)):
            return head
        response = head.response.copy()
        response.headers.fields = (*response.headers.fields, *cookies)
        return ResponseHeaders(head.stream_id, response, head.end_stream)

    def _is_last(self, child: Any, response: http.Response) -> bool:
        """Whether this goes to an HTTP/1 client whose connection is to end with it, as the proxy stops."""
        if not self.services.is_stopping() or not isinstance(child, Http1Server) or response.status_code < 200:
            return False
        return child.request is None or child.request.method != "CONNECT"

    def _read_client(self, event: events.DataReceived) -> CommandGenerator[None]:
        """Hand over what the client sent, and hang up if it keeps sending what cannot be read as anything."""
        yield from super()._handle_event(event)
        reader = self.connections.get(self.context.client)
        if not isinstance(reader, Http1Server) or len(reader.buf) <= UNREAD_BYTES:
            return
        if reader.state == reader.wait and len(reader.buf) <= UNREAD_BYTES + self.services.body_limit:
            return  # the next request, ahead of its time
        told = "A client sent %d bytes that are no request; its connection is closed"
        logger.warning(told, len(reader.buf), extra={"client": self.context.client.peername})
        if reader.state != reader.read_headers and (stream := self.streams.get(reader.stream_id)) is not None:
            gone = RequestProtocolError(reader.stream_id, failure_words.NO_REQUEST, ErrorCode.GENERIC_CLIENT_ERROR)
            yield from self.event_to_child(stream, gone)
        yield from self._turn_away(431)

    def _turn_away(self, status: int | None) -> CommandGenerator[None]:
        """Close the client's connection, with this status if it is in the middle of a head and can be told."""
        reader = self.reader
        if isinstance(reader, Http1Server):
            if status is not None and reader.state == reader.read_headers and reader.buf:
                yield commands.SendData(self.context.client, json_error_page(status))
            reader.buf.maybe_extract_at_most(len(reader.buf))
            reader.state = reader.done
        elif isinstance(reader, Http2Server):
            reader.h2_conn.close_connection()
            yield commands.SendData(self.context.client, reader.h2_conn.data_to_send())
        yield commands.CloseConnection(self.context.client)

    def _held_by_user(self, hook: commands.StartHook, subject: Any) -> ResumeHook | None:
        """What to wait for before the hook is complete, if the user has intercepted its flow."""
        if not isinstance(subject, flow.Flow) or not subject.intercepted:
            return None
        self._intercepted[subject] = hook
        held = ResumeHook(subject)
        held.blocking = self  # type: ignore[assignment]  # already taken care of: only this stream waits, not all of us
        return held

    def make_stream(self, stream_id: int) -> CommandGenerator[None]:
        stream = FailoverStream(fork(self.context), stream_id, self)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def register_connection(self, command: RegisterHttpConnection) -> CommandGenerator[None]:
        """As mitmproxy's; of a failure it is told whether it is the proxy's on the way."""
        if command.err and self.services.proof.is_on_the_way(command.connection):
            command.err = failure_words.on_the_way(command.err)
        yield from super().register_connection(command)

    def open_attempt(self, stream: HttpStream) -> int:
        """A fresh stream id whose upstream events go to `stream`."""
        attempt_id = next(self._attempt_ids)
        self.streams[attempt_id] = stream
        return attempt_id

    def close_attempt(self, attempt_id: int) -> None:
        """Events of this attempt that still come go nowhere."""
        self.streams.pop(attempt_id, None)

    # For the reaper

    @property
    def reader(self) -> layer.Layer | None:
        """mitmproxy's end of the client's connection."""
        return self.connections.get(self.context.client)

    def open_streams(self) -> set[FailoverStream]:
        """The requests that are not over, each once: a stream is also known by the ids of its attempts."""
        return {stream for stream in self.streams.values() if isinstance(stream, FailoverStream)}

    def awaits_first_request(self) -> bool:
        """Whether there has been none, but maybe for a tunnel."""
        reader = self.reader
        if isinstance(reader, Http2Server):
            return bool(reader.h2_conn.highest_inbound_stream_id == 0)
        if not isinstance(reader, Http1Server) or reader.stream_id > 1:
            return False
        return all(stream.flow.request.method == "CONNECT" for stream in self.open_streams())

    def waiting_bytes(self) -> dict[int, int]:
        """How much waits for a client, by its HTTP/2 stream, because it has not opened the stream's window."""
        reader = self.reader
        if not isinstance(reader, Http2Server):
            return {}
        buffers = reader.h2_conn.stream_buffers
        return {stream_id: sum(len(piece.data) for piece in pieces) for stream_id, pieces in buffers.items()}

    def _carry_out(self, command: LayerCommand) -> CommandGenerator[None]:
        for stream, event in command.messages:
            yield from self.event_to_child(stream, event)
        for stream_id in command.stalled:
            if (waiting := self.streams.get(stream_id)) is not None:
                yield from self.event_to_child(waiting, ReaderStalled())
            stop = ResponseProtocolError(stream_id, "not read", ErrorCode.CANCEL)
            yield from self.event_to_child(self.connections[self.context.client], stop)
        if command.close_status is not None and all(stream.is_pipe for stream in self.open_streams()):
            # No request has come since the reaper looked.
            yield from self._turn_away(*command.close_status)


LARGE = 256 * 1024
"""To copy so much takes longer than to write it by itself."""


class Writes:
    """Data that waits for more to the same connection."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._parts: list[bytes] = []

    def add(self, command: commands.SendData) -> Iterable[commands.Command]:
        """Keep this; what has to go out before it, if it is for another connection. What is large goes out itself."""
        if len(command.data) >= LARGE:
            return (*self.flush(), command)
        if command.connection is self._connection or self._connection is None:
            self._connection = command.connection
            self._parts.append(command.data)
            return ()
        before = self.flush()
        self._connection, self._parts = command.connection, [command.data]
        return before

    def flush(self) -> Iterable[commands.Command]:
        """All that waits, as one write."""
        if self._connection is None:
            return ()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        command = commands.SendData(self._connection, data)
        self._connection, self._parts = None, []
        return (command,)


def in_words(log: commands.Log) -> commands.Log:
    """A line of mitmproxy's log in words of ours: its own may quote what either side sent."""
    if log.message.startswith("Client TLS handshake failed"):  # OpenSSL's words, and the name that was asked for
        return log
    return commands.Log(failure_words.of(_PEER.sub("", log.message)), log.level)


def fork(context: Context) -> Context:
    """As `context.fork()`, without the server connection that it makes only to replace it."""
    forked = Context.__new__(Context)
    forked.client, forked.options, forked.server = context.client, context.options, context.server
    forked.layers = context.layers.copy()
    return forked


class Refused(layer.Layer):
    """Stands where a raw TCP tunnel would be, and hangs up, with a last word if there is one.

    Who gets a word may be sending still, and would not read it if the connection were reset: what comes is dropped
    until the client ends its side, or the reaper does.
    """

    def __init__(self, context: Context, answer: Answer | None = None) -> None:
        super().__init__(context)
        self._answer = answer

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            if self._answer is None:
                yield commands.CloseConnection(self.context.client)
            else:
                yield commands.SendData(self.context.client, http1.assemble_response(make_response(self._answer)))
                yield commands.CloseTcpConnection(self.context.client, half_close=True)


PLAIN_HTTP = error(400, "This port speaks TLS only: use https:// in the address of the proxy.")
STARTING = error(503, "The proxy is still starting: try again in some seconds.", retry_after=5)


def put_off(place: layer.NextLayer) -> None:
    """Hang up on a client that the proxy is not ready for, once it has begun to speak: over HTTP it is told so."""
    if begun := place.data_client():
        place.layer = Refused(place.context, None if starts_like_tls_record(begun) else STARTING)


def refuse_plaintext(place: layer.NextLayer) -> bool:
    """Hang up on a client that does not begin with TLS; whether it was one. Nothing else decides on it then."""
    is_first = len(place.context.layers) == 1  # what comes later is inside of that TLS
    if not is_first or starts_like_tls_record(place.data_client()):
        return False
    place.layer = Refused(place.context, PLAIN_HTTP)
    return True


def is_outer_tls(context: Context) -> bool:
    """Whether TLS that begins is with the proxy itself, and not inside a tunnel that it has opened."""
    return sum(isinstance(layer, ClientTLSLayer) for layer in context.layers) == 1


def adopt(place: layer.NextLayer, services: Services) -> None:
    """Put our HTTP layer where mitmproxy has just put its own, also underneath a TLS layer; refuse raw tunnels."""
    if isinstance(place.layer, TCPLayer | UDPLayer | DNSLayer):
        if services.settings().forward_other_hosts:
            services.let_go(place.context.client)
        else:
            place.layer = Refused(place.context)
        return
    parent: Any = None
    current: Any = place.layer
    while current is not None and type(current) is not HttpLayer:
        parent, current = current, getattr(current, "child_layer", None)
    if current is None:
        return
    ours = FailoverLayer(current.context, current.mode, services)
    stack = current.context.layers  # a layer appends itself when it is made
    stack.remove(ours)
    stack[stack.index(current)] = ours
    if parent is None:
        place.layer = ours
    else:
        parent.child_layer = ours
    services.watch(ours)
