"""One connection to the upstream: it is read from its opening to its end, whoever uses it, and whether anybody does.

mitmproxy opens a server's connection in the handler of one client, reads it there, and closes it with that client. Here
each has a handler of its own, `UpstreamConnection`, whose task never changes. What changes is who it tells: the handler
of the client that it is lent to, or itself. So there is no moment at which two tasks read, or none: what the upstream
sends unasked, and its close, are noticed at once by mitmproxy's HTTP/1 layer, which ends the connection.

What goes from hand to hand is the entry in `transports`, by which a handler writes to a socket, and that in
`HttpLayer.connections`: the layers of TLS and HTTP/1, which stay as they are. The layers around a client's own (of a
tunnel) need an entry too, to hand events through.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, HTTPMode, RegisterHttpConnection
from mitmproxy.proxy.layers.http._hooks import HttpConnectUpstreamHook
from mitmproxy.proxy.layers.http._http1 import Http1Client
from mitmproxy.proxy.server import ConnectionHandler

from ccflare_mitm.wire.layer import in_words, layers_around
from ccflare_mitm.wire.sockets import is_still
from ccflare_mitm.wire.way_out import introduce

type RunHook = Callable[[commands.StartHook], Awaitable[None]]


class Borrower(NamedTuple):
    """Who uses a connection: a client's handler, and the HTTP layer in it."""

    handler: ConnectionHandler
    layer: Any
    """A FailoverLayer."""

    @property
    def is_there(self) -> bool:
        """Whether its client has not left."""
        return self.handler.client.timestamp_end is None


class Opened(NamedTuple):
    """What has come of opening it."""

    server: Connection
    problem: str | None


class Layers(HttpLayer):
    """Opens a connection as mitmproxy's layer does for a request, and keeps its layers while nobody uses them."""

    def __init__(self, context: Context, asked: GetHttpConnection) -> None:
        super().__init__(context, HTTPMode.regular)
        self.opened: Opened | None = None
        self._asked = asked

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.HookCompleted) and isinstance(event.command, HttpConnectUpstreamHook):
            introduce(event.command.flow)
        is_start = isinstance(event, events.Start)
        for command in self.get_connection(self._asked, reuse=False) if is_start else super()._handle_event(event):
            yield in_words(command) if isinstance(command, commands.Log) else command

    def register_connection(self, command: RegisterHttpConnection) -> CommandGenerator[None]:
        """Note how the opening has ended; mitmproxy would tell a stream."""
        self.waiting_for_establishment.clear()
        self.opened = Opened(command.connection, command.err)
        yield from ()


class UpstreamConnection(ConnectionHandler):
    """See the module. It is opened for `client`, which hooks are told of; others may use it later."""

    layer: Layers

    def __init__(
        self,
        client: Client,
        options: Options,
        asked: GetHttpConnection,
        run_hook: RunHook,
        opened: Callable[["UpstreamConnection", Connection, str | None], Awaitable[None]],
        ended: Callable[["UpstreamConnection"], None],
    ) -> None:
        """`opened` is told once how the opening went, with why it failed if so; `ended` that it is closed."""
        context = Context(client, options)
        super().__init__(context)
        self.layer = Layers(context, asked)
        self._server: Connection | None = None
        self.is_private = False
        """Whether it has carried what may not share a connection with other clients."""
        self._borrower: Borrower | None = None
        self._run_hook = run_hook
        self._on_opened = opened
        self._on_ended = ended
        self._is_delivering = False

    def __repr__(self) -> str:
        return f"UpstreamConnection({self._server}, {'lent' if self._borrower is not None else 'not lent'})"

    async def open(self) -> None:
        """Begin to open it."""
        await self.server_event(events.Start())

    @property
    def server(self) -> Connection:
        """The upstream. Raises RuntimeError if it was never open."""
        if self._server is None:
            raise RuntimeError("this connection has not been opened")
        return self._server

    @property
    def connections(self) -> Collection[Connection]:
        """The upstream, and the proxy on the way if there is one: what layers and handlers know it by."""
        return self.layer.connections.keys()

    @property
    def is_idle(self) -> bool:
        """Whether another client may use it: no request is under way, and nothing has come that nobody has read."""
        if not self.server.connected or self.is_private or self._is_delivering:
            return False
        http1 = self.layer.connections[self.server].context.layers[-1]
        if not isinstance(http1, Http1Client) or http1.state != http1.read_headers or http1.request or http1.buf:
            return False
        return all(
            connection.connected and is_still(transport.reader, transport.writer)  # not about to be closed, either
            for connection, transport in self.transports.items()
        )

    # From hand to hand

    def lend(self, borrower: Borrower) -> None:
        """Let a client's handler use it from here on."""
        self._borrower = borrower
        borrower.layer.connections.update(self.layer.connections)
        borrower.handler.transports.update(self.transports)
        for outer, inner in layers_around(borrower.layer):
            outer.connections.update(dict.fromkeys(self.transports, inner))

    def take_back(self) -> None:
        """Let nobody use it."""
        if (borrower := self._borrower) is None:
            return
        for connection in self.connections:
            borrower.layer.connections.pop(connection, None)
        for connection in self.transports:
            borrower.handler.transports.pop(connection, None)
            for outer, _ in layers_around(borrower.layer):
                outer.connections.pop(connection, None)
        self._borrower = None

    def close(self) -> None:
        """End it, whether it is open yet or not."""
        for connection in list(self.transports):
            self.close_connection(connection)

    # What mitmproxy's handler does, for itself or for who uses it

    async def server_event(self, event: events.Event) -> None:
        """Tell what has come to who uses it."""
        if self._borrower is not None:
            self._is_delivering = True
            await self._borrower.handler.server_event(event)
            return
        await super().server_event(event)
        if self._server is None and (opened := self.layer.opened) is not None:
            self._server = opened.server
            await self._on_opened(self, *opened)

    async def drain_writers(self) -> None:
        """Read on only when its user's client has taken what has come."""
        drain: Any = super().drain_writers if self._borrower is None else self._borrower.handler.drain_writers
        await drain()
        self._is_delivering = False

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Connect, and read what comes."""
        try:
            await super().open_connection(command)
        except asyncio.CancelledError:
            await self._give_up(command)
            raise

    async def _give_up(self, command: commands.OpenConnection) -> None:
        """Say that nothing comes of it. Of one that is cancelled in an addon's hook mitmproxy says nothing."""
        connection = command.connection
        if self.layer.opened is not None or (transport := self.transports.pop(connection, None)) is None:
            return
        if transport.writer is not None:
            transport.writer.close()
        connection.state, connection.error = ConnectionState.CLOSED, "connection cancelled"
        await self.server_event(events.OpenConnectionCompleted(command, connection.error))

    async def handle_connection(self, connection: Connection) -> None:
        """Read it to its end."""
        try:
            await super().handle_connection(connection)
        finally:
            if self._borrower is not None:
                self._borrower.handler.transports.pop(connection, None)
            self._on_ended(self)

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Run a hook of all addons."""
        await self._run_hook(hook)
