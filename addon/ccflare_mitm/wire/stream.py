"""The stream layer: it holds an answer's head until it is judged, fails over, and puts the credential in last.

mitmproxy's `HttpStream` relays one request to one server. `FailoverStream` stands in for it and keeps two promises:

- No lease, no bytes. The only way upstream leads through `Exchange.next_step`, so an exception in any hook leaves
  a request without a ticket, and a request without a ticket gets a 500 and opens no connection.
- The credential never enters the flow. It is put on a copy of the request at the moment that copy is handed to the
  protocol layer. Whatever shows or stores flows (mitmweb, dumps, HAR files, logs) cannot show it.

Read `states` first: it draws the machine that this module drives. All that a stream has in its hands is its exchange
and, as the state allows, a timer, an `Attempt` (upstream) or a `Relay` (an answer on its way to the client). They are
values that are replaced as a whole, in `_enter` and nowhere else, so there is nothing to reset and to forget: entering
a state lets go of what may not be there in it, and cancels what was still open upstream.

    client                                 FailoverStream                                  upstream
      |--- head, body -----> READING            |                                              |
      |      mitmproxy's own states, the hooks  |                                              |
      |                  make_server_connection |                                              |
      |                        next_step() -> Send, Wait or an answer of ours                  |
      |                      WAITING/CONNECTING |---- GetHttpConnection ---------------------->|
      |                                    SENT |---- the request, with the credential ------->|
      |                                 JUDGING |<--- head; body, as far as it tells ----------|
      |                        judge() -> deliver it, or Send and Wait again                   |
      |<-- head, held body ------------RELAYING |                                              |
      |<-- chunk ------------------------------ |<--- chunk -----------------------------------|
      |<-- the end --------------------ANSWERED |<--- the end ---------------------------------|

Commands are handled while they are yielded: what one leads to may come back to this stream before the `yield` returns.
So a state is entered before the command that begins it is yielded, never after.

This module, `attempt`, `relay`, `layer` and `hooks` stand on mitmproxy's inside; `contract` checks at the start that it
is as it was.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from mitmproxy import flow, http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnectionCompleted, HttpStream, SendHttp
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
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.anthropic.answers import NO_REQUEST, Answer, error
from ccflare_core.anthropic.routes import Route
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.exchange import BAD_GATEWAY, TIMED_OUT, Exchange
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.steps import Outcome, Send, Step, Wait
from ccflare_core.http import failure_words, headers
from ccflare_core.secrets.echo import Echo, trace
from ccflare_mitm.host.messages import make_response, route_of
from ccflare_mitm.wire.attempt import HOLD_BYTES, SWITCHING, Attempt, Parent
from ccflare_mitm.wire.deadlines import DeadlinePassed, Deadlines, ReaderStalled, TunnelOver
from ccflare_mitm.wire.relay import Relay
from ccflare_mitm.wire.states import UNANSWERED, Event, IllegalState, Machine, Part, State

logger = logging.getLogger("ccflare")

PEEK_SECONDS = 10.0
"""How long the first event of a stream may take before its head alone decides."""
COLLECT_SECONDS = 5.0
"""The same for an error's body."""
LINGER_SECONDS = 5.0
"""How long a client that was answered early may go on sending before its connection is closed."""

NOT_VERIFIED = "Certificate verify failed:"
"""How mitmproxy begins to say that it trusts a server's certificate not; OpenSSL's reason follows."""

NOT_ADMITTED = error(500, "The proxy did not admit this request.")

EVENTS: Final[dict[type[events.Event], Event]] = {
    events.Start: Event.REQUEST,
    RequestHeaders: Event.REQUEST,
    RequestData: Event.REQUEST,
    RequestTrailers: Event.REQUEST,
    RequestEndOfMessage: Event.REQUEST,
    RequestProtocolError: Event.CLIENT_LEFT,
    GetHttpConnectionCompleted: Event.CONNECTED,
    events.Wakeup: Event.TIMER,
    ResponseHeaders: Event.HEAD,
    ResponseData: Event.BODY,
    ResponseTrailers: Event.TRAILERS,
    ResponseEndOfMessage: Event.END,
    ResponseProtocolError: Event.BROKEN,
    DeadlinePassed: Event.DEADLINE,
    ReaderStalled: Event.STALLED,
    TunnelOver: Event.TUNNEL_OVER,
}
"""What mitmproxy's events, and the reaper's, mean to the machine. Any other is illegal in all states."""


