"""HTTP/2: a connection with any number of streams, each with an answer of its own."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError

from fake_upstream.answer import Answer, Cut, Step
from fake_upstream.exchange import Exchange, reset_connection
from fake_upstream.request import Header, Request, credential_of

if TYPE_CHECKING:
    from fake_upstream.server import FakeUpstream


@dataclass(slots=True, eq=False)
class _Http2Stream:
    """One HTTP/2 stream as a channel."""

    connection: "Http2"
    id: int
    headers: tuple[Header, ...] = ()
    body: bytearray = field(default_factory=bytearray)
    exchange: Exchange | None = None
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False
    blocked: bool = False  # never: what the peer's window does not take is kept in `pending`

    def steps(self, answer: Answer) -> tuple[Step, ...]:
        return () if answer.raw else answer.chunks

    def start(self, request: Request, answer: Answer) -> None:
        self.connection.send_head(self.id, request, answer)

    def write(self, data: bytes) -> None:
        self.pending += data
        self.connection.send_pending(self)

    def flush(self) -> None:
        self.connection.flush()

    def finish(self, answer: Answer) -> None:
        self.ended = True
        self.connection.send_pending(self)
        self.connection.flush()
        if answer.close or answer.raw:
            self.connection.cut(self.id, Cut())

    def cut(self, cut: Cut) -> None:
        self.connection.cut(self.id, cut)


class Http2(asyncio.Protocol):
    """One HTTP/2 connection with any number of streams."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self._upstream = upstream
        self._number = 0
        self._transport: asyncio.Transport
        self._streams: dict[int, _Http2Stream] = {}
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.note_connection(transport)
        self._h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._upstream.bytes_received += len(data)
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._upstream.malformed.append(data)
            self.flush()
            self._transport.close()
            return
        for received in events:
            self._handle(received)
        for stream in list(self._streams.values()):
            self.send_pending(stream)  # a window may have opened
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.note_disconnection(self._transport)
        for stream in self._streams.values():
            if stream.exchange:
                stream.exchange.abort()
        self._streams.clear()

    def send_head(self, stream_id: int, request: Request, answer: Answer) -> None:
        hop_by_hop = (b"connection", b"request-id")
        fields = [(name.lower(), value) for name, value in answer.headers if name.lower() not in hop_by_hop]
        status = (b":status", b"%d" % answer.status)
        with contextlib.suppress(ProtocolError):  # the client has reset it
            self._h2.send_headers(stream_id, [status, *fields, (b"request-id", request.id.encode())])

    def send_pending(self, stream: _Http2Stream) -> None:
        """Send what the windows let through, and the end if there is nothing more."""
        try:
            while stream.pending:
                size = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
                if size <= 0:
                    return
                self._h2.send_data(stream.id, bytes(stream.pending[:size]))
                del stream.pending[:size]
            if stream.ended:
                self._streams.pop(stream.id, None)
                self._h2.end_stream(stream.id)
        except (ProtocolError, KeyError):
            self._streams.pop(stream.id, None)

    def cut(self, stream_id: int, cut: Cut) -> None:
        self._streams.pop(stream_id, None)
        if cut.stream:
            with contextlib.suppress(ProtocolError):
                self._h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
            self.flush()
        elif cut.reset:
            reset_connection(self._transport)
        else:
            self._transport.close()

    def flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    def _handle(self, received: Event) -> None:
        match received:
            case RequestReceived(stream_id=int(stream_id), headers=headers):
                plain = tuple((bytes(name), bytes(value)) for name, value in headers or ())
                self._streams[stream_id] = _Http2Stream(self, stream_id, plain)
            case DataReceived(stream_id=int(stream_id)):
                if stream := self._streams.get(stream_id):
                    stream.body += received.data or b""
                with contextlib.suppress(StreamClosedError):
                    self._h2.acknowledge_received_data(received.flow_controlled_length or 0, stream_id)
            case StreamEnded(stream_id=int(stream_id)):
                if stream := self._streams.get(stream_id):
                    self._respond(stream)
            case StreamReset(stream_id=int(stream_id)):
                if (stream := self._streams.pop(stream_id, None)) and stream.exchange:
                    stream.exchange.abort()
            case ConnectionTerminated():
                self._transport.close()

    def _respond(self, stream: _Http2Stream) -> None:
        pseudo = {name: value.decode("latin-1") for name, value in stream.headers if name.startswith(b":")}
        plain = tuple(header for header in stream.headers if not header[0].startswith(b":"))
        request = Request(
            pseudo.get(b":method", ""),
            pseudo.get(b":path", ""),
            plain,
            bytes(stream.body),
            pseudo.get(b":authority", ""),
            credential_of(plain),
            self._number,
            "HTTP/2",
        )
        answer = self._upstream.begin(request)
        if answer.raw:
            self._transport.write(b"".join(step for step in answer.chunks if isinstance(step, bytes)))
        stream.exchange = Exchange(self._upstream, stream, request, answer)
        stream.exchange.play()
