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

import logging
from collections.abc import Callable
from typing import Any

from mitmproxy import flow, http
from mitmproxy.net.http import http1, validate
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnection, GetHttpConnectionCompleted, SendHttp
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
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpRequestHeadersHook
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.accounts.account import Credential
from ccflare_core.anthropic.answers import Answer, error
from ccflare_core.anthropic.routes import Route
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.steps import Outcome, Send, Step, Wait
from ccflare_core.http import failure_words, headers
from ccflare_core.http.sse import FirstEvent
from ccflare_core.secrets.echo import Echo, trace
from ccflare_mitm.host.messages import (
    make_response,
    parse_error,
    read_head,
    route_of,
    screen_error,
    screen_head,
    with_credential,
)
from ccflare_mitm.wire.deadlines import DeadlinePassed, Phase, ReaderStalled, TunnelOver
from ccflare_mitm.wire.relay import SWITCHING, Framing, Parent, RelayStream

logger = logging.getLogger("ccflare")

PEEK_SECONDS = 10.0
COLLECT_SECONDS = 5.0
"""How long an error's body may take before its head alone decides."""
HOLD_BYTES = 64 * 1024
"""How much of an answer is held back at most before it is judged."""

NOT_VERIFIED = "Certificate verify failed:"
"""How mitmproxy begins to say that it trusts a server's certificate not; OpenSSL's reason follows."""

NOT_ADMITTED = error(500, "The proxy did not admit this request.")


