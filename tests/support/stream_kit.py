"""One stream of ours without a socket: real events in, commands out, with a real exchange and pool behind it."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from mitmproxy import http, options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import GetHttpConnection, GetHttpConnectionCompleted, HTTPMode, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpConnectHook, HttpRequestHeadersHook, HttpRequestHook
from mitmproxy.test import tutils

from ccflare_core.anthropic.answers import Pieces, event_stream
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.exchange import Exchange
from ccflare_mitm.host.decisions import Decisions
from ccflare_mitm.wire.deadlines import DeadlinePassed, ReaderStalled, TunnelOver
from ccflare_mitm.wire.layer import FailoverLayer
from ccflare_mitm.wire.pieces import Piece, PiecesOver
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.states import Event, State
from ccflare_mitm.wire.stream import FailoverStream
from exchange_kit import Bench
from flow_kit import BODY, client

EVENT_STREAM = ((b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked"))
CONTENT = b'event: content_block_start\ndata: {"type":"content_block_start"}\n\n'


class SomePieces:
    """Pieces of which a test knows whether anybody still takes them."""

    def __init__(self) -> None:
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError("a test brings them itself")

    def close(self) -> None:
        self.is_closed = True


class StreamKit:
    """A client's request and what its stream does. `sent` has all commands, hooks run without handlers."""

    def __init__(self, *, admitted: bool = True, store_streamed_bodies: bool = False, uploads: bool = False) -> None:
        self.bench = Bench(upstream="http://127.0.0.1:9", upload_limit_bytes=4 * 1024 * 1024)
        self.uploads = uploads
        """Whether it brings a large file, which goes up as it comes."""
        self.unread: list[bool] = []
        """What was said of reading from the client."""
        self.is_page = False
        """Whether it is for a page of ours that goes on."""
        self.pieces = SomePieces()
        self.fed: list[Pieces] = []
        """What was to be brought piece by piece."""
        self.exchange: Exchange | None = self.bench.begin() if admitted else None
        if self.exchange is not None and uploads:
            self.exchange.admit_upload(self.exchange.facts, "multipart/form-data")
        self.settings = self.bench.exchanges.settings
        self.sent: list[commands.Command] = []
        self.killed_in: type[commands.StartHook] | None = None
        settings: Any = options.Options()
        Proxyserver().load(settings)
        settings.update(connection_strategy="lazy", store_streamed_bodies=store_streamed_bodies)
        self.client = client()
        self.server = Server(address=("127.0.0.1", 9))
        self.server.state = ConnectionState.OPEN
        self.layer = FailoverLayer(Context(self.client, settings), HTTPMode.regular, self._services())
        self._run(self.layer, events.Start())
        list(self.layer.make_stream(1))
        stream = self.layer.streams[1]
        assert isinstance(stream, FailoverStream)
        self.stream = stream

    def _services(self) -> Services:
        anything: Any = lambda *_, **__: None  # noqa: E731
        target = UpstreamTarget.of(self.settings.upstream, self.settings.upstream_pins)
        return Services(
            find=lambda _: self.exchange,
            target=lambda _: target,
            proof=SimpleNamespace(flaw=anything),  # type: ignore[arg-type]
            settings=lambda: self.settings,
            claim=anything,
            unmask=lambda request: request.headers.fields,
            decisions=Decisions(),
            hooks=SimpleNamespace(run=anything),  # type: ignore[arg-type]
            watch=anything,
            let_go=anything,
            is_stopping=lambda: self.bench.exchanges.is_stopping,
            leave_unread=lambda _, is_left: self.unread.append(is_left),
            unsent_bytes=lambda *_: 0,
            open_spool=anything,
            tunnel=anything,
            feed=lambda layer, stream, pieces: self.fed.append(pieces),
        )

    # Events

    def feed(self, event: events.Event) -> list[commands.Command]:
        """What the stream does because of this."""
        return self._run(self.stream, event)

    def _run(self, layer: Any, event: events.Event) -> list[commands.Command]:
        done: list[commands.Command] = []
        todo = [event]
        while todo:
            for command in layer.handle_event(todo.pop(0)):
                done.append(command)
                if isinstance(command, commands.StartHook):
                    if self.uploads and isinstance(command, HttpRequestHeadersHook):
                        self.stream.flow.request.stream = True
                    if isinstance(command, HttpRequestHook) and self.is_page:
                        self.layer.services.decisions.give(self.stream.flow, event_stream(lambda: self.pieces))
                    if type(command) is self.killed_in:
                        self.stream.flow.kill()
                    todo.append(events.HookCompleted(command))
        self.sent += done
        return done

    def last(self, kind: type[Any]) -> Any:
        """The last command of this type, or the last event of this type that was sent."""
        events_sent = (each.event if isinstance(each, SendHttp) else each for each in reversed(self.sent))
        return next((each for each in events_sent if isinstance(each, kind)), None)

    def event(self, kind: Event) -> events.Event:
        """An event of this kind, about what the stream has in its hands if it has such a thing."""
        asked = self.last(RequestHeaders)
        upstream = asked.stream_id if asked is not None else 2
        connect = self.last(GetHttpConnection) or GetHttpConnection(("127.0.0.1", 9), False, None)
        timer = self.last(commands.RequestWakeup) or commands.RequestWakeup(0)
        made: dict[Event, events.Event] = {
            Event.REQUEST: RequestData(1, b"more"),
            Event.UPLOAD: RequestData(1, b"more"),
            Event.CLIENT_LEFT: RequestProtocolError(1, "gone", ErrorCode.CLIENT_DISCONNECTED),
            Event.CONNECTED: GetHttpConnectionCompleted(connect, (self.server, None)),
            Event.TIMER: events.Wakeup(timer),
            Event.HEAD: ResponseHeaders(upstream, self.head()),
            Event.BODY: ResponseData(upstream, CONTENT),
            Event.TRAILERS: ResponseTrailers(upstream, http.Headers()),
            Event.END: ResponseEndOfMessage(upstream),
            Event.BROKEN: ResponseProtocolError(upstream, "broken", ErrorCode.GENERIC_SERVER_ERROR),
            Event.DEADLINE: DeadlinePassed(),
            Event.STALLED: ReaderStalled(),
            Event.TUNNEL_OVER: TunnelOver(),
            Event.PIECE: Piece(b": piece\n\n"),
            Event.PIECES_OVER: PiecesOver(),
        }
        return made[kind]

    @staticmethod
    def head(status: int = 200, fields: tuple[tuple[bytes, bytes], ...] = EVENT_STREAM) -> http.Response:
        return http.Response.make(status, b"", http.Headers(fields))

    # Ways into the states

    def reach(self, state: State) -> "StreamKit":
        """Lead the stream into this state, by events that really lead there."""
        getattr(self, f"_reach_{state.name.lower()}")()
        assert self.stream.state is state
        return self

    def _begin(self, method: bytes = b"POST", length: int = len(BODY)) -> None:
        request = tutils.treq(
            method=method,
            scheme=b"http",
            host="127.0.0.1",
            port=9,
            path=b"/v1/files" if self.uploads else b"/v1/messages",
            headers=http.Headers(((b"Host", b"127.0.0.1:9"), (b"content-length", b"%d" % length))),
            content=None,
        )
        self.feed(RequestHeaders(1, request, end_stream=False))

    def _reach_reading(self) -> None:
        self._begin()

    def ask(self) -> None:
        """Send a whole request."""
        self._begin()
        self.feed(RequestData(1, BODY))
        self.feed(RequestEndOfMessage(1))

    def _reach_waiting(self) -> None:
        if self.uploads:
            self._begin(length=2 * 1024 * 1024)
            return
        self.layer.is_inside_upstream = True
        self.ask()

    def _reach_connecting(self) -> None:
        if self.uploads:
            self._reach_waiting()
            self.feed(self.event(Event.TIMER))
        else:
            self.ask()

    def _reach_uploading(self) -> None:
        """Into SENT, unless there is an upload."""
        self._reach_connecting()
        self.feed(self.event(Event.CONNECTED))

    def _reach_sent(self) -> None:
        self._reach_uploading()
        if self.uploads:
            self.feed(RequestEndOfMessage(1))

    def _reach_judging(self) -> None:
        self._reach_uploading()
        self.feed(self.event(Event.HEAD))

    def _reach_relaying(self) -> None:
        self._reach_judging()
        self.feed(self.event(Event.BODY))

    def _reach_feeding(self) -> None:
        """As a page of ours, for which there is no exchange."""
        self.exchange, self.is_page = None, True
        self.ask()

    def _reach_answered(self) -> None:
        self._reach_relaying()
        self.feed(self.event(Event.END))

    def _reach_lingering(self) -> None:
        self._begin(length=self.settings.body_limit_bytes + 1)

    def _reach_pipe(self) -> None:
        self._begin(method=b"CONNECT")
        assert self.last(HttpConnectHook)

    def _reach_over(self) -> None:
        self._reach_uploading()
        self.feed(self.event(Event.CLIENT_LEFT))
