"""mitmproxy's ends of connections, where they take or say what we do not want. `contract` puts them in their places.

- `Http1Client` (toward an upstream) takes the first head for the answer, be it a "100 Continue"; has no limit for a
  head; and fails at trailers, as `Http1Server` (toward a client) does.
- `Http1Server` sends chunks to a client of HTTP/1.0 too, and keeps the connection as the upstream's answer says; to one
  that asks for its end it says nothing of that.
- `Http2Server` (toward a client) answers errors of its own in HTML, and has no limit for frames that cost it work and
  the client nothing: resets, pings, settings, priorities, empty data. Below it, h2 compares a body with its
  content-length only where that ends with a DATA frame: one that ends with its head or with trailers may be shorter.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import h2.errors
import h2.events
from h11._readers import ChunkedReader
from mitmproxy import http
from mitmproxy.net.http import http1, status_codes
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseHeaders,
    ResponseProtocolError,
)

from ccflare_core.anthropic.answers import error
from ccflare_core.http.failure_words import HEAD_TOO_LARGE
from ccflare_core.http.headers import HEAD_BYTES
from ccflare_mitm.host.chunks import JoinedChunks
from ccflare_mitm.host.messages import HTTP10, HTTP11

CONTINUE, SWITCHING = 100, 101
UNTIL_THE_END = -1
"""The size, to mitmproxy, of a body that ends with its connection."""
_OF_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"trailer"})
HEAD_WITH_LINES = 2 * HEAD_BYTES
"""What the head of an HTTP/1 answer may have on the wire before it is whole."""
FRAMES_AT_ONCE, FRAMES_PER_SECOND = 200.0, 20.0
"""How many such frames an HTTP/2 client may send at once, and how fast it earns more."""

_FOR_NOTHING = (
    h2.events.StreamReset,
    h2.events.RemoteSettingsChanged,
    h2.events.PingReceived,
    h2.events.PriorityUpdated,
    h2.events.UnknownFrameReceived,
)


class WithoutTrailers(_http1.Http1Connection):
    """Leaves the trailers of a body out, as one may (RFC 9110, 6.5.1)."""

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """As mitmproxy's, which has taken the whole body by the time that it fails."""
        try:
            yield from super().read_body(event)
        except NotImplementedError:
            if self.stream_id is None:
                raise
            is_request = isinstance(self, _http1.Http1Server)
            yield ReceiveHttp(self.ReceiveEndOfMessage(self.stream_id))
            yield from self.mark_done(request=is_request, response=not is_request)


def is_of_http10(request: http.Request | None) -> bool:
    """Whether who asks knows no chunks and no interim answers (RFC 9112, 2.3 and 6.1)."""
    return request is not None and request.data.http_version == HTTP10


class Http1Server(WithoutTrailers, _http1.Http1Server):
    """See the module."""

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """As mitmproxy's, in a framing that the client knows; one that has asked for the end is told of it."""
        if isinstance(event, ResponseHeaders) and self.request is not None:
            if is_of_http10(self.request):
                if event.response.status_code == CONTINUE:
                    return
                event = replace(event, response=framed_for_http10(self.request, event.response))
            elif self._is_last() and event.response.status_code >= 200:
                event = replace(event, response=closing(event.response))
        yield from super().send(event)

    def _is_last(self) -> bool:
        request = self.request
        return request is not None and http1.connection_close(request.http_version, request.headers)


def closing(response: http.Response) -> http.Response:
    """The head of an answer after which the connection ends, and which says so (RFC 9112, 9.6)."""
    last = response.copy()
    last.headers["connection"] = "close"
    return last


def framed_for_http10(request: http.Request, response: http.Response) -> http.Response:
    """The head of an answer whose body ends with its length, or else with the connection.

    A connection goes on only if the client has asked for that, and is told so.
    """
    fields = [field for field in response.headers.fields if field[0].lower() not in _OF_CONNECTION]
    framed = http.Response(
        http_version=HTTP11,
        status_code=response.status_code,
        reason=response.data.reason,
        headers=http.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=response.timestamp_start,
        timestamp_end=None,
    )
    has_end = http1.expected_http_body_size(request, framed) != UNTIL_THE_END
    keeps = has_end and not http1.connection_close(request.http_version, request.headers)
    framed.headers["connection"] = "keep-alive" if keeps else "close"
    return framed