class Timer(NamedTuple):
    """A wait, and what follows it."""

    command: commands.RequestWakeup
    then: Callable[[], CommandGenerator[None]]


class FailoverStream(HttpStream):
    """One request of a client and its upstream attempts. See the module."""

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id)
        self.deadlines = Deadlines()
        self._parent = parent
        self._machine = Machine()
        self._exchange: Exchange | None = None
        self._timer: Timer | None = None
        self._attempt: Attempt | None = None
        self._relay: Relay | None = None
        self._echo: Echo | None = None
        """Knows the credential that was sent last, to keep it out of the log also when its attempt is gone."""

    def __repr__(self) -> str:
        return f"FailoverStream(id={self.stream_id}, {self.state.name}, attempt={self._attempt})"

    # The machine

    @property
    def state(self) -> State:
        """Where the request stands."""
        return State.PIPE if self.is_pipe else self._machine.state

    @property
    def is_pipe(self) -> bool:
        """Whether this was a request once, for a tunnel or another protocol, and is over as such.

        mitmproxy decides that, by putting `passthrough` in the place of `_handle_event`.
        """
        return bool(self._handle_event == self.passthrough)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            # A chunk of an answer that is relayed costs no look at the table: there is a relay in RELAYING alone.
            relay = self._relay
            if relay is not None and type(event) is ResponseData and event.stream_id == relay.upstream_id:
                yield from relay.chunk(event.data)
            else:
                yield from self._dispatch(event)
        except Exception as problem:
            yield from self._fail_closed(problem)

    def _dispatch(self, event: events.Event) -> CommandGenerator[None]:
        kind = EVENTS.get(type(event))
        if kind is None:
            raise IllegalState(f"{type(event).__name__} came in the state {self._machine.state.name}")
        if not self._machine.handles(kind) or not self._is_current(event):
            return
        match kind:
            case Event.REQUEST:
                yield from self._read(event)
            case Event.CLIENT_LEFT:
                yield from self._client_left(event.message)  # type: ignore[attr-defined]
            case Event.CONNECTED:
                yield from self._connected(event)  # type: ignore[arg-type]
            case Event.TIMER if self._timer is not None:
                yield from self._timer.then()
            case Event.HEAD:
                yield from self._hold_head(event)  # type: ignore[arg-type]
            case Event.BODY:
                yield from self._hold_body(event.data)  # type: ignore[attr-defined]
            case Event.TRAILERS if self._relay is not None:  # held back they would be of no use: they may be left out
                yield from self._relay.trailers(event)  # type: ignore[arg-type]
            case Event.END:
                yield from self._answer_ended()
            case Event.BROKEN:
                yield from self._upstream_broke(event)  # type: ignore[arg-type]
            case Event.DEADLINE:
                yield from self._deadline_passed()
            case Event.STALLED:
                yield from self._reader_stalled()
            case Event.TUNNEL_OVER:
                yield from self._tunnel_over()

    def _is_current(self, event: events.Event) -> bool:
        """Whether an event is about what the stream has in its hands now, and not about what it has let go of."""
        attempt, timer = self._attempt, self._timer
        match event:
            case ResponseHeaders() | ResponseData() | ResponseTrailers() | ResponseEndOfMessage():
                return attempt is not None and event.stream_id == attempt.stream_id
            case ResponseProtocolError():
                return attempt is not None and event.stream_id == attempt.stream_id
            case GetHttpConnectionCompleted():
                return attempt is not None and event.command is attempt.command
            case events.Wakeup():
                return timer is not None and event.command is timer.command
            case _:
                return True

    def _enter(
        self,
        state: State,
        seconds: float | None = None,
        *,
        timer: Timer | None = None,
        attempt: Attempt | None = None,
        relay: Relay | None = None,
    ) -> CommandGenerator[None]:
        """Go on to `state` with these in hand, and let go of what may not be there in it.

        `seconds` is how long it waits for a sign of life. An attempt that goes on from the state before stays.
        """
        rule = self._machine.enter(state)
        self._timer, self._relay, dropped = timer, relay, None
        if attempt is not None or not rule.holds(Part.ATTEMPT):
            dropped, self._attempt = self._attempt, attempt
        if not rule.is_timed:
            self.deadlines.cancel()
        if seconds is None:
            self.deadlines.pause()
        else:
            self.deadlines.wait_for(seconds)
        if dropped is not None:
            yield from dropped.cancel()
        self._machine.check(self._held())

    def _held(self) -> set[Part]:
        attempt = self._attempt
        parts = {
            Part.EXCHANGE: self._exchange is not None,
            Part.TIMER: self._timer is not None,
            Part.ATTEMPT: attempt is not None,
            Part.UPSTREAM: attempt is not None and attempt.stream_id is not None,
            Part.HEAD: attempt is not None and attempt.head is not None,
            Part.RELAY: self._relay is not None,
        }
        return {part for part, is_held in parts.items() if is_held}

    def _fail_closed(self, problem: Exception) -> CommandGenerator[None]:
        """End this request after an error of our own, which mitmproxy would log and leave the client hanging.

        Whatever failed may fail again, so the table is not asked any more.
        """
        state, attempt = self._machine.state, self._attempt
        if isinstance(problem, IllegalState):
            logger.error("ccflare ends a request that is not as it has to be: %s", problem)
        else:
            logger.error(
                "ccflare failed inside in the state %s; the request ends here\n%s",
                state.name,
                trace(problem, self._echo),
            )
        can_answer = state in UNANSWERED and self.client_state == self.state_done
        self._machine.state = State.OVER
        self._timer = self._attempt = self._relay = None
        self.deadlines.cancel()
        self.client_state = self.server_state = self.state_errored
        self.abandon()
        refusal = error(500, "The proxy failed inside; its log says more.", request_id=self._request_id)
        if attempt is not None:
            yield from attempt.cancel()
        if can_answer:
            self.flow.response = make_response(refusal)
            yield from self._send_whole(self.flow.response)
        else:
            code = ErrorCode.GENERIC_SERVER_ERROR
            yield SendHttp(ResponseProtocolError(self.stream_id, refusal.reason, code), self.context.client)
        yield DropStream(self.stream_id)

    def abandon(self) -> None:
        """End the exchange after an error of our own. Never raises."""
        with contextlib.suppress(Exception):
            self._exchange = self._exchange or self._parent.services.find(self.flow)
            if self._exchange is not None:
                self._exchange.finish(Outcome.UPSTREAM_ERROR, "an error inside the proxy")

    # What is there in most states. Where it is not, that is an error of ours.

    @property
    def _admitted(self) -> Exchange:
        if self._exchange is None:
            raise IllegalState(f"there is no exchange in the state {self._machine.state.name}")
        return self._exchange

    @property
    def _current(self) -> Attempt:
        if self._attempt is None:
            raise IllegalState(f"there is no attempt in the state {self._machine.state.name}")
        return self._attempt

    @property
    def _request_id(self) -> str:
        return NO_REQUEST if self._exchange is None else self._exchange.id

    @property
    def _target(self) -> UpstreamTarget:
        return self._parent.services.target(self.context.client)

    # READING: mitmproxy's own, up to the point where it would open a server connection

    def _read(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestData):
            self.deadlines.heard()
        yield from super()._handle_event(event)
        if self._machine.state is State.READING and self.client_state == self.state_errored:
            # mitmproxy has ended it: it was killed in a hook, or could not be read. It would be kept for good.
            yield from self._enter(State.OVER)
            yield DropStream(self.stream_id)

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        """As mitmproxy's, which in reverse mode forgets what the client had asked for. The body has to come in time."""
        services = self._parent.services
        services.claim(event.request)
        yield from super().state_wait_for_request_headers(event)
        if self.client_state == self.state_consume_request_body and not event.end_stream:
            settings = services.settings()
            self.deadlines.wait_for(settings.client_body_idle_seconds)
            self.deadlines.end_after(settings.client_body_seconds)

    def check_body_size(self, request: bool) -> CommandGenerator[bool]:
        """Refuse a request that is too big before it is read. Answers are never limited: they only pass by."""
        if not request:
            return False
        size = len(self.request_body_buf) or http1.expected_http_body_size(self.flow.request) or 0
        # Who has an answer already, a refusal, need not send more than a proxy would have in its buffers anyway.
        limit = HOLD_BYTES if self.flow.response else self._parent.services.body_limit
        if size <= limit:
            return False
        if not self.request_body_buf:  # the hook has not seen this flow yet
            yield HttpRequestHeadersHook(self.flow)
        yield from self._refuse_early(413, f"The request body is larger than {limit} bytes.")
        return True

    def check_invalid(self, request: bool) -> CommandGenerator[bool]:
        """As mitmproxy's for requests; an upstream's head was looked at before it was judged."""
        return (yield from super().check_invalid(request)) if request else False

    def make_server_connection(self) -> CommandGenerator[bool]:
        """Where mitmproxy asks for a server: from here on the request is ours, so it never gets one from us."""
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

    # WAITING, CONNECTING, SENT: toward the upstream

    def _next_step(self) -> CommandGenerator[None]:
        yield from self._perform(self._admitted.next_step())

    def _perform(self, step: Step) -> CommandGenerator[None]:
        match step:
            case Send():
                yield from self._connect(Attempt(step.credential, self._parent))
            case Wait():
                yield from self._later(step.seconds, self._next_step)
            case Answer():
                yield from self._answer(step)
            case _:
                raise IllegalState(f"there is nothing to deliver in the state {self._machine.state.name}")

    def _later(self, seconds: float, then: Callable[[], CommandGenerator[None]]) -> CommandGenerator[None]:
        timer = Timer(commands.RequestWakeup(seconds), then)
        yield from self._enter(State.WAITING, timer=timer)
        yield timer.command

    def _connect(self, attempt: Attempt) -> CommandGenerator[None]:
        request = self.flow.request
        if attempt.credential is not None and not self._may_carry_credential(request):
            # Another addon has changed the destination after the gate had set it.
            refusal = error(500, "The request is not aimed at the upstream's API.", request_id=self._request_id)
            yield from self._answer(refusal)
            return
        self._echo = attempt.echo
        command = attempt.connect(request, self._target)
        yield from self._enter(State.CONNECTING, self._parent.services.settings().connect_seconds, attempt=attempt)
        yield command

    def _may_carry_credential(self, request: http.Request) -> bool:
        if (request.scheme, (request.host, request.port)) != (self._target.scheme, self._target.address):
            return False
        return route_of(request) is Route.INFERENCE

    def _connected(self, event: GetHttpConnectionCompleted) -> CommandGenerator[None]:
        attempt, target = self._current, self._target
        connection, problem = event.reply
        if connection is None:
            yield from self._unreachable(failure_words.of(str(problem)))
            return
        if flaw := self._parent.services.proof.flaw(connection, target, leased=attempt.credential is not None):
            yield commands.CloseConnection(connection)
            yield from self._perform(self._admitted.distrust(flaw))
            return
        self.context.server = self.flow.server_conn = connection  # type: ignore[assignment]
        attempt.open(connection, self)
        yield from self._enter(State.SENT, self._parent.services.settings().first_byte_seconds)
        yield from attempt.send(self.flow, target)

    def _unreachable(self, why: str) -> CommandGenerator[None]:
        if why.startswith(NOT_VERIFIED):
            step: Step = self._admitted.distrust(Kind.NOT_TRUSTED, why.removeprefix(NOT_VERIFIED).strip())
        else:
            step = self._admitted.unreachable(why)
        yield from self._perform(step)

    # JUDGING: the upstream's answer, held until it is known what it is worth

    def _hold_head(self, event: ResponseHeaders) -> CommandGenerator[None]:
        attempt = self._current
        if problem := attempt.take_head(event, is_validated=self.context.options.validate_inbound_headers):
            yield from self._no_answer(problem)
            return
        yield from self._enter(State.JUDGING, COLLECT_SECONDS if attempt.is_error else PEEK_SECONDS)
        if attempt.is_told_by_head:
            yield from self._judge()

    def _hold_body(self, data: bytes) -> CommandGenerator[None]:
        if self._current.hold(data):
            yield from self._judge()

    def _judge(self) -> CommandGenerator[None]:
        attempt = self._current
        fields = attempt.head.response.headers.fields if attempt.head is not None else ()
        step = self._admitted.judge(attempt.status, fields, attempt.evidence())
        if isinstance(step, Deliver):
            yield from self._deliver(attempt)
        else:
            # The upstream's parser is still inside the event that led here; it takes the next request once it returned.
            yield from self._later(0, lambda: self._perform(step))

    def _deliver(self, attempt: Attempt) -> CommandGenerator[None]:
        exchange, head = self._admitted, attempt.head
        if head is None:
            raise IllegalState(f"there is no head in the state {self._machine.state.name}")
        if not attempt.screen_body(self._request_id):
            yield from attempt.cancel()
        response = head.response
        exchange.delivering(response.status_code, response.headers.fields)
        response.headers.fields = headers.toward_client(response.headers.fields, leased=attempt.credential is not None)
        relay = Relay(self, self._parent, attempt, exchange.capture)
        yield from self._enter(State.RELAYING, self._parent.services.settings().stream_idle_seconds, relay=relay)
        yield from relay.begin(head)
        if attempt.is_whole:
            yield from self._end_relay(relay)
        elif self.server_state == self.state_errored:  # killed in a hook, or the client left meanwhile
            yield from self._enter(State.OVER)
            yield DropStream(self.stream_id)

    # RELAYING, up to the answer's end

    def _answer_ended(self) -> CommandGenerator[None]:
        attempt = self._current
        if attempt.status != SWITCHING:
            attempt.close()
        if self._relay is not None:
            yield from self._end_relay(self._relay)
        else:
            attempt.is_whole = True
            yield from self._judge()

    def _end_relay(self, relay: Relay) -> CommandGenerator[None]:
        yield from relay.flush()
        if self.server_state != self.state_errored:
            self._admitted.finish()
        yield from self._enter(State.PIPE if self._current.status == SWITCHING else State.ANSWERED)
        yield from relay.end()

    def note_progress(self) -> None:
        """Count what has been relayed since the last look as a sign of life."""
        if self._relay is not None and self._relay.has_moved():
            self.deadlines.heard()

    # PIPE

    def passthrough(self, event: events.Event) -> CommandGenerator[None]:
        """mitmproxy's own, but after an upgrade, as of a WebSocket, upstream knows the attempt by its own id."""
        if isinstance(event, DeadlinePassed | ReaderStalled | TunnelOver):
            return  # these are about requests; what is inside of a tunnel hears of the close that follows
        for command in super().passthrough(event):
            if (
                isinstance(command, SendHttp)
                and command.connection is self.context.server
                and self._attempt is not None
                and self._attempt.stream_id is not None
            ):
                command.event.stream_id = self._attempt.stream_id
            yield command

    # ANSWERED, LINGERING: answers of our own

    def _answer(self, answer: Answer) -> CommandGenerator[None]:
        """Answer ourselves instead of with anything of the upstream's."""
        if self._exchange is not None:
            self._exchange.answered(answer)
        yield from self._enter(State.ANSWERED)
        self._parent.services.decisions.give(self.flow, answer)
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    def _refuse_early(self, status: int, message: str) -> CommandGenerator[None]:
        """Refuse a request whose body is still on its way; what comes of it is read and dropped."""
        self.request_body_buf.clear()
        self._exchange = self._parent.services.find(self.flow)
        if self._exchange is not None and self._exchange.outcome is None:
            response = make_response(self._exchange.refuse(status, message))
        else:
            response = self.flow.response or make_response(NOT_ADMITTED)  # the gate has refused it, or failed
        response.headers["connection"] = "close"
        yield from self._enter(State.LINGERING)
        self._parent.services.decisions.keep(self.flow, response)
        self.flow.live = False
        self.client_state, self.server_state = self.state_errored, self.state_done
        yield HttpResponseHook(self.flow)
        yield from self._send_whole(self.flow.response or response)
        self.deadlines.wait_for(LINGER_SECONDS)

    def send_response(self, already_streamed: bool = False) -> CommandGenerator[None]:
        """As mitmproxy's, which over HTTP/2 would send a body after a HEAD too: an error that ends the connection."""
        if self._machine.state is State.READING:  # the gate, or another addon, has put an answer into the flow
            yield from self._enter(State.ANSWERED)
        if self.flow.response is not None and self.flow.request.method == "HEAD":
            self.flow.response.raw_content = b""
        yield from super().send_response(already_streamed)

    def _send_whole(self, response: http.Response) -> CommandGenerator[None]:
        """Send an answer past mitmproxy's response handling, which is not in a state for it."""
        body = b"" if self.flow.request.method == "HEAD" else response.raw_content or b""
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)
        yield SendHttp(ResponseData(self.stream_id, body), self.context.client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    # What goes wrong

    def _upstream_broke(self, event: ResponseProtocolError) -> CommandGenerator[None]:
        attempt, why = self._current, failure_words.of(event.message)
        attempt.close()
        if self._relay is not None:
            yield from self._break_off(self._relay, why, event.code)
        elif attempt.is_reused and attempt.head is None and not attempt.connection.connected and not attempt.is_repeat:
            # The server closed a kept connection just as we took it. That says nothing about the server; a second
            # time does, and so does a reset of just this stream on a connection that goes on.
            again = Attempt(attempt.credential, self._parent, is_repeat=True)
            yield from self._later(0, lambda: self._connect(again))
        else:
            yield from self._no_answer(why)

    def _no_answer(self, why: str) -> CommandGenerator[None]:
        """The upstream has broken off before there was an answer, or what it gave is none."""
        step = self._admitted.unreachable(why)
        yield from self._later(0, lambda: self._perform(step))

    def _break_off(self, relay: Relay, why: str, code: ErrorCode, *, late: bool = False) -> CommandGenerator[None]:
        """Nothing more of this answer comes: the upstream broke it off, or kept silent for too long."""
        exchange, is_collected = self._admitted, relay.is_collected
        status = TIMED_OUT if late else BAD_GATEWAY
        exchange.status = status if is_collected else exchange.status
        exchange.finish(Outcome.TRUNCATED, why)
        if is_collected:
            yield from self._enter(State.ANSWERED)
            message = f"The upstream's answer did not go on: {why}." if late else "The upstream's answer broke off."
            answer = error(status, message, request_id=self._request_id)
            self._parent.services.decisions.give(self.flow, answer)
            yield from self.send_response()
            return
        yield from self._enter(State.OVER)
        if late:
            yield from relay.tell("timeout_error", f"The stream ends here: {why}.", self._request_id)
        # The body gets no proper end, so that nobody takes it for a whole one.
        yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, why, code))

    def _deadline_passed(self) -> CommandGenerator[None]:
        self.note_progress()
        deadlines, now = self.deadlines, self.deadlines.clock()
        if not deadlines.is_over(now):
            return  # it was heard of meanwhile, or is in another state
        settings, seconds, is_at_end = self._parent.services.settings(), deadlines.seconds, deadlines.is_at_end(now)
        deadlines.pause()
        match self._machine.state:
            case State.LINGERING:
                yield from self._hang_up()
            case State.READING if is_at_end:
                whole = settings.client_body_seconds
                yield from self._refuse_early(408, f"The request's body took longer than {whole} s.")
            case State.READING:
                yield from self._refuse_early(408, f"Nothing came of the request's body for {seconds} s.")
            case _ if is_at_end:
                yield from self._too_late(f"the exchange took longer than {settings.exchange_seconds} s")
            case State.CONNECTING:
                yield from self._unreachable(f"no connection within {seconds} s")
            case State.JUDGING:
                yield from self._judge()
            case State.SENT:
                yield from self._too_late(f"the upstream sent no answer within {seconds} s")
            case _:
                yield from self._too_late(f"the upstream sent nothing for {seconds} s")

    def _too_late(self, why: str) -> CommandGenerator[None]:
        if self._relay is not None:
            yield from self._break_off(self._relay, why, ErrorCode.GENERIC_SERVER_ERROR, late=True)
        else:
            is_asked = self._machine.state in (State.SENT, State.JUDGING)
            yield from self._answer(self._admitted.too_late(why, asked=is_asked))

    def _hang_up(self) -> CommandGenerator[None]:
        """End what the client still sends, which over HTTP/2 must not cost its other requests."""
        if isinstance(self._parent.connections.get(self.context.client), Http1Server):
            yield commands.CloseConnection(self.context.client)
            return
        yield from self._enter(State.OVER)
        yield SendHttp(ResponseProtocolError(self.stream_id, "answered", ErrorCode.CANCEL), self.context.client)
        yield DropStream(self.stream_id)

    def _reader_stalled(self) -> CommandGenerator[None]:
        """The client takes nothing of what it is sent. Whatever waits for it is let go."""
        why = f"the client read nothing for {self._parent.services.settings().client_stall_seconds} s"
        yield from self._client_left(why, f"{why}; it was cut off")

    def _tunnel_over(self) -> CommandGenerator[None]:
        """The connection ends next, so there is nobody left to answer."""
        why = "the client key that the tunnel was opened with is over"
        yield from self._client_left(why, why)

    def _client_left(self, message: str, why: str = "the client left") -> CommandGenerator[None]:
        """The client is gone: its upstream attempt is closed at once, in any state."""
        is_lingering = self._machine.state is State.LINGERING
        yield from self._enter(State.OVER)
        if self._exchange is not None:
            self._exchange.finish(Outcome.CLIENT_ABORT, why)
        tell_hooks = self.server_state not in (self.state_done, self.state_errored) and not is_lingering
        self.client_state = self.server_state = self.state_errored
        if tell_hooks:
            self.flow.error = flow.Error(message)
            yield HttpErrorHook(self.flow)
        self.flow.live = False
        yield DropStream(self.stream_id)
