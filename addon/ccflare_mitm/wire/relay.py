"""An upstream's answer on its way to the client, as it comes: one `Relay` for each that was judged good.

mitmproxy's own response handling runs, fed by us. Where it would look up a header and an option for every chunk, to do
the same as we do, chunks go straight to the client's socket.
"""

from collections.abc import Callable, Iterable

from mitmproxy.proxy import commands
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.layers.http._events import ResponseData, ResponseEndOfMessage, ResponseHeaders, ResponseTrailers
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.anthropic.answers import error_event
from ccflare_core.exchange.capture import Capture
from ccflare_mitm.host.peers import is_of_http10
from ccflare_mitm.wire.attempt import Attempt, Parent


class Relay:
    """See the module. `stream` is mitmproxy's side of the client's request, whose `server_state` is fed."""

    def __init__(self, stream: HttpStream, parent: Parent, attempt: Attempt, capture: Capture) -> None:
        self.upstream_id = attempt.stream_id
        """The stream id that the answer comes under; None if all of it was held."""
        self._stream = stream
        self._parent = parent
        self._attempt = attempt
        self._capture = capture
        self._tap: Callable[[bytes], None] = capture.add
        self._client = stream.context.client
        self._search = attempt.echo if attempt.is_searched else None
        self._is_framed_here = False
        self._last = b""
        self._passed = 0

    def begin(self, head: ResponseHeaders) -> CommandGenerator[None]:
        """Give this head to mitmproxy's response handling, and what was held of the body."""
        attempt, stream = self._attempt, self._stream
        if attempt.facts.is_streamed:
            head.response.stream = unchanged
        nothing_follows = head.end_stream or (attempt.is_whole and not attempt.held)
        yield from stream.state_wait_for_response_headers(
            ResponseHeaders(stream.stream_id, head.response, end_stream=nothing_follows)
        )
        self._is_framed_here = self._may_frame()
        for chunk in attempt.take_held():
            yield from self.chunk(chunk)

    def chunk(self, data: bytes) -> Iterable[commands.Command]:
        """Pass on a part of the body: the one way to the client for all that comes of it, and the hottest code here."""
        if self._search is not None:
            data = self._search.pass_on(data)
        if not data:  # as a chunk that would be the body's end
            return ()
        self._tap(data)
        self._last = data
        if self._is_framed_here:
            return (commands.SendData(self._client, b"%x\r\n%s\r\n" % (len(data), data)),)
        handled: CommandGenerator[None] = self._stream.server_state(ResponseData(self._stream.stream_id, data))
        return handled

    def _may_frame(self) -> bool:
        """Whether the chunks of this answer can go straight to the client's socket.

        So they can when an HTTP/1 client gets a chunked stream that nobody else took over.
        """
        stream, response = self._stream, self._stream.flow.response
        return (
            stream.server_state == stream.state_stream_response_body
            and isinstance(self._parent.connections.get(self._client), Http1Server)
            and response is not None
            and response.stream is unchanged
            and not response.is_http2
            and self._attempt.facts.transfer_encoding == "chunked"
            and not is_of_http10(stream.flow.request)
            and not stream.context.options.store_streamed_bodies
            and self._search is None
        )

    def trailers(self, event: ResponseTrailers) -> CommandGenerator[None]:
        """Pass on trailers, without the credential."""
        if self._attempt.echo is not None:
            event.trailers.fields = self._attempt.echo.in_fields(event.trailers.fields)
        yield from self._stream.server_state(ResponseTrailers(self._stream.stream_id, event.trailers))

    def flush(self) -> Iterable[commands.Command]:
        """Pass on what the search for the credential still keeps back, at the body's end."""
        rest, self._search = self._search.rest() if self._search is not None else b"", None
        return self.chunk(rest)

    def end(self) -> CommandGenerator[None]:
        """Tell mitmproxy that this was all."""
        handled: CommandGenerator[None] = self._stream.server_state(ResponseEndOfMessage(self._stream.stream_id))
        return handled

    # When it does not end well

    @property
    def is_collected(self) -> bool:
        """Whether mitmproxy still collects the answer, so that nothing of it is with the client yet."""
        return bool(self._stream.server_state == self._stream.state_consume_response_body)

    def tell(self, kind: str, message: str, request_id: str) -> Iterable[commands.Command]:
        """Say why nothing more comes, as an event of the stream, if one can stand here and be understood."""
        is_between_events = (
            self._stream.server_state == self._stream.state_stream_response_body
            and self._attempt.facts.is_event_stream
            and self._attempt.facts.content_encoding in ("", "identity")
            and (not self._last or self._last.endswith((b"\n\n", b"\r\n\r\n")))
        )
        if not is_between_events:
            return ()
        self._tap = ignore  # it is none of the upstream's
        return self.chunk(error_event(kind, message, request_id))

    def has_moved(self) -> bool:
        """Whether something has passed since this was asked last.

        Noting the time of each chunk would cost more than to compare sizes now and then.
        """
        before, self._passed = self._passed, self._capture.size
        return self._passed != before


def unchanged(chunk: bytes) -> bytes | list[bytes]:
    """Pass a chunk on; what mitmproxy calls `response.stream` for."""
    # It asks once more with b"" at the end; returning that would be an empty chunk, which ends the body.
    return chunk or []


def ignore(_: bytes) -> None:
    """What is done with bytes that are not recorded."""