class Http1Client(WithoutTrailers, _http1.Http1Client):
    """See the module."""

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """As mitmproxy's, past interim answers (RFC 9110, 15.2) and up to a head of our own limit."""
        while True:
            commands_of_head = super().read_headers(event)
            for command in commands_of_head:
                status = self._status(command)
                if status is not None and status < 200 and status != SWITCHING:
                    break
                yield command
                if status is not None:
                    yield from commands_of_head
            else:
                break
            # The interim head is out of the buffer, and mitmproxy has not gone on to a body yet: so nor do we.
            self.response = None
            event = events.DataReceived(self.conn, b"")
        if self.state == self.read_headers and self.stream_id is not None and len(self.buf) > HEAD_WITH_LINES:
            yield commands.CloseConnection(self.conn)
            self.buf.maybe_extract_at_most(len(self.buf))
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, HEAD_TOO_LARGE, ErrorCode.GENERIC_SERVER_ERROR))

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """As mitmproxy's, with the chunks that came together as one."""
        if type(self.body_reader) is ChunkedReader:
            self.body_reader = JoinedChunks()
        yield from super().read_body(event)

    @staticmethod
    def _status(command: commands.Command) -> int | None:
        """The status of a head that this command hands over, if it does."""
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseHeaders):
            return command.event.response.status_code
        return None


class Http2Server(_http2.Http2Server):
    """See the module."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context)
        self._clock = clock
        self._left = FRAMES_AT_ONCE
        self._counted_at = clock()
        self._missing: dict[int, int] = {}
        """What is yet to come of a request's body, by its stream."""

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        status = event.code.http_status_code() if isinstance(event, ResponseProtocolError) else None
        if isinstance(event, ResponseProtocolError) and status is not None and self._can_answer(event.stream_id):
            reason = status_codes.RESPONSES.get(status, "Error")
            answer = error(status, f"The proxy could not handle this: {reason}.")
            self.h2_conn.send_headers(event.stream_id, [(b":status", b"%d" % status), *answer.headers])
            self.h2_conn.send_data(event.stream_id, answer.body, end_stream=True)
            yield commands.SendData(self.conn, self.h2_conn.data_to_send())
        else:
            yield from super()._handle_event(event)

    def _can_answer(self, stream_id: int) -> bool:
        return self.is_open_for_us(stream_id) and not self.h2_conn.streams[stream_id].state_machine.headers_sent

    def handle_h2_event(self, event: h2.events.Event) -> CommandGenerator[bool]:
        """As mitmproxy's, unless a body is too short, or there are too many that ask for work and bring none."""
        is_empty = isinstance(event, h2.events.DataReceived) and not event.data and not event.stream_ended
        if (is_empty or isinstance(event, _FOR_NOTHING)) and not self._may_come():
            yield from self.protocol_error("too many frames for nothing", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return True
        if self._is_short(event):
            yield from self.protocol_error("HTTP/2 protocol error: a body is shorter than its head says")
            return True
        return (yield from super().handle_h2_event(event))

    def _is_short(self, event: h2.events.Event) -> bool:
        """Whether a request ends here with less of a body than its content-length: an upstream would wait for it."""
        missing = self._missing
        match event:
            case h2.events.RequestReceived(stream_id=int(stream), headers=list(fields)):
                if re.fullmatch(rb"\d{1,18}", said := dict(fields).get(b"content-length", b"")):  # others are refused
                    missing[stream] = int(said)
            case h2.events.DataReceived(stream_id=int(stream), data=bytes(data)) if stream in missing:
                missing[stream] -= len(data)
            case h2.events.StreamEnded(stream_id=int(stream)):
                return missing.pop(stream, 0) > 0
            case h2.events.StreamReset(stream_id=int(stream)):
                missing.pop(stream, None)
        return False

    def _may_come(self) -> bool:
        """Whether one more is within the budget, which it then takes."""
        now = self._clock()
        self._left = min(FRAMES_AT_ONCE, self._left + (now - self._counted_at) * FRAMES_PER_SECOND) - 1
        self._counted_at = now
        return self._left >= 0