class FailoverStream(RelayStream):
    """One request of a client and its upstream attempts. See the module."""

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id, parent)
        self._connecting: GetHttpConnection | None = None
        self._credential: Credential | None = None
        self._timer: commands.RequestWakeup | None = None
        self._then: Callable[[], CommandGenerator[None]] = self._next_step
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._peek: FirstEvent | None = None
        self._is_reused = False
        self._was_lost = False

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            if (
                self._framing is Framing.CHUNKED
                and isinstance(event, ResponseData)
                and event.stream_id == self._attempt
            ):
                self._tap(event.data)
                self._last = event.data
                yield commands.SendData(self.context.client, b"%x\r\n%s\r\n" % (len(event.data), event.data))
            else:
                yield from self._dispatch(event)
        except Exception as problem:
            logger.error("ccflare failed inside; the request ends here\n%s", trace(problem, self._echo))
            yield from self._give_up()

    def _give_up(self) -> CommandGenerator[None]:
        """End this request after an error of our own, which mitmproxy would log and leave the client hanging."""
        can_answer = self.client_state == self.state_done and not self._relaying
        self._connecting = self._timer = None
        self.deadlines.cancel()
        self._framing = Framing.BY_MITMPROXY
        self.client_state = self.server_state = self.state_errored
        self.abandon()
        refusal = error(500, "The proxy failed inside; its log says more.", request_id=self._request_id)
        yield from self._drop_attempt()
        if can_answer:
            self.flow.response = make_response(refusal)
            yield from self._send_whole(self.flow.response)
        else:
            code = ErrorCode.GENERIC_SERVER_ERROR
            yield SendHttp(ResponseProtocolError(self.stream_id, refusal.reason, code), self.context.client)
        yield DropStream(self.stream_id)

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
            case RequestData():
                self.deadlines.heard_at = self.deadlines.clock()
                yield from super()._handle_event(event)
            case DeadlinePassed():
                yield from self._deadline_passed()
            case ReaderStalled():
                yield from self._reader_stalled()
            case TunnelOver():
                yield from self._tunnel_over()
            case _:
                yield from super()._handle_event(event)

    # The request, up to the point where mitmproxy would open a server connection

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        """As mitmproxy's, which in reverse mode forgets what the client had asked for. The body has to come in time."""
        services = self._parent.services
        services.claim(event.request)
        yield from super().state_wait_for_request_headers(event)
        if self.client_state == self.state_consume_request_body and not event.end_stream:
            settings = services.settings()
            self.deadlines.wait_for(Phase.BODY, settings.client_body_idle_seconds)
            self.deadlines.end_after(settings.client_body_seconds)

    def check_body_size(self, request: bool) -> CommandGenerator[bool]:
        """Refuse a request that is too big before it is read. Answers are never limited: they only pass by."""
        if not request:
            return False
        size = len(self.request_body_buf) or http1.expected_http_body_size(self.flow.request) or 0
        # Whoever has his answer already, a refusal, need not send more than a proxy would have in its buffers anyway.
        limit = HOLD_BYTES if self.flow.response else self._parent.services.body_limit
        if size <= limit:
            return False
        if not self.request_body_buf:  # the hook has not seen this flow yet
            yield HttpRequestHeadersHook(self.flow)
        yield from self._refuse_early(413, f"The request body is larger than {limit} bytes.")
        return True

    def _refuse_early(self, status: int, message: str) -> CommandGenerator[None]:
        """Refuse a request whose body is still on its way."""
        self.request_body_buf.clear()
        self._exchange = self._parent.services.find(self.flow)
        if self._exchange is not None and self._exchange.outcome is None:
            response = make_response(self._exchange.refuse(status, message))
        else:
            response = self.flow.response or make_response(NOT_ADMITTED)  # the gate has refused it, or failed
        yield from self._answer_early(response)

    def make_server_connection(self) -> CommandGenerator[bool]:
        """Where mitmproxy asks for a server: from here on the request is ours, so it never gets one from us."""
        self.deadlines.pause()
        self.deadlines.end_after(self._parent.services.settings().exchange_seconds)
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

    @property
    def _target(self) -> UpstreamTarget:
        return self._parent.services.target(self.context.client)

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
        self.deadlines.pause()
        yield self._timer

    def _connect(self, credential: Credential | None) -> CommandGenerator[None]:
        request = self.flow.request
        if credential is not None and not self._may_carry_credential(request):
            # Another addon has changed the destination after the gate had set it.
            refusal = error(500, "The request is not aimed at the upstream's API.", request_id=self._request_id)
            yield from self._answer(refusal)
            return
        self._credential = credential
        self._echo = Echo(credential.secret) if credential is not None else None
        egress = self._target.egress_proxy
        via: Any = egress and tuple(egress)
        command = GetHttpConnection((request.host, request.port), request.scheme == "https", via)
        # "Blocking, and already taken care of": the answer comes to us as an event. If mitmproxy paused the stream
        # instead, neither a deadline nor a client that leaves would be seen while it connects.
        command.blocking = self  # type: ignore[assignment]
        self._connecting = command
        self.deadlines.wait_for(Phase.CONNECTION, self._parent.services.settings().connect_seconds)
        yield command

    def _may_carry_credential(self, request: http.Request) -> bool:
        if (request.scheme, (request.host, request.port)) != (self._target.scheme, self._target.address):
            return False
        return route_of(request) is Route.INFERENCE

    def _connected(self, event: GetHttpConnectionCompleted) -> CommandGenerator[None]:
        self._connecting = None
        connection, problem = event.reply
        if connection is None or self._exchange is None:
            yield from self._unreachable(failure_words.of(str(problem)))
            return
        leased = self._credential is not None
        if flaw := self._parent.services.proof.flaw(connection, self._target, leased=leased):
            yield commands.CloseConnection(connection)
            yield from self._perform(self._exchange.distrust(flaw))
            return
        self.context.server = self.flow.server_conn = connection  # type: ignore[assignment]
        self._is_reused = connection in self._parent.used
        self._parent.used.add(connection)
        self._attempt = attempt = self._parent.open_attempt(self)
        fields = self._parent.services.reveal(self.flow.request)
        request = with_credential(self.flow.request, fields, self._credential, self._target)
        body, trailers = self.flow.request.raw_content, self.flow.request.trailers
        if connection.alpn != b"h2" or self._credential is not None:
            # mitmproxy's HTTP/1 cannot send any, and nobody has looked at what is in them. They may be left out
            # (RFC 9110, 6.5.1).
            trailers = None
        head = RequestHeaders(attempt, request, end_stream=not (body or trailers))
        self.deadlines.wait_for(Phase.HEAD, self._parent.services.settings().first_byte_seconds)
        yield SendHttp(head, connection)
        if body:
            yield SendHttp(RequestData(attempt, body), connection)
        if trailers:
            yield SendHttp(RequestTrailers(attempt, trailers), connection)
        yield SendHttp(RequestEndOfMessage(attempt), connection)

    def _unreachable(self, why: str) -> CommandGenerator[None]:
        if self._exchange is None:
            return
        if why.startswith(NOT_VERIFIED):
            step: Step = self._exchange.distrust(Kind.NOT_TRUSTED, why.removeprefix(NOT_VERIFIED).strip())
        else:
            step = self._exchange.unreachable(why)
        yield from self._perform(step)

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
        response = event.response
        if self._echo is not None:
            screen_head(response, self._echo)
        if problem := self._unfit(response):
            yield from self._drop_attempt()
            yield from self._no_answer(problem)
            return
        self._head, self._facts = event, read_head(response)
        is_error = response.status_code >= 400
        if event.end_stream or not (is_error or self._facts.is_event_stream):
            yield from self._judge()
        elif is_error:
            self.deadlines.wait_for(Phase.VERDICT, COLLECT_SECONDS)
        else:
            self._peek = FirstEvent(self._facts.content_encoding)
            self.deadlines.wait_for(Phase.VERDICT, PEEK_SECONDS)

    def _unfit(self, response: http.Response) -> str | None:
        """Why this head cannot be passed on, if so: then it is no answer."""
        if response.status_code == SWITCHING and self._credential is not None:
            return "the answer switches to another protocol"
        if self.context.options.validate_inbound_headers:
            try:
                validate.validate_headers(response)
            except ValueError:  # its message quotes the upstream
                return "the answer's length can be read in two ways, or a field has no name"
        return headers.unfit_answer(response.headers.fields)

    def _look(self, data: bytes) -> CommandGenerator[None]:
        """Judge as soon as the first event that tells is here, or enough was held."""
        found = self._peek.feed(data) if self._peek is not None else None
        if found is not None:
            yield from self._judge(found if found.get("type") == "error" else None)
        elif self._held_bytes >= HOLD_BYTES:
            yield from self._judge()

    def _judge(self, event: dict[str, Any] | None = None) -> CommandGenerator[None]:
        self.deadlines.pause()
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

    def _deliver(self) -> CommandGenerator[None]:
        head, held = self._head, self._held
        if head is None or self._exchange is None:
            return
        self._peek, self._held = None, []
        response = head.response
        if self._echo is not None and response.status_code >= 400:
            held = yield from self._screen_error(head, held, self._echo)
        self._exchange.delivering(response.status_code, response.headers.fields)
        self._tap = self._exchange.capture.add
        leased = self._credential is not None
        response.headers.fields = headers.toward_client(response.headers.fields, leased=leased)
        yield from self._pass_on(head, held)

    def _screen_error(self, head: ResponseHeaders, held: list[bytes], echo: Echo) -> CommandGenerator[list[bytes]]:
        """What is held of an error's body, which may quote the request, without the credential."""
        is_whole = head.end_stream or self._ended
        if (body := screen_error(head.response, held, echo, is_whole=is_whole, request_id=self._request_id)) is None:
            self._is_searched = True
            return held
        if body is not held:
            yield from super()._drop_attempt()  # nothing more of it is wanted
            self._ended, self._facts = True, read_head(head.response)
        return body

    def _drop_attempt(self) -> CommandGenerator[None]:
        yield from super()._drop_attempt()
        self._head = self._peek = None
        self._held, self._held_bytes = [], 0
        self._ended = False

    # What goes wrong

    def _upstream_broke(self, event: ResponseProtocolError) -> CommandGenerator[None]:
        self._close_attempt()
        self.deadlines.pause()
        if self._relaying:
            yield from self._break_off(failure_words.of(event.message), event.code)
        elif self._is_reused and self._head is None and not self.context.server.connected and not self._was_lost:
            # The server closed a kept connection just as we took it. That says nothing about the server; a second
            # time does, and so does a reset of just this stream on a connection that goes on.
            self._was_lost = True
            yield from self._later(0, lambda: self._connect(self._credential))
        else:
            yield from self._no_answer(failure_words.of(event.message))

    def _no_answer(self, why: str) -> CommandGenerator[None]:
        """The upstream has broken off before there was an answer, or what it gave is none."""
        if self._exchange is not None:
            step = self._exchange.unreachable(why)
            yield from self._drop_attempt()
            yield from self._later(0, lambda: self._perform(step))

    def _deadline_passed(self) -> CommandGenerator[None]:
        deadlines, settings, now = self.deadlines, self._parent.services.settings(), self.deadlines.clock()
        self.look()
        if not deadlines.is_over(now):
            return
        seconds, is_at_end, phase = deadlines.seconds, deadlines.is_at_end(now), deadlines.phase
        deadlines.pause()
        if phase is Phase.LEAVING:
            yield from self._hang_up()
        elif phase is Phase.BODY and is_at_end:
            yield from self._refuse_early(408, f"The request's body took longer than {settings.client_body_seconds} s.")
        elif phase is Phase.BODY:
            yield from self._refuse_early(408, f"Nothing came of the request's body for {seconds} s.")
        elif is_at_end:
            yield from self._too_late(f"the exchange took longer than {settings.exchange_seconds} s")
        elif phase is Phase.CONNECTION:
            self._connecting = None
            yield from self._unreachable(f"no connection within {seconds} s")
        elif phase is Phase.VERDICT:
            yield from self._judge()
        elif phase is Phase.HEAD:
            yield from self._too_late(f"the upstream sent no answer within {seconds} s")
        else:
            yield from self._too_late(f"the upstream sent nothing for {seconds} s")

    def _too_late(self, why: str) -> CommandGenerator[None]:
        if self._relaying:
            yield from self._break_off(why, ErrorCode.GENERIC_SERVER_ERROR, late=True)
        elif self._exchange is not None:
            answer = self._exchange.too_late(why, asked=self._attempt is not None)
            self._connecting = self._timer = None
            yield from self._drop_attempt()
            yield from self._answer(answer)

    def _reader_stalled(self) -> CommandGenerator[None]:
        """The client takes nothing of what it is sent. Whatever waits for it is let go."""
        why = f"the client read nothing for {self._parent.services.settings().client_stall_seconds} s"
        yield from self._client_left(
            RequestProtocolError(self.stream_id, why, ErrorCode.CLIENT_DISCONNECTED), f"{why}; it was cut off"
        )

    def _tunnel_over(self) -> CommandGenerator[None]:
        """The connection ends next, so there is nobody left to answer."""
        why = "the client key that the tunnel was opened with is over"
        yield from self._client_left(RequestProtocolError(self.stream_id, why, ErrorCode.CLIENT_DISCONNECTED), why)

    def _hang_up(self) -> CommandGenerator[None]:
        """End what the client still sends, which over HTTP/2 must not cost its other requests."""
        if isinstance(self._parent.connections.get(self.context.client), Http1Server):
            yield commands.CloseConnection(self.context.client)
            return
        yield SendHttp(ResponseProtocolError(self.stream_id, "answered", ErrorCode.CANCEL), self.context.client)
        yield DropStream(self.stream_id)

    def _client_left(self, event: RequestProtocolError, why: str = "the client left") -> CommandGenerator[None]:
        """The client is gone: its upstream attempt is closed at once, whatever state it is in."""
        self._connecting = self._timer = None
        self.deadlines.cancel()
        if self._attempt is not None:
            attempt = self._attempt
            self._close_attempt()
            yield SendHttp(RequestProtocolError(attempt, event.message, event.code), self.context.server)
        if self._exchange is not None:
            self._exchange.finish(Outcome.CLIENT_ABORT, why)
        tell_hooks = self.server_state not in (self.state_done, self.state_errored)
        self.client_state = self.server_state = self.state_errored
        if tell_hooks and not self._discarding:
            self.flow.error = flow.Error(event.message)
            yield HttpErrorHook(self.flow)
        self.flow.live = False
        yield DropStream(self.stream_id)
