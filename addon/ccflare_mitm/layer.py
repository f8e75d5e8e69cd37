"""Our HTTP layer: mitmproxy's with our streams in it, hooks run on the spot, one socket write per event, deadlines."""

import itertools
import time
from collections.abc import Generator, Iterator
from typing import Any
from weakref import WeakSet

from mitmproxy import flow
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import DNSLayer, TCPLayer, UDPLayer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from ccflare_mitm.hooks import ResumeHook, subject_of
from ccflare_mitm.wire import DeadlinePassed, FailoverStream, Services

TICK_SECONDS = 0.5
"""How exactly deadlines are kept."""


class FailoverLayer(HttpLayer):
    """mitmproxy's HTTP layer with our streams in it, one socket write per event, and a clock for deadlines."""

    def __init__(self, context: Context, mode: HTTPMode, services: Services) -> None:
        super().__init__(context, mode)
        self.services = services
        self.used: WeakSet[Connection] = WeakSet()
        """Server connections that have carried a request already."""
        self._attempt_ids = itertools.count(2, 2)
        self._tick: commands.RequestWakeup | None = None
        self._intercepted: dict[flow.Flow, commands.StartHook] = {}

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        yield from join_writes(self._without_hooks(self._commands(event)))
        # One timer for all streams of a client's connection; most deadlines are met within the event that sets them.
        if self._tick is None and self._waiting():
            self._tick = commands.RequestWakeup(TICK_SECONDS)
            yield self._tick

    def _commands(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup) and event.command is self._tick:
            return self._check_deadlines()
        if isinstance(event, events.HookCompleted) and isinstance(event.command, ResumeHook):
            event = events.HookCompleted(self._intercepted.pop(event.command.flow))
        handled: CommandGenerator[None] = super()._handle_event(event)
        return handled

    def _without_hooks(self, source: CommandGenerator[None]) -> CommandGenerator[None]:
        """Run hooks that need not wait right here; the rest, and flows held by the user, are mitmproxy's."""
        for command in source:
            if not isinstance(command, commands.StartHook) or not self.services.hooks.run(command):
                yield command
                continue
            subject = subject_of(command)
            if isinstance(subject, flow.Flow) and subject.intercepted:
                self._intercepted[subject] = command
                yield ResumeHook(subject)
            else:
                yield from self._without_hooks(self._commands(events.HookCompleted(command)))

    def make_stream(self, stream_id: int) -> CommandGenerator[None]:
        stream = FailoverStream(self.context.fork(), stream_id, self)
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


class Refused(layer.Layer):
    """Stands where a raw TCP tunnel would be, and hangs up."""

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


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


def join_writes(source: Iterator[commands.Command]) -> Generator[commands.Command, Any, None]:
    """The same commands with neighbouring writes to one connection made into one.

    An upstream packet with many events would otherwise cost a system call for each chunk on the way to the client.
    """
    connection: Any = None
    parts: list[bytes] = []
    for command in source:
        if type(command) is commands.SendData:
            if command.connection is not connection:
                if parts:
                    yield commands.SendData(connection, b"".join(parts) if len(parts) > 1 else parts[0])
                connection, parts = command.connection, []
            parts.append(command.data)
            continue
        if parts:
            yield commands.SendData(connection, b"".join(parts) if len(parts) > 1 else parts[0])
            connection, parts = None, []
        yield command
    if parts:
        yield commands.SendData(connection, b"".join(parts) if len(parts) > 1 else parts[0])
