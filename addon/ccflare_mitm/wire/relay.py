"""The client's half of a stream: passing an upstream's answer on, answering in its place, ending badly.

`FailoverStream` (see `wire`) decides which answer that is. From there on mitmproxy's own response handling runs, fed by
us; where it would look up a header and an option for every chunk, chunks go straight to the client's socket.
"""

import contextlib
from collections.abc import Callable
from enum import Enum
from typing import Protocol
from weakref import WeakSet

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook, HttpResponseHook
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.anthropic.answers import NO_REQUEST, Answer, error, error_event
from ccflare_core.exchange.exchange import BAD_GATEWAY, TIMED_OUT, Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_core.secrets.echo import Echo
from ccflare_mitm.host.messages import NO_HEAD
from ccflare_mitm.wire.deadlines import Deadlines, Phase
from ccflare_mitm.wire.services import Services

LINGER_SECONDS = 5.0
"""How long a client that was answered early may go on sending before its connection is closed."""

SWITCHING = 101


class Parent(Protocol):
    """The layer that a client's streams belong to."""

    services: Services
    connections: dict[Connection, layer.Layer]
    used: WeakSet[Connection]
    """Server connections that have carried a request already."""
    is_inside_upstream: bool
    """Whether an event of a server connection is being handled."""

    def open_attempt(self, stream: HttpStream) -> int:
        """A fresh stream id whose upstream events go to `stream`."""

    def close_attempt(self, attempt_id: int) -> None:
        """Events of this attempt that still come go nowhere."""


class Framing(Enum):
    """Who frames the chunks of a streamed answer."""

    BY_MITMPROXY = "by mitmproxy"
    CHUNKED = "chunked"


