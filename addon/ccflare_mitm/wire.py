"""The stream layer: it holds an answer's head until it is judged, fails over, and puts the credential in last.

mitmproxy's `HttpStream` relays one request to one server. `FailoverStream` stands in for it and keeps two promises:

- No lease, no bytes. The only way upstream leads through `Exchange.next_step`, so an exception in any hook leaves
  a request without a ticket, and a request without a ticket gets a 500 and opens no connection.
- The credential never enters the flow. It is put on a copy of the request at the moment that copy is handed to the
  protocol layer. Whatever shows or stores flows (mitmweb, dumps, HAR files, logs) cannot show it.

One request may take several upstream attempts. Each attempt is an upstream stream of its own with a fresh, even
stream id (clients use odd ones), registered with the parent layer, so that late events of a dropped attempt find
nobody and an HTTP/2 upstream never sees an id twice. Nothing of an answer reaches the client, or mitmproxy's own
response handling, before the exchange said `Deliver`.

This module, `layer` and `hooks` stand on mitmproxy's inside; `contract` checks at the start that it is as it was.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from weakref import WeakSet

from mitmproxy import flow, http
from mitmproxy.connection import Connection
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpStream,
    SendHttp,
    _http1,
)
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)

from ccflare_core.accounts import Credential
from ccflare_core.answers import Answer, error
from ccflare_core.exchange import BAD_GATEWAY, Exchange
from ccflare_core.options import Origin
from ccflare_core.routes import Route, classify
from ccflare_core.sse import FirstEvent
from ccflare_core.steps import Outcome, Send, Step, Wait
from ccflare_mitm.hooks import HookRunner
from ccflare_mitm.messages import Head, make_response, parse_error, read_head, with_credential

logger = logging.getLogger("ccflare")

CONNECT_SECONDS = 10.0
PEEK_SECONDS = 10.0
COLLECT_SECONDS = 5.0
"""How long an error's body may take before its head alone decides."""
HOLD_BYTES = 64 * 1024
"""How much of an answer is held back at most before it is judged."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the wire asks of the rest of the addon."""

    find: Callable[[http.HTTPFlow], Exchange | None]
    """The exchange of a flow; None if the gate has not let it in."""
    upstream: Callable[[], Origin]
    """The only place that a credential may go to."""
    approve: Callable[[Connection], bool]
    """Whether requests may be sent by a server connection: its key is pinned, or need not be."""
    body_limit: Callable[[], int]
    """Bytes that a request body may have."""
    forward_other_hosts: Callable[[], bool]
    """Whether raw tunnels to other hosts are allowed."""
    claim: Callable[[http.Request], None]
    """Told of each request as it came, before mitmproxy puts the target's name in its Host."""
    hooks: HookRunner


class Parent(Protocol):
    """The layer that a client's streams belong to."""

    services: Services
    connections: dict[Connection, layer.Layer]
    used: WeakSet[Connection]
    """Server connections that have carried a request already."""
    is_inside_upstream: bool
    """Whether an event of a server connection is being handled."""

    def open_attempt(self, stream: "FailoverStream") -> int:
        """A fresh stream id whose upstream events go to `stream`."""

    def close_attempt(self, attempt_id: int) -> None:
        """Events of this attempt that still come go nowhere."""


SWITCHING = 101
NOT_ADMITTED = error(500, "The proxy did not admit this request.", request_id="req_none")
NO_HEAD = Head("", "", "", None)


class Framing(Enum):
    """Who frames the chunks of a streamed answer."""

    BY_MITMPROXY = "by mitmproxy"
    CHUNKED = "chunked"


class DeadlinePassed(events.Event):
    """A stream waited long enough for what it is waiting for."""


