"""A tunnel of a client key to another host: nothing goes out before it has begun with TLS, and what goes is counted."""

from typing import Final, Protocol

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.tls import parse_client_hello

from ccflare_core.http import failure_words

HELLO_BYTES: Final = 16 * 1024
HELLO_SECONDS: Final = 5.0
"""How much may come, and for how long, until there is a whole ClientHello."""

NO_TLS: Final = "it did not begin with a TLS ClientHello"
SILENT: Final = f"no whole TLS ClientHello came within {HELLO_SECONDS:.0f} s"
TOO_LONG: Final = f"no whole TLS ClientHello was in its first {HELLO_BYTES} bytes"
CLOSED: Final = "closed"


class Watched(Protocol):
    """What is told of a tunnel."""

    sent_bytes: int
    received_bytes: int

    def end(self, why: str) -> None:
        """It is over. Only the first word counts."""


class GuardedTunnel(layer.Layer):
    """See the module. `inner` is what mitmproxy would have put here; it gets nothing before a whole ClientHello."""

    def __init__(self, context: Context, inner: layer.Layer, watched: Watched) -> None:
        super().__init__(context)
        context.layers.remove(self)  # those who look at the stack go by mitmproxy's own layers
        self._inner = inner
        self._watched = watched
        self._hello = b""
        self._timer = commands.RequestWakeup(HELLO_SECONDS)
        self._is_open = self._is_closed = False

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if self._is_closed or (self._is_open and self._is_timer(event)):
            return
        if self._is_open:
            yield from self._pass(event)
        elif isinstance(event, events.Start):
            yield self._timer
        elif self._is_timer(event):
            yield from self._close(SILENT)
        elif isinstance(event, events.DataReceived) and event.connection is self.context.client:
            yield from self._read(event.data)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._close(NO_TLS if self._hello else CLOSED)

    def _is_timer(self, event: events.Event) -> bool:
        return isinstance(event, events.Wakeup) and event.command is self._timer

    def _read(self, data: bytes) -> CommandGenerator[None]:
        self._hello += data
        try:
            is_whole = parse_client_hello(self._hello) is not None
        except ValueError:
            yield from self._close(NO_TLS)
            return
        if is_whole:
            self._is_open = True
            yield from self._pass(events.Start())
            yield from self._pass(events.DataReceived(self.context.client, self._hello))
            self._hello = b""
        elif len(self._hello) > HELLO_BYTES:
            yield from self._close(TOO_LONG)

    def _pass(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.DataReceived):
            if event.connection is self.context.client:
                self._watched.sent_bytes += len(event.data)
            else:
                self._watched.received_bytes += len(event.data)
        elif isinstance(event, events.OpenConnectionCompleted) and event.reply:
            self._watched.end(failure_words.of(event.reply))
        for command in self._inner.handle_event(event):
            yield command
            if type(command) is commands.CloseConnection and command.connection is self.context.client:
                self._watched.end(CLOSED)

    def _close(self, why: str) -> CommandGenerator[None]:
        self._is_closed, self._hello = True, b""
        self._watched.end(why)
        yield commands.CloseConnection(self.context.client)
