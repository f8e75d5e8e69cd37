"""The stream layer: it holds an answer's head until it is judged, fails over, and puts the credential in last.

mitmproxy's `HttpStream` relays one request to one server. `FailoverStream` stands in for it and keeps two promises:

- No lease, no bytes. The only way upstream leads through `Exchange.next_step`, so an exception in any hook leaves
  a request without a ticket, and a request without a ticket gets a 500 and opens no connection.
- The credential never enters the flow. It is put on a copy of the request at the moment that copy is handed to the
  protocol layer. Whatever shows or stores flows (mitmweb, dumps, HAR files, logs) cannot show it.

Read `states` first: it draws the machine that is driven here. `course` holds where a stream stands, and what it has in
its hands there. mitmproxy's events arrive in this module; what they lead to is in `upstream_side`, until an answer is
good, and in `client_side` from there on. An `attempt` is one request upstream, a `relay` one answer that passes.

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

A large file is not read first: after its head alone the exchange is asked for the next step, and while the stream is in
UPLOADING its body goes up as it comes, in place of the body at the beginning of SENT.

Commands are handled while they are yielded: what one leads to may come back to this stream before the `yield` returns.
So a state is entered before the command that begins it is yielded, never after.

All of these, `layer` and `hooks` stand on mitmproxy's inside; `contract` checks at the start that it is as it was.
"""

import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
)
from mitmproxy.proxy.layers.http._hooks import HttpRequestHeadersHook, HttpRequestHook

from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Spooled
from ccflare_core.http import failure_words
from ccflare_core.secrets.echo import trace
from ccflare_mitm.host.messages import is_batch_upload
from ccflare_mitm.wire.attempt import HOLD_BYTES, Parent
from ccflare_mitm.wire.client_side import NOT_ADMITTED, ClientSide
from ccflare_mitm.wire.course import Course
from ccflare_mitm.wire.deadlines import DeadlinePassed, Deadlines, ReaderStalled, TunnelOver
from ccflare_mitm.wire.guarded_tunnel import GuardedTunnel
from ccflare_mitm.wire.services import PAGE_BYTES, BodyBounds
from ccflare_mitm.wire.states import UNANSWERED, Event, IllegalState, State
from ccflare_mitm.wire.upload import Upload
from ccflare_mitm.wire.upstream_side import UpstreamSide

logger = logging.getLogger("ccflare")

SPOOLED_BYTES = 16 * 1024 * 1024
"""A batch that is larger goes to the disk while it comes."""