class FailoverStream(HttpStream):
    """One request of a client and its upstream attempts. See the module."""

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id)
        self.deadline: float | None = None
        self._parent = parent
        self._exchange: Exchange | None = None
        self._attempt: int | None = None
        self._connecting: GetHttpConnection | None = None
        self._credential: Credential | None = None
        self._tap: Callable[[bytes], None] = ignore
        self._timer: commands.RequestWakeup | None = None
        self._then: Callable[[], CommandGenerator[None]] = self._next_step
        self._head: ResponseHeaders | None = None
        self._facts = NO_HEAD
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._peek: FirstEvent | None = None
        self._ended = False
        self._is_reused = False
        self._was_lost = False
        self._relaying = False
        self._framing = Framing.BY_MITMPROXY
        self._discarding = False

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            if (
                self._framing is Framing.CHUNKED
                and isinstance(event, ResponseData)
                and event.stream_id == self._attempt
            ):
                self._tap(event.data)
                yield commands.SendData(self.context.client, b"%x\r\n%s\r\n" % (len(event.data), event.data))
            else:
                yield from self._dispatch(event)
        except Exception:
            logger.exception("ccflare failed inside; the request ends here")
            yield from self._give_up()

    def _give_up(self) -> CommandGenerator[None]:
        """End this request after an error of our own, which mitmproxy would log and leave the client hanging."""
        can_answer = self.client_state == self.state_done and not self._relaying
        self._connecting = self._timer = self.deadline = None
        self._framing = Framing.BY_MITMPROXY
        self.client_state = self.server_state = self.state_errored
        with contextlib.suppress(Exception):  # whatever failed may fail again
            self._exchange = self._exchange or self._parent.services.find(self.flow)
            if self._exchange is not None:
                self._exchange.finish(Outcome.UPSTREAM_ERROR, "an error inside the proxy")
        refusal = error(500, "The proxy failed inside; its log says more.", request_id=self._request_id)
        yield from self._drop_attempt()
        if can_answer:
            self.flow.response = make_response(refusal)
            yield from self._send_whole(self.flow.response)
        else:
            code = ErrorCode.GENERIC_SERVER_ERROR
            yield SendHttp(ResponseProtocolError(self.stream_id, refusal.reason, code), self.context.client)
        yield DropStream(self.stream_id)

    @property
    def _request_id(self) -> str:
        return "req_none" if self._exchange is None else self._exchange.id

    def _dispatch(self, event: events.Event) -> CommandGenerator[None]:
        match event:
            case ResponseHeaders() | ResponseData() | ResponseTrailers() | ResponseEndOfMessage():
                if event.stream_id == self._attempt:
                    yield from self._upstream_event(event)
            case ResponseProtocolError() if event.stream_id != self.stream_id:
                if event.stream_id == self._attempt:
                    yield from self._upstream_broke(event)
            case RequestProtocolError() if self._exchange is not None:
                yield from self._client_left(event)
            case GetHttpConnectionCompleted():
                if event.command is self._connecting:
                    yield from self._connected(event)
            case events.Wakeup():
                if event.command is self._timer:
                    yield from self._then()
            case DeadlinePassed():
                yield from self._deadline_passed()
            case _:
                yield from super()._handle_event(event)

    # The request, up to the point where mitmproxy would open a server connection

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        """As mitmproxy's, which in reverse mode forgets what the client had asked for."""
        self._parent.services.claim(event.request)
        yield from super().state_wait_for_request_headers(event)

    def check_body_size(self, request: bool) -> CommandGenerator[bool]:
        """Refuse a request that is too big before it is read. Answers are never limited: they only pass by."""
        if not request:
            return False
        size = len(self.request_body_buf) or http1.expected_http_body_size(self.flow.request) or 0
        if size <= self._parent.services.body_limit():
            return False
        if not self.request_body_buf:  # the hook has not seen this flow yet
            yield HttpRequestHeadersHook(self.flow)
        self.request_body_buf.clear()
        self._exchange = self._parent.services.find(self.flow)
        yield from self._answer_early(self._refusal_of_size())
        return True

    def _refusal_of_size(self) -> http.Response:
        if self._exchange is not None and self._exchange.outcome is None:
            limit = self._parent.services.body_limit()
            return make_response(self._exchange.refuse(413, f"The request body is larger than {limit} bytes."))
        return self.flow.response or make_response(NOT_ADMITTED)  # the gate has refused it already, or failed

    def _answer_early(self, response: http.Response) -> CommandGenerator[None]:
        """Answer while the request is still coming in; what comes of it is read and dropped."""
        self.flow.response = response
        response.headers["connection"] = "close"
        self.flow.live = False
        self.client_state = self.state_errored
        self.server_state = self.state_done
        self._discarding = True
        yield HttpResponseHook(self.flow)
        yield from self._send_whole(response)
        self._set_deadline(COLLECT_SECONDS)

    def _send_whole(self, response: http.Response) -> CommandGenerator[None]:
        """Send an answer past mitmproxy's response handling, which is not in a state for it."""
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)
        yield SendHttp(ResponseData(self.stream_id, response.raw_content or b""), self.context.client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def make_server_connection(self) -> CommandGenerator[bool]:
        """Where mitmproxy asks for a server: from here on the request is ours, so it never gets one from us."""
        self._exchange = self._parent.services.find(self.flow)
        if self._exchange is None:
            yield from self._answer(NOT_ADMITTED)
        elif self._parent.is_inside_upstream:
            # A pipelined request, read at the end of the answer before it. That one's connection is not free yet.
            yield from self._later(0, self._next_step)
        else:
            yield from self._next_step()
        return False

    # Steps toward the upstream

    def _next_step(self) -> CommandGenerator[None]:
        if self._exchange is not None:
            yield from self._perform(self._exchange.next_step())

    def _perform(self, step: Step) -> CommandGenerator[None]:
        match step:
            case Send():
                self._was_lost = False
                yield from self._connect(step.credential)
            case Wait():
                yield from self._later(step.seconds, self._next_step)
            case Answer():
                yield from self._answer(step)
            case _:
                yield from self._deliver()

    def _later(self, seconds: float, then: Callable[[], CommandGenerator[None]]) -> CommandGenerator[None]:
        self._then = then
        self._timer = commands.RequestWakeup(seconds)
        yield self._timer

    def _connect(self, credential: Credential | None) -> CommandGenerator[None]:
        request = self.flow.request
        if credential is not None and not self._may_carry_credential(request):
            # Another addon has changed the destination after the gate had set it.
            refusal = error(500, "The request is not aimed at the upstream's API.", request_id=self._request_id)
            yield from self._answer(refusal)
            return
        self._credential = credential
        command = GetHttpConnection((request.host, request.port), request.scheme == "https", self.flow.server_conn.via)
        # "Blocking, and already taken care of": the answer comes to us as an event. If mitmproxy paused the stream
        # instead, neither a deadline nor a client that leaves would be seen while it connects.
        command.blocking = self  # type: ignore[assignment]
        self._connecting = command
        self._set_deadline(CONNECT_SECONDS)
        yield command

    def _may_carry_credential(self, request: http.Request) -> bool:
        aimed_at = (request.scheme, request.host, request.port)
        if aimed_at != self._parent.services.upstream():
            return False
        return classify(request.method, request.path) is Route.INFERENCE

    def _connected(self, event: GetHttpConnectionCompleted) -> CommandGenerator[None]:
        self._connecting = self.deadline = None
        connection, problem = event.reply
        if connection is None or self._exchange is None:
            yield from self._unreachable(str(problem))
            return
        if not self._parent.services.approve(connection):
            yield commands.CloseConnection(connection)
            yield from self._perform(self._exchange.unpinned())
            return
        self.context.server = self.flow.server_conn = connection  # type: ignore[assignment]
        self._is_reused = connection in self._parent.used
        self._parent.used.add(connection)
        self._attempt = attempt = self._parent.open_attempt(self)
        request = with_credential(self.flow.request, self._credential)
        body, trailers = self.flow.request.raw_content, self.flow.request.trailers
        if connection.alpn != b"h2":
            trailers = None  # mitmproxy's HTTP/1 cannot send any, and they may be left out (RFC 9110, 6.5.1)
        head = RequestHeaders(attempt, request, end_stream=not (body or trailers))
        yield SendHttp(head, connection)
        if body:
            yield SendHttp(RequestData(attempt, body), connection)
        if trailers:
            yield SendHttp(RequestTrailers(attempt, trailers), connection)
        yield SendHttp(RequestEndOfMessage(attempt), connection)

    def _unreachable(self, why: str) -> CommandGenerator[None]:
        if self._exchange is not None:
            yield from self._perform(self._exchange.unreachable(why))

    # The upstream's answer, held until it is judged

    def _upstream_event(self, event: events.Event) -> CommandGenerator[None]:
        if self._relaying:
            yield from self._relay(event)
        elif isinstance(event, ResponseHeaders):
            yield from self._hold_head(event)
        elif isinstance(event, ResponseData):
            self._held.append(event.data)
            self._held_bytes += len(event.data)
            yield from self._look(event.data)
        elif isinstance(event, ResponseEndOfMessage):
            self._close_attempt()
            self._ended = True
            yield from self._judge()

    def _hold_head(self, event: ResponseHeaders) -> CommandGenerator[None]:
        self._head, self._facts = event, read_head(event.response)
        is_error = event.response.status_code >= 400
        if event.end_stream or not (is_error or self._facts.is_event_stream):
            yield from self._judge()
        elif is_error:
            self._set_deadline(COLLECT_SECONDS)
        else:
            self._peek = FirstEvent(self._facts.content_encoding)
            self._set_deadline(PEEK_SECONDS)

    def _look(self, data: bytes) -> CommandGenerator[None]:
        """Judge as soon as the first event that tells is here, or enough was held."""
        found = self._peek.feed(data) if self._peek is not None else None
        if found is not None:
            yield from self._judge(found if found.get("type") == "error" else None)
        elif self._held_bytes >= HOLD_BYTES:
            yield from self._judge()

    def _judge(self, event: dict[str, Any] | None = None) -> CommandGenerator[None]:
        self.deadline = None
        if self._head is None or self._exchange is None:
            return
        response = self._head.response
        if event is None and response.status_code >= 400:
            event = parse_error(b"".join(self._held), self._facts.content_encoding, HOLD_BYTES)
        step = self._exchange.judge(response.status_code, response.headers.fields, event)
        if not isinstance(step, Send | Wait | Answer):
            yield from self._deliver()
            return
        yield from self._drop_attempt()
        # The upstream's parser is still inside the event that led here; it takes the next request once it returned.
        yield from self._later(0, lambda: self._perform(step))

    def _drop_attempt(self) -> CommandGenerator[None]:
        """Forget this answer. One that has not ended yet is cancelled, which costs an HTTP/1 connection."""
        if self._attempt is not None:
            attempt, connection = self._attempt, self.context.server
            self._close_attempt()
            yield SendHttp(RequestProtocolError(attempt, "another attempt follows", ErrorCode.CANCEL), connection)
        self._head = self._peek = None
        self._held, self._held_bytes = [], 0
        self._ended = False

    def _close_attempt(self) -> None:
        if self._attempt is not None:
            self._parent.close_attempt(self._attempt)
            self._attempt = None

    def _upstream_broke(self, event: ResponseProtocolError) -> CommandGenerator[None]:
        self._close_attempt()
        self.deadline = None
        if self._relaying:
            yield from self._break_off(event)
        elif self._is_reused and self._head is None and not self.context.server.connected and not self._was_lost:
            # The server closed a kept connection just as we took it. That says nothing about the server; a second
            # time does, and so does a reset of just this stream on a connection that goes on.
            self._was_lost = True
            yield from self._later(0, lambda: self._connect(self._credential))
        elif self._exchange is not None:
            step = self._exchange.unreachable(event.message)
            yield from self._drop_attempt()
            yield from self._later(0, lambda: self._perform(step))

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def _deadline_passed(self) -> CommandGenerator[None]:
        self.deadline = None
        if self._discarding:
            yield commands.CloseConnection(self.context.client)
        elif self._connecting is not None:
            self._connecting = None
            yield from self._unreachable(f"no connection within {CONNECT_SECONDS:.0f} s")
        elif self._head is not None:
            yield from self._judge()

    # Delivery: from here on mitmproxy's own response handling, fed by us

    def _deliver(self) -> CommandGenerator[None]:
        head, held = self._head, self._held
        if head is None or self._exchange is None:
            return
        self._relaying = True
        self._peek, self._held = None, []
        response = head.response
        self._exchange.delivering(response.status_code, response.headers.fields)
        self._tap = self._exchange.capture.add
        if self._facts.is_streamed:
            response.stream = self._unchanged
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

    @staticmethod
    def _unchanged(chunk: bytes) -> bytes | list[bytes]:
        # mitmproxy asks once more with b"" at the end; returning that would be an empty chunk, which ends the body.
        return chunk or []

    def _relay(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, ResponseData):
            self._tap(event.data)
            yield from self.server_state(ResponseData(self.stream_id, event.data))
        elif isinstance(event, ResponseTrailers):
            yield from self.server_state(ResponseTrailers(self.stream_id, event.trailers))
        elif isinstance(event, ResponseEndOfMessage):
            if not self._is_upgraded:
                self._close_attempt()
            yield from self._end_relay()

    def _choose_framing(self) -> Framing:
        """Whether the chunks of this answer can go straight to the client's socket.

        So they can when an HTTP/1 client gets a chunked stream that nobody else took over: mitmproxy's way would
        look up a header and an option for each of them, to do the same.
        """
        response, client = self.flow.response, self._parent.connections.get(self.context.client)
        if (
            self.server_state == self.state_stream_response_body
            and isinstance(client, _http1.Http1Server)
            and response is not None
            and response.stream is self._unchanged
            and not response.is_http2
            and self._facts.transfer_encoding == "chunked"
            and not self.context.options.store_streamed_bodies
        ):
            return Framing.CHUNKED
        return Framing.BY_MITMPROXY

    def _end_relay(self) -> CommandGenerator[None]:
        self._ended = True
        if self._exchange is not None and self.server_state != self.state_errored:
            self._exchange.finish()
        yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    @property
    def _is_upgraded(self) -> bool:
        """Whether this answer's end is the beginning of another protocol, so that more follows."""
        return self._head is not None and self._head.response.status_code == SWITCHING

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

    def _break_off(self, event: ResponseProtocolError) -> CommandGenerator[None]:
        collected = self.server_state == self.state_consume_response_body  # nothing of it is with the client yet
        if self._exchange is not None:
            self._exchange.status = BAD_GATEWAY if collected else self._exchange.status
            self._exchange.finish(Outcome.TRUNCATED, event.message)
        if collected:
            refusal = error(BAD_GATEWAY, "The upstream's answer broke off.", request_id=self._request_id)
            self.flow.response = make_response(refusal)
            yield from self.send_response()
            return
        yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, event.message, event.code))

    # Other ends

    def _answer(self, answer: Answer) -> CommandGenerator[None]:
        """Answer ourselves instead of with anything of the upstream's."""
        if self._exchange is not None:
            self._exchange.answered(answer)
        self._relaying = True
        self.flow.response = make_response(answer)
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    def _client_left(self, event: RequestProtocolError) -> CommandGenerator[None]:
        """The client is gone: its upstream attempt is closed at once, whatever state it is in."""
        self._connecting = self._timer = self.deadline = None
        if self._attempt is not None:
            attempt = self._attempt
            self._close_attempt()
            yield SendHttp(RequestProtocolError(attempt, event.message, event.code), self.context.server)
        if self._exchange is not None:
            self._exchange.finish(Outcome.CLIENT_ABORT, "the client left")
        tell_hooks = self.server_state not in (self.state_done, self.state_errored)
        self.client_state = self.server_state = self.state_errored
        if tell_hooks and not self._discarding:
            self.flow.error = flow.Error(event.message)
            yield HttpErrorHook(self.flow)
        self.flow.live = False
        yield DropStream(self.stream_id)


def ignore(_: bytes) -> None:
    """What a stream does with a chunk before anybody wants it."""
