"""The client's side of a request: an upstream's answer or one of ours on its way out, and its end if that is a bad one.

From the decision what to deliver mitmproxy's own response handling runs, fed by us, so that hooks, interception and the
inspector see what they always see. Only where mitmproxy is not in a state for it, an answer is sent past it.
"""

from mitmproxy import flow, http
from mitmproxy.proxy import commands
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHeadersHook, HttpResponseHook
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_core.anthropic.answers import NO_REQUEST, Answer, Pieces, error
from ccflare_core.exchange.exchange import TIMED_OUT
from ccflare_core.exchange.serving import BAD_GATEWAY
from ccflare_core.exchange.steps import Outcome
from ccflare_core.http import headers
from ccflare_mitm.host.messages import make_response, put_whole
from ccflare_mitm.wire.attempt import SWITCHING, Attempt, Parent
from ccflare_mitm.wire.course import LINGER_SECONDS, Course
from ccflare_mitm.wire.relay import Relay
from ccflare_mitm.wire.states import State

NOT_ADMITTED = error(500, "The proxy did not admit this request.")


class ClientSide:
    """See the module. `stream` is mitmproxy's side of the same request, whose states are set and fed."""

    def __init__(self, stream: HttpStream, course: Course, parent: Parent) -> None:
        self._stream = stream
        self._course = course
        self._parent = parent

    @property
    def request_id(self) -> str:
        """What the client can name this request by."""
        return NO_REQUEST if self._course.exchange is None else self._course.exchange.id

    # The upstream's answer

    def deliver(self, attempt: Attempt) -> CommandGenerator[None]:
        """Give the client this attempt's answer: nothing is retried from here on."""
        stream, course, head = self._stream, self._course, attempt.judged_head
        if not attempt.screen_body(self.request_id):
            yield from attempt.cancel()
        response = head.response
        exchange = course.admitted
        exchange.delivering(response.status_code, response.headers.fields)
        response.headers.fields = headers.toward_client(response.headers.fields, leased=attempt.credential is not None)
        relay = Relay(stream, self._parent, attempt, exchange.capture)
        yield from course.enter(State.RELAYING, self._parent.services.settings().stream_idle_seconds, relay=relay)
        course.deadlines.heard_at = attempt.heard_at  # what was held has waited already
        yield from relay.begin(head)
        if attempt.is_whole:
            yield from self.end_relay()
        elif stream.server_state == stream.state_errored:  # killed in a hook, or the client left meanwhile
            yield from course.enter(State.OVER)
            yield DropStream(stream.stream_id)

    def deliver_kept(self, attempt: Attempt) -> CommandGenerator[None]:
        """Give the client an answer of the upstream's that has been kept as a whole while another was hoped for."""
        exchange, response = self._course.admitted, attempt.judged_head.response
        attempt.screen_body(self.request_id)
        body = attempt.take_searched()
        exchange.delivering(response.status_code, response.headers.fields)
        exchange.capture.add(body)
        exchange.finish()
        response.headers.fields = headers.toward_client(response.headers.fields, leased=attempt.credential is not None)
        put_whole(response, body)
        yield from self._course.enter(State.ANSWERED)
        self._parent.services.decisions.keep(self._stream.flow, response)
        yield from self._send_decided()

    def end_relay(self) -> CommandGenerator[None]:
        """The answer is whole. Only after a switch to another protocol is the upstream still needed."""
        stream, course, attempt = self._stream, self._course, self._course.current
        relay, is_switch = course.relaying, attempt.status == SWITCHING
        if attempt.is_partial:
            yield from attempt.cancel()  # its connection is in the middle of a request that nobody sends on
        elif not is_switch:
            attempt.close()
        yield from relay.flush()
        if stream.server_state != stream.state_errored:
            course.admitted.finish()
        yield from course.enter(State.PIPE if is_switch else State.ANSWERED)
        yield from relay.end()

    def break_off(self, why: str, code: ErrorCode, *, late: bool = False) -> CommandGenerator[None]:
        """Nothing more of the answer comes: the upstream broke it off, or kept silent for too long."""
        stream, course = self._stream, self._course
        exchange, relay = course.admitted, course.relaying
        is_collected = relay.is_collected
        status = TIMED_OUT if late else BAD_GATEWAY
        exchange.broke_off(why, status if is_collected else None, late=late)
        if is_collected:
            yield from course.enter(State.ANSWERED)
            message = f"The upstream's answer did not go on: {why}." if late else "The upstream's answer broke off."
            self._decide(error(status, message, request_id=self.request_id))
            yield from stream.send_response()
            return
        yield from course.enter(State.OVER)
        if late:
            yield from relay.tell("timeout_error", f"The stream ends here: {why}.", self.request_id)
        # The body gets no proper end, so that nobody takes it for a whole one.
        yield from stream.handle_protocol_error(ResponseProtocolError(stream.stream_id, why, code))

    # Answers of our own

    def answer(self, answer: Answer) -> CommandGenerator[None]:
        """Answer instead of with anything of the upstream's."""
        course = self._course
        if course.exchange is not None:
            course.exchange.answered(answer)
        yield from course.enter(State.ANSWERED)
        self._decide(answer)
        yield from self._send_decided()

    def _send_decided(self) -> CommandGenerator[None]:
        stream = self._stream
        yield HttpResponseHeadersHook(stream.flow)
        if not (yield from stream.check_killed(True)):
            yield from stream.send_response()

    def _decide(self, answer: Answer) -> None:
        self._parent.services.decisions.give(self._stream.flow, answer)

    def refuse_early(self, status: int, message: str) -> CommandGenerator[None]:
        """Refuse a request whose body is still on its way."""
        stream, course = self._stream, self._course
        course.exchange = self._parent.services.find(stream.flow)
        if course.exchange is not None and course.exchange.outcome is None:
            stream.flow.response = make_response(course.exchange.refuse(status, message))
        elif course.exchange is None and stream.flow.response is None:
            stream.flow.response = make_response(error(status, message))
        yield from self.answer_early()

    def answer_early(self) -> CommandGenerator[None]:
        """Answer a request whose body is still on its way; what comes of it is read and dropped."""
        stream, course, services = self._stream, self._course, self._parent.services
        stream.request_body_buf.clear()
        response = stream.flow.response or make_response(NOT_ADMITTED)  # the gate has refused it, or failed
        response.headers["connection"] = "close"
        yield from course.enter(State.LINGERING)
        services.decisions.keep(stream.flow, response)
        stream.flow.live = False
        stream.client_state, stream.server_state = stream.state_errored, stream.state_done
        yield HttpResponseHook(stream.flow)
        yield from self._send_whole(stream.flow.response or response)
        course.deadlines.wait_for(LINGER_SECONDS)

    def _send_whole(self, response: http.Response) -> CommandGenerator[None]:
        """Send an answer past mitmproxy's response handling, which is not in a state for it."""
        stream, client = self._stream, self._stream.context.client
        body = b"" if stream.flow.request.method == "HEAD" else response.raw_content or b""
        yield SendHttp(ResponseHeaders(stream.stream_id, response, end_stream=False), client)
        yield SendHttp(ResponseData(stream.stream_id, body), client)
        yield SendHttp(ResponseEndOfMessage(stream.stream_id), client)

    # An answer of ours in pieces

    def begin_pieces(self, pieces: Pieces) -> CommandGenerator[None]:
        """Send the head. The pieces come as events of the stream."""
        stream = self._stream
        response = stream.flow.response or make_response(NOT_ADMITTED)
        yield from self._course.enter(State.FEEDING, pieces=pieces)
        yield SendHttp(ResponseHeaders(stream.stream_id, response, end_stream=False), stream.context.client)
        self._parent.services.feed(self._parent, stream, pieces)

    def send_piece(self, data: bytes) -> CommandGenerator[None]:
        """One of them; an empty one would be the end of the body."""
        if data:
            yield SendHttp(ResponseData(self._stream.stream_id, data), self._stream.context.client)

    def end_pieces(self) -> CommandGenerator[None]:
        """There are no more."""
        yield from self._course.enter(State.ANSWERED)
        yield from self._stream.send_response(already_streamed=True)

    # Bad ends

    def apologize(self, *, can_answer: bool) -> CommandGenerator[None]:
        """End with a 500 after an error of ours, or with a cut if there is something of an answer already."""
        stream = self._stream
        refusal = error(500, "The proxy failed inside; its log says more.", request_id=self.request_id)
        if can_answer:
            stream.flow.response = make_response(refusal)
            yield from self._send_whole(stream.flow.response)
        else:
            code = ErrorCode.GENERIC_SERVER_ERROR
            yield SendHttp(ResponseProtocolError(stream.stream_id, refusal.reason, code), stream.context.client)
        yield DropStream(stream.stream_id)

    def hang_up(self) -> CommandGenerator[None]:
        """End what the client still sends, which over HTTP/2 must not cost its other requests."""
        stream = self._stream
        if isinstance(self._parent.connections.get(stream.context.client), Http1Server):
            yield commands.CloseConnection(stream.context.client)
            return
        yield from self._course.enter(State.OVER)
        code = ErrorCode.CANCEL
        yield SendHttp(ResponseProtocolError(stream.stream_id, "answered", code), stream.context.client)
        yield DropStream(stream.stream_id)

    def left(self, message: str, why: str = "the client left") -> CommandGenerator[None]:
        """The client is gone: its upstream attempt is closed at once, in any state."""
        stream, course = self._stream, self._course
        is_told = course.state is State.LINGERING or stream.server_state in (stream.state_done, stream.state_errored)
        has_looked_on = course.state is State.FEEDING
        yield from course.enter(State.OVER)
        if course.exchange is not None:
            course.exchange.finish(Outcome.CLIENT_ABORT, why)
        stream.client_state = stream.server_state = stream.state_errored
        if has_looked_on:  # such an answer has no other end, so nothing has gone wrong
            yield HttpResponseHook(stream.flow)
        elif not is_told:
            stream.flow.error = flow.Error(message)
            yield HttpErrorHook(stream.flow)
        stream.flow.live = False
        yield DropStream(stream.stream_id)