class RelayStream(HttpStream):
    """See the module."""

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id)
        self.deadlines = Deadlines()
        self._parent = parent
        self._exchange: Exchange | None = None
        self._attempt: int | None = None
        self._head: ResponseHeaders | None = None
        self._facts = NO_HEAD
        self._echo: Echo | None = None
        """Finds the account's credential in what comes back; None if none was sent."""
        self._is_searched = False
        """Whether it is looked for in the body that is passed on."""
        self._tap: Callable[[bytes], None] = ignore
        self._last = b""
        self._passed = 0
        self._relaying = False
        self._ended = False
        self._discarding = False
        self._framing = Framing.BY_MITMPROXY

    @property
    def _request_id(self) -> str:
        return NO_REQUEST if self._exchange is None else self._exchange.id

    @property
    def is_pipe(self) -> bool:
        """Whether this was a request once, for a tunnel or another protocol, and is over as such."""
        return bool(self._handle_event == self.passthrough)

    # The upstream's answer

    def _pass_on(self, head: ResponseHeaders, held: list[bytes]) -> CommandGenerator[None]:
        """Give this head to mitmproxy's response handling, and what has come of the body."""
        self._relaying = True
        response = head.response
        if self._facts.is_streamed:
            response.stream = self._unchanged
        self.deadlines.wait_for(Phase.ANSWER, self._parent.services.settings().stream_idle_seconds)
        nothing_follows = head.end_stream or (self._ended and not held)
        yield from self.state_wait_for_response_headers(
            ResponseHeaders(self.stream_id, response, end_stream=nothing_follows)
        )
        self._framing = self._choose_framing()
        for chunk in held:
            yield from self._relay(ResponseData(self.stream_id, chunk))
        if self._ended:
            yield from self._end_relay()
        elif self.server_state == self.state_errored:  # killed in a hook, or the client left meanwhile
            yield from self._drop_attempt()

    def check_invalid(self, request: bool) -> CommandGenerator[bool]:
        """As mitmproxy's for requests; an upstream's head was looked at before it was judged."""
        return (yield from super().check_invalid(request)) if request else False

    @staticmethod
    def _unchanged(chunk: bytes) -> bytes | list[bytes]:
        # mitmproxy asks once more with b"" at the end; returning that would be an empty chunk, which ends the body.
        return chunk or []

    def _relay(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, ResponseData):
            searched = self._echo.pass_on(event.data) if self._echo and self._is_searched else event.data
            yield from self._relay_data(searched)
        elif isinstance(event, ResponseTrailers):
            if self._echo is not None:
                event.trailers.fields = self._echo.in_fields(event.trailers.fields)
            yield from self.server_state(ResponseTrailers(self.stream_id, event.trailers))
        elif isinstance(event, ResponseEndOfMessage):
            if self._head is None or self._head.response.status_code != SWITCHING:
                self._close_attempt()
            yield from self._end_relay()

    def _relay_data(self, data: bytes) -> CommandGenerator[None]:
        if data:
            self._tap(data)
            self._last = data
            yield from self.server_state(ResponseData(self.stream_id, data))

    def look(self) -> None:
        """Count what has passed since the last look as a sign of life: for each chunk that would cost too much."""
        if self.deadlines.phase is Phase.ANSWER and self._exchange is not None:
            size = self._exchange.capture.size
            if size != self._passed:
                self._passed, self.deadlines.heard_at = size, self.deadlines.clock()

    def _choose_framing(self) -> Framing:
        """Whether the chunks of this answer can go straight to the client's socket.

        So they can when an HTTP/1 client gets a chunked stream that nobody else took over: mitmproxy's way would
        look up a header and an option for each of them, to do the same.
        """
        response, client = self.flow.response, self._parent.connections.get(self.context.client)
        if (
            self.server_state == self.state_stream_response_body
            and isinstance(client, Http1Server)
            and response is not None
            and response.stream is self._unchanged
            and not response.is_http2
            and self._facts.transfer_encoding == "chunked"
            and not self.context.options.store_streamed_bodies
            and not self._is_searched
        ):
            return Framing.CHUNKED
        return Framing.BY_MITMPROXY

    def _end_relay(self) -> CommandGenerator[None]:
        self._ended = True
        self.deadlines.cancel()
        if self._echo is not None:
            yield from self._relay_data(self._echo.rest())
        if self._exchange is not None and self.server_state != self.state_errored:
            self._exchange.finish()
        yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    def passthrough(self, event: events.Event) -> CommandGenerator[None]:
        """After an upgrade, as of a WebSocket: mitmproxy's own, but upstream knows the attempt by its own id."""
        for command in super().passthrough(event):
            if (
                isinstance(command, SendHttp)
                and command.connection is self.context.server
                and self._attempt is not None
            ):
                command.event.stream_id = self._attempt
            yield command

    # Bad ends

    def abandon(self) -> None:
        """End the exchange after an error of our own. Whatever failed may fail again, so never raises."""
        with contextlib.suppress(Exception):
            self._exchange = self._exchange or self._parent.services.find(self.flow)
            if self._exchange is not None:
                self._exchange.finish(Outcome.UPSTREAM_ERROR, "an error inside the proxy")

    def _break_off(self, why: str, code: ErrorCode, *, late: bool = False) -> CommandGenerator[None]:
        """Nothing more of this answer comes: the upstream broke it off, or kept silent for too long."""
        collected = self.server_state == self.state_consume_response_body  # nothing of it is with the client yet
        status = TIMED_OUT if late else BAD_GATEWAY
        self.deadlines.cancel()
        if self._exchange is not None:
            self._exchange.status = status if collected else self._exchange.status
            self._exchange.finish(Outcome.TRUNCATED, why)
        yield from self._drop_attempt()
        if collected:
            message = f"The upstream's answer did not go on: {why}." if late else "The upstream's answer broke off."
            self._decide(error(status, message, request_id=self._request_id))
            yield from self.send_response()
            return
        if late and self._is_between_events:
            yield from self._tell(error_event("timeout_error", f"The stream ends here: {why}.", self._request_id))
        # The body gets no proper end, so that nobody takes it for a whole one.
        yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, why, code))

    @property
    def _is_between_events(self) -> bool:
        """Whether an event of ours can stand here and be understood."""
        return (
            self.server_state == self.state_stream_response_body
            and self._facts.is_event_stream
            and self._facts.content_encoding in ("", "identity")
            and (not self._last or self._last.endswith((b"\n\n", b"\r\n\r\n")))
        )

    def _tell(self, data: bytes) -> CommandGenerator[None]:
        """Send bytes of ours inside the upstream's answer."""
        if self._framing is Framing.CHUNKED:
            yield commands.SendData(self.context.client, b"%x\r\n%s\r\n" % (len(data), data))
        else:
            yield from self.server_state(ResponseData(self.stream_id, data))

    def _drop_attempt(self) -> CommandGenerator[None]:
        """Forget this answer. One that has not ended yet is cancelled, which costs an HTTP/1 connection."""
        if self._attempt is not None:
            attempt, connection = self._attempt, self.context.server
            self._close_attempt()
            yield SendHttp(RequestProtocolError(attempt, "nobody waits for it", ErrorCode.CANCEL), connection)

    def _close_attempt(self) -> None:
        if self._attempt is not None:
            self._parent.close_attempt(self._attempt)
            self._attempt = None

    # Answers of our own

    def _answer(self, answer: Answer) -> CommandGenerator[None]:
        """Answer ourselves instead of with anything of the upstream's."""
        if self._exchange is not None:
            self._exchange.answered(answer)
        self._relaying = True
        self.deadlines.cancel()
        self._decide(answer)
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    def _decide(self, answer: Answer) -> None:
        self._parent.services.decisions.give(self.flow, answer)

    def _answer_early(self, response: http.Response) -> CommandGenerator[None]:
        """Answer while the request is still coming in; what comes of it is read and dropped."""
        response.headers["connection"] = "close"
        self._parent.services.decisions.keep(self.flow, response)
        self.flow.live = False
        self.client_state = self.state_errored
        self.server_state = self.state_done
        self._discarding = True
        yield HttpResponseHook(self.flow)
        yield from self._send_whole(self.flow.response or response)
        self.deadlines.cancel()
        self.deadlines.wait_for(Phase.LEAVING, LINGER_SECONDS)

    def send_response(self, already_streamed: bool = False) -> CommandGenerator[None]:
        """As mitmproxy's, which over HTTP/2 would send a body after a HEAD too: an error that ends the connection."""
        if self.flow.response is not None and self.flow.request.method == "HEAD":
            self.flow.response.raw_content = b""
        yield from super().send_response(already_streamed)

    def _send_whole(self, response: http.Response) -> CommandGenerator[None]:
        """Send an answer past mitmproxy's response handling, which is not in a state for it."""
        body = b"" if self.flow.request.method == "HEAD" else response.raw_content or b""
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)
        yield SendHttp(ResponseData(self.stream_id, body), self.context.client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)


def ignore(_: bytes) -> None:
    """What a stream does with a chunk before anybody wants it."""
