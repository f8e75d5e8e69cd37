"""Our HTTP layer: mitmproxy's with our streams in it, hooks run on the spot, one socket write per event, deadlines."""

import itertools
import logging
import time
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

from mitmproxy import flow
from mitmproxy.connection import Connection
from mitmproxy.net.http import http1
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import ClientTLSLayer, DNSLayer, TCPLayer, UDPLayer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestProtocolError
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.answers import Answer, error
from ccflare_mitm.contract import json_error_page
from ccflare_mitm.hooks import ResumeHook, subject_of
from ccflare_mitm.messages import make_response
from ccflare_mitm.wire import DeadlinePassed, FailoverStream, Services

logger = logging.getLogger("ccflare")

TICK_SECONDS = 0.5
"""How exactly deadlines are kept."""

UNREAD_BYTES = 1024 * 1024
"""How much a client may send that is no whole head, or no whole line of chunked framing: mitmproxy keeps all of it.

The gate allows less, but needs a whole head to say so and to write a row.
"""


class FailoverLayer(HttpLayer):
    """mitmproxy's HTTP layer with our streams in it, one socket write per event, and a clock for deadlines."""

    def __init__(self, context: Context, mode: HTTPMode, services: Services) -> None:
        super().__init__(context, mode)
        self.services = services
        self.used: WeakSet[Connection] = WeakSet()
        """Server connections that have carried a request already."""
        self.is_inside_upstream = False
        self._attempt_ids = itertools.count(2, 2)
        self._tick: commands.RequestWakeup | None = None
        self._intercepted: dict[flow.Flow, commands.StartHook] = {}

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Pass on what mitmproxy's layer wants done, with neighbouring writes joined and hooks run on the spot.

        An upstream packet with many events would otherwise cost a system call for each on the way to the client, and
        each hook a task.
        """
        self.is_inside_upstream = (
            isinstance(event, events.ConnectionEvent) and event.connection is not self.context.client
        )
        try:
            writes = Writes()
            sources = [self._commands(event)]  # a stack: what a hook leads to comes before what follows the hook
            while sources:
                for command in sources[-1]:
                    if type(command) is commands.SendData:
                        yield from writes.add(command)
                    elif isinstance(command, commands.StartHook) and self._runs(command):
                        if (held := self._held_by_user(command)) is None:
                            sources.append(self._commands(events.HookCompleted(command)))
                            break
                        yield from writes.flush()
                        yield held
                    else:
                        yield from writes.flush()
                        yield command
                else:
                    sources.pop()
            yield from writes.flush()
        except Exception:
            # mitmproxy would log this and leave the client hanging.
            logger.exception("ccflare failed inside; the client's connection is closed")
            yield commands.CloseConnection(self.context.client)
        # One timer for all streams of a client's connection; most deadlines are met within the event that sets them.
        if self._tick is None and self._waiting():
            self._tick = commands.RequestWakeup(TICK_SECONDS)
            yield self._tick

    def _commands(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup) and event.command is self._tick:
            return self._check_deadlines()
        if isinstance(event, events.HookCompleted) and isinstance(event.command, ResumeHook):
            event = events.HookCompleted(self._intercepted.pop(event.command.flow))
        if isinstance(event, events.DataReceived) and event.connection is self.context.client:
            return self._read_client(event)
        handled: CommandGenerator[None] = super()._handle_event(event)
        return handled

    def _read_client(self, event: events.DataReceived) -> CommandGenerator[None]:
        """Hand over what the client sent, and hang up if it keeps sending what cannot be read as anything."""
        yield from super()._handle_event(event)
        reader = self.connections.get(self.context.client)
        if not isinstance(reader, Http1Server) or len(reader.buf) <= UNREAD_BYTES:
            return
        if reader.state == reader.wait and len(reader.buf) <= UNREAD_BYTES + self.services.body_limit():
            return  # the next request, ahead of its time
        logger.warning("A client sent %d bytes that are no request; its connection is closed", len(reader.buf))
        if reader.state == reader.read_headers:
            yield commands.SendData(self.context.client, json_error_page(431))
        elif (stream := self.streams.get(reader.stream_id)) is not None:
            problem = "the client sends what is no request"
            gone = RequestProtocolError(reader.stream_id, problem, ErrorCode.GENERIC_CLIENT_ERROR)
            yield from self.event_to_child(stream, gone)
        reader.buf.maybe_extract_at_most(len(reader.buf))
        reader.state = reader.done
        yield commands.CloseConnection(self.context.client)

    def _runs(self, hook: commands.StartHook) -> bool:
        """Whether this hook is done now; if not, it is mitmproxy's to run."""
        return not isinstance(hook, ResumeHook) and self.services.hooks.run(hook)

    def _held_by_user(self, hook: commands.StartHook) -> ResumeHook | None:
        """What to wait for before the hook is complete, if the user has intercepted its flow."""
        subject = subject_of(hook)
        if not isinstance(subject, flow.Flow) or not subject.intercepted:
            return None
        self._intercepted[subject] = hook
        return ResumeHook(subject)

    def make_stream(self, stream_id: int) -> CommandGenerator[None]:
        stream = FailoverStream(fork(self.context), stream_id, self)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def open_attempt(self, stream: "FailoverStream") -> int:
        """A fresh stream id whose upstream events go to `stream`."""
        attempt_id = next(self._attempt_ids)
        self.streams[attempt_id] = stream
        return attempt_id

    def close_attempt(self, attempt_id: int) -> None:
        """Events of this attempt that still come go nowhere."""
        self.streams.pop(attempt_id, None)

    def _check_deadlines(self) -> CommandGenerator[None]:
        self._tick = None
        now = time.monotonic()
        for stream in self._waiting():
            if stream.deadline is not None and now >= stream.deadline:
                yield from self.event_to_child(stream, DeadlinePassed())

    def _waiting(self) -> list[FailoverStream]:
        """The streams with a deadline, each once."""
        streams = {stream for stream in self.streams.values() if isinstance(stream, FailoverStream)}
        return [stream for stream in streams if stream.deadline is not None]


class Writes:
    """Data that waits for more to the same connection."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._parts: list[bytes] = []

    def add(self, command: commands.SendData) -> Iterable[commands.Command]:
        """Keep this; what has to go out before it, if it is for another connection."""
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


def fork(context: Context) -> Context:
    """As `context.fork()`, without the server connection that it makes only to replace it."""
    forked = Context.__new__(Context)
    forked.client, forked.options, forked.server = context.client, context.options, context.server
    forked.layers = context.layers.copy()
    return forked


class Refused(layer.Layer):
    """Stands where a raw TCP tunnel would be, and hangs up, with a last word if there is one."""

    def __init__(self, context: Context, answer: Answer | None = None) -> None:
        super().__init__(context)
        self._answer = answer

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            if self._answer is not None:
                yield commands.SendData(self.context.client, http1.assemble_response(make_response(self._answer)))
            yield commands.CloseConnection(self.context.client)


PLAIN_HTTP = error(400, "This port speaks TLS only: use https:// in the address of the proxy.", request_id="req_none")


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
    if isinstance(place.layer, TCPLayer | UDPLayer | DNSLayer) and not services.forward_other_hosts():
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