class FailoverStream(HttpStream):
    """One request of a client and its upstream attempts. See the module."""

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id)
        self._parent = parent
        self._course = Course()
        self._client = ClientSide(self, self._course, parent)
        self._upstream = UpstreamSide(self, self._course, parent, self._client)

    def __repr__(self) -> str:
        return f"FailoverStream(id={self.stream_id}, {State.PIPE.name if self.is_pipe else self._course})"

    # The machine

    @property
    def state(self) -> State:
        """Where the request stands."""
        return State.PIPE if self.is_pipe else self._course.state

    @property
    def deadlines(self) -> Deadlines:
        """How long it may stand there: the reaper looks at it."""
        return self._course.deadlines

    @property
    def is_pipe(self) -> bool:
        """Whether this was a request once, for a tunnel or another protocol, and is over as such.

        mitmproxy decides that, by putting `passthrough` in the place of `_handle_event`.
        """
        return bool(self._handle_event == self.passthrough)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            # A chunk of an answer that is relayed costs no look at the table: there is a relay in RELAYING alone.
            relay = self._course.relay
            if relay is not None and type(event) is ResponseData and event.stream_id == relay.upstream_id:
                yield from relay.chunk(event.data)
            else:
                yield from self._dispatch(event)
        except Exception as problem:
            yield from self._fail_closed(problem)

    def _dispatch(self, event: Any) -> Iterable[commands.Command]:
        """What follows from an event. Who does it gives the commands: each layer of `yield from` costs at every one."""
        course, client, upstream = self._course, self._client, self._upstream
        match course.takes(event):
            case Event.REQUEST:
                return self._read(event)
            case Event.UPLOAD:
                uploaded: CommandGenerator[None] = self.client_state(event)
                return uploaded
            case Event.CLIENT_LEFT:
                return client.left(event.message)
            case Event.CONNECTED | Event.BROKEN if self.context.client.timestamp_end is not None:
                # mitmproxy gives up all connections of a client that is gone: that is no failure of the upstream's.
                return client.left("Client disconnected.")
            case Event.CONNECTED:
                return upstream.connected(event)
            case Event.TIMER if course.timer is not None:
                return course.timer.then()
            case Event.HEAD:
                return upstream.hold_head(event)
            case Event.BODY:  # of an answer that is judged: what is relayed does not come here
                return upstream.hold_body(event.data)
            case Event.TRAILERS if course.relay is not None:  # held back they are left out, as they may be
                return course.relay.trailers(event)
            case Event.END if course.relay is None:
                return upstream.ended()
            case Event.END:
                return client.end_relay()
            case Event.BROKEN if course.relay is None:
                return upstream.broke(failure_words.of(event.message))
            case Event.BROKEN:
                course.current.close()
                return client.break_off(failure_words.of(event.message), event.code)
            case Event.DEADLINE:
                return self._deadline_passed()
            case Event.STALLED:
                why = f"the client read nothing for {self._parent.services.settings().client_stall_seconds} s"
                return client.left(why, f"{why}; it was cut off")
            case Event.PIECE:
                return client.send_piece(event.data)
            case Event.PIECES_OVER:
                return client.end_pieces()
            case Event.TUNNEL_OVER:  # the connection ends next, so there is nobody left to answer
                why = "the client key that the tunnel was opened with is over"
                return client.left(why, why)
        return ()

    def _fail_closed(self, problem: Exception) -> CommandGenerator[None]:
        """End this request after an error of our own, which mitmproxy would log and leave the client hanging."""
        state = self._course.state
        if isinstance(problem, IllegalState):
            logger.error("ccflare ends a request that is not as it has to be: %s", problem)
        else:
            told = trace(problem, self._upstream.echo)
            logger.error("ccflare failed inside in the state %s; the request ends here\n%s", state.name, told)
        can_answer = state in UNANSWERED and self.client_state == self.state_done
        self.client_state = self.server_state = self.state_errored
        self.abandon()
        yield from self._course.abort()
        yield from self._client.apologize(can_answer=can_answer)

    def abandon(self) -> None:
        """End the exchange after an error of our own. Never raises."""
        with contextlib.suppress(Exception):
            self._course.exchange = self._course.exchange or self._parent.services.find(self.flow)
            if self._course.exchange is not None:
                self._course.exchange.finish(Outcome.UPSTREAM_ERROR, "an error inside the proxy")

    # READING: mitmproxy's own, up to the point where it would open a server connection

    def _read(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestData):
            self.deadlines.heard()
        yield from super()._handle_event(event)
        if self._course.state is State.READING and self.client_state == self.state_errored:
            # mitmproxy has ended it: it was killed in a hook, or could not be read. It would be kept for good.
            yield from self._course.enter(State.OVER)
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
            if services.decisions.is_last(self.flow):  # nobody waits for the body of who is not identified
                yield from self._client.answer_early()

    def check_body_size(self, request: bool) -> CommandGenerator[bool]:
        """Refuse a request that is too big before it is read. Answers are never limited: they only pass by."""
        if not request:
            return False
        size = len(self.request_body_buf) or http1.expected_http_body_size(self.flow.request) or 0
        bounds = self._parent.services.body_bounds(self.flow.request)
        if self.request_body_buf and self.flow.response is None and self._parent.services.find(self.flow) is None:
            bounds = BodyBounds(PAGE_BYTES, "a page of ccflare's")
        # Who has an answer already, a refusal, need not send more than a proxy would have in its buffers anyway.
        if size <= (HOLD_BYTES if self.flow.response else bounds.limit):
            return False
        if not self.request_body_buf:  # the hook has not seen this flow yet
            yield HttpRequestHeadersHook(self.flow)
        yield from self._client.refuse_early(413, bounds.told)
        return True

    def check_invalid(self, request: bool) -> CommandGenerator[bool]:
        """As mitmproxy's for requests; an upstream's head was looked at before it was judged."""
        return (yield from super().check_invalid(request)) if request else False

    def make_server_connection(self) -> CommandGenerator[bool]:
        """Where mitmproxy asks for a server: from here on the request is ours, so it never gets one from us."""
        course = self._course
        course.deadlines.end_after(self._parent.services.settings().exchange_seconds)
        course.exchange = self._parent.services.find(self.flow)
        if course.exchange is None:
            yield from self._client.answer(NOT_ADMITTED)
        else:
            yield from self._upstream.begin()
        return False

    # A large batch: its body goes to the disk as it comes, and upstream once it is whole

    def state_consume_request_body(self, event: events.Event) -> CommandGenerator[None]:
        """As mitmproxy's, but for a body that would be too large for the memory."""
        spool = self._spool(event)
        if spool is None:
            yield from super().state_consume_request_body(event)
        elif isinstance(event, RequestData):
            if not spool.add(event.data):
                self._parent.services.leave_unread(self.context.client, True)
            bounds = self._parent.services.body_bounds(self.flow.request)
            if spool.size > bounds.limit:
                yield from self._client.refuse_early(413, bounds.told)
            elif spool.trouble:
                yield from self._client.refuse_early(503, spool.trouble)
        else:
            if isinstance(event, RequestEndOfMessage):
                spool.finish()
                self.flow.request.stream = True  # for who asks where its content is
            yield from super().state_consume_request_body(event)

    def _spool(self, event: events.Event) -> Spooled | None:
        """Where this body goes, if it goes to the disk."""
        request = self.flow.request
        if self.flow.response is not None or not is_batch_upload(request):
            return None
        exchange = self._parent.services.find(self.flow)
        if exchange is None or exchange.outcome is not None:
            return None
        if exchange.spool is None and isinstance(event, RequestData):
            come = len(self.request_body_buf) + len(event.data)
            if max(come, http1.expected_http_body_size(request) or 0) > SPOOLED_BYTES:
                exchange.spool_body(self._parent.services.open_spool(self.context.client))
                if exchange.spool is not None:
                    exchange.spool.add(bytes(self.request_body_buf))
                self.request_body_buf.clear()
        return exchange.spool

    # An upload: the head alone goes through mitmproxy's states, the body through ours

    def start_request_stream(self) -> CommandGenerator[None]:
        """Where mitmproxy would send a request on that is not read yet: only the gate can have wanted that."""
        exchange = self._parent.services.find(self.flow)
        if self.flow.response is not None:  # another addon has answered: mitmproxy says so when all is here
            self.client_state = self.state_consume_request_body
            return
        if exchange is None or not exchange.is_streamed:
            yield from super().start_request_stream()
            return
        services, client = self._parent.services, self.context.client
        limit = services.body_bounds(self.flow.request).limit
        self._course.upload = Upload(limit, lambda paused: services.leave_unread(client, paused))
        self._course.exchange = exchange
        self.client_state = self.state_upload
        self.deadlines.end_after(services.settings().client_body_seconds)
        yield from self._upstream.begin()

    def state_upload(self, event: events.Event) -> CommandGenerator[None]:
        """A part of the body, or its end."""
        course, upload = self._course, self._course.upload
        if upload is None:
            raise IllegalState(f"there is no upload in the state {course.state.name}")
        if isinstance(event, RequestData):
            if upload.take(event.data):
                course.admitted.streamed(upload.size)
                yield from self._upstream.upload(upload, event.data)
            elif course.state in UNANSWERED:
                told = self._parent.services.body_bounds(self.flow.request).told
                yield from self._client.answer(course.admitted.refuse(413, told))
        elif isinstance(event, RequestEndOfMessage):
            yield from self._end_upload(upload)

    def _end_upload(self, upload: Upload) -> CommandGenerator[None]:
        upload.is_open = False
        self.client_state = self.state_done
        self.flow.request.timestamp_end = time.time()  # noqa: TID251
        if self._course.state in UNANSWERED:
            yield HttpRequestHook(self.flow)
            if (yield from self.check_killed(True)):
                yield from self._course.enter(State.OVER)
                yield DropStream(self.stream_id)
            else:
                yield from self._upstream.upload_ended()
        elif self.server_state == self.state_done:
            self.flow.live = False
            yield DropStream(self.stream_id)

    def note_progress(self) -> None:
        """Count what has been relayed since the last look as a sign of life."""
        if self._course.relay is not None and self._course.relay.has_moved():
            self._course.deadlines.heard()

    # PIPE

    def handle_connect(self) -> CommandGenerator[None]:
        """As mitmproxy's, toward a server of its own: over HTTP/2 all tunnels of a client would share one."""
        shared = self.context.server
        self.context.server = self.flow.server_conn = own = Server(address=None)
        own.via = shared.via
        yield from super().handle_connect()

    def handle_connect_finish(self) -> CommandGenerator[None]:
        """As mitmproxy's; a client key's tunnel to another host has to begin with TLS."""
        watched = self._parent.services.tunnel(self.flow)
        if watched is not None and self.child_layer is not None:
            self.child_layer = GuardedTunnel(self.context, self.child_layer, watched)
        yield from super().handle_connect_finish()  # type: ignore[no-untyped-call]

    def passthrough(self, event: events.Event) -> CommandGenerator[None]:
        """mitmproxy's own, but after an upgrade, as of a WebSocket, upstream knows the attempt by its own id."""
        if isinstance(event, DeadlinePassed | ReaderStalled | TunnelOver):
            return  # these are about requests; what is inside of a tunnel hears of the close that follows
        attempt = self._course.attempt
        for command in super().passthrough(event):
            if (
                isinstance(command, SendHttp)
                and command.connection is self.context.server
                and attempt is not None
                and attempt.stream_id is not None
            ):
                command.event.stream_id = attempt.stream_id
            yield command

    def send_response(self, already_streamed: bool = False) -> CommandGenerator[None]:
        """As mitmproxy's, which over HTTP/2 would send a body after a HEAD too: an error that ends the connection."""
        if self._course.state is State.READING:  # the gate, or another addon, has put an answer into the flow
            if make_pieces := self._parent.services.decisions.in_pieces(self.flow):
                yield from self._client.begin_pieces(make_pieces())
                return
            yield from self._course.enter(State.ANSWERED)
        if self.flow.response is not None and self.flow.request.method == "HEAD":
            self.flow.response.raw_content = b""
        yield from super().send_response(already_streamed)
        if self._course.is_uploading and self.server_state == self.state_done:
            # mitmproxy would end the answer once the request has ended, for which the client may not wait.
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    # What goes wrong

    def _deadline_passed(self) -> CommandGenerator[None]:
        self.note_progress()
        deadlines, now = self.deadlines, self.deadlines.clock()
        if not deadlines.is_over(now):
            return  # it was heard of meanwhile, or is in another state
        settings, seconds, is_at_end = self._parent.services.settings(), deadlines.seconds, deadlines.is_at_end(now)
        deadlines.pause()
        match self._course.state:
            case State.LINGERING | State.ANSWERED:
                yield from self._client.hang_up()
            case State.READING if is_at_end:
                whole = settings.client_body_seconds
                yield from self._client.refuse_early(408, f"The request's body took longer than {whole} s.")
            case State.READING:
                yield from self._client.refuse_early(408, f"Nothing came of the request's body for {seconds} s.")
            case State.UPLOADING if not is_at_end and not self._course.is_uploading:
                yield from self._too_late(f"the upstream took nothing of the request for {seconds} s")
            case State.UPLOADING if not is_at_end:
                yield from self._refuse_upload(f"Nothing of the request's body went on for {seconds} s.")
            case _ if is_at_end and self._course.is_uploading:
                yield from self._refuse_upload(f"The request's body took longer than {settings.client_body_seconds} s.")
            case _ if is_at_end:
                yield from self._too_late(f"the exchange took longer than {settings.exchange_seconds} s")
            case State.CONNECTING:
                yield from self._upstream.took_too_long(seconds)
            case State.JUDGING if not self._course.current.is_document:
                yield from self._upstream.judge()
            case State.SENT:
                yield from self._too_late(f"the upstream sent no answer within {seconds} s")
            case _:
                yield from self._too_late(f"the upstream sent nothing for {seconds} s")

    def _refuse_upload(self, told: str) -> CommandGenerator[None]:
        if self._course.relay is not None:  # what goes on is the answer
            yield from self._client.break_off(told, ErrorCode.GENERIC_SERVER_ERROR, late=True)
        else:
            yield from self._client.answer(self._course.admitted.refuse(408, told))

    def _too_late(self, why: str) -> CommandGenerator[None]:
        if self._course.relay is not None:
            yield from self._client.break_off(why, ErrorCode.GENERIC_SERVER_ERROR, late=True)
        else:
            is_asked = self._course.state in (State.SENT, State.JUDGING)
            yield from self._client.answer(self._course.admitted.too_late(why, asked=is_asked))
