"""The upstream's side of a request: attempt after attempt, until an answer is good or there is none to be had.

The states WAITING, CONNECTING, SENT and JUDGING are driven here. What to do next, and what an answer is worth, is the
exchange's to say; this carries it out. There are two ways out, both of the client's side: `deliver` an attempt's
answer, or `answer` with one of ours.
"""

from collections.abc import Callable
from concurrent.futures import Future

from mitmproxy import http
from mitmproxy.proxy import commands
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnectionCompleted, HttpStream
from mitmproxy.proxy.layers.http._events import ResponseHeaders

from ccflare_core.anthropic.answers import Answer, error
from ccflare_core.anthropic.first_content import BEGUN_SECONDS, Progress
from ccflare_core.anthropic.routes import Route
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.config.settings import Settings
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.errors import StoreError
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.steps import Send, Step, Wait
from ccflare_core.exchange.story import Spooled
from ccflare_core.http import failure_words
from ccflare_core.secrets.echo import Echo
from ccflare_mitm.host.messages import route_of
from ccflare_mitm.wire.attempt import Attempt, Parent
from ccflare_mitm.wire.client_side import ClientSide
from ccflare_mitm.wire.course import Course, Timer
from ccflare_mitm.wire.states import IllegalState, State
from ccflare_mitm.wire.upload import Upload

NO_TLS = "its proxy could read the credential, since ccflare_upstream is an http:// address"
PEEK_SECONDS = 10.0
"""How long the first event of a stream may take before its head alone decides."""
UNSENT_BYTES = 1024 * 1024
SEND_SECONDS = 0.005
"""How much of a batch may wait in the upstream's connection, and how often that is looked at."""
COLLECT_SECONDS = 5.0
"""The same for an error's body."""


class UpstreamSide:
    """See the module. `stream` is whose request it is, and what upstream events come to."""

    def __init__(self, stream: HttpStream, course: Course, parent: Parent, client: ClientSide) -> None:
        self.echo: Echo | None = None
        """Knows the credential that was sent last, to keep it out of the log also when its attempt is gone."""
        self._stream = stream
        self._course = course
        self._parent = parent
        self._client = client

    @property
    def _settings(self) -> Settings:
        return self._parent.services.settings()

    @property
    def _target(self) -> UpstreamTarget:
        return self._parent.services.target(self._stream.context.client)

    # WAITING

    def begin(self) -> CommandGenerator[None]:
        """Take the first step of an admitted exchange."""
        if self._parent.is_inside_upstream or self._course.is_uploading:
            # A pipelined request, read at the end of the answer before it: that one's connection is not free yet. Or
            # mitmproxy is still inside the head of an upload, and not in a state for an answer.
            yield from self._later(0, self.next_step)
        else:
            yield from self.next_step()

    def next_step(self) -> CommandGenerator[None]:
        """Do what the exchange wants done now."""
        return self._perform(self._course.admitted.next_step())

    def _perform(self, step: Step) -> CommandGenerator[None]:
        match step:
            case Send():
                return self._connect(step)
            case Wait():
                return self._later(step.seconds, self.next_step, self._kept)
            case Answer():
                return self._client.answer(step)
            case Deliver() if self._kept is not None:
                return self._client.deliver_kept(self._kept)
            case _:
                raise IllegalState(f"there is nothing to deliver in the state {self._course.state.name}")

    @property
    def _kept(self) -> Attempt | None:
        return self._course.timer and self._course.timer.kept

    def _later(
        self, seconds: float, then: Callable[[], CommandGenerator[None]], kept: Attempt | None = None
    ) -> CommandGenerator[None]:
        timer = Timer(commands.RequestWakeup(seconds), then, kept)
        yield from self._course.enter(State.WAITING, timer=timer)
        yield timer.command

    # CONNECTING

    def _connect(self, step: Send, *, is_repeat: bool = False) -> CommandGenerator[None]:
        request, credential = self._stream.flow.request, step.credential
        if credential is not None and not self._may_carry_credential(request):
            # Another addon has changed the destination after the gate had set it.
            id = self._course.admitted.id
            yield from self._client.answer(error(500, "The request is not aimed at the upstream's API.", request_id=id))
            return
        target = self._target.by(step.proxy)
        if credential is not None and target.egress_proxy is not None and not target.tls_name:
            yield from self._perform(self._course.admitted.no_way(NO_TLS))
            return
        opening = self._course.admitted.opening
        attempt = Attempt(step, self._parent, (opening.method, opening.path), is_repeat=is_repeat)
        self.echo = attempt.echo
        command = attempt.connect(request, target)
        yield from self._course.enter(State.CONNECTING, self._settings.connect_seconds, attempt=attempt)
        yield command

    def _may_carry_credential(self, request: http.Request) -> bool:
        target, stateful = self._target, self._course.admitted.is_stateful
        if (request.scheme, (request.host, request.port)) != (target.scheme, target.address):
            return False
        return route_of(request, stateful=stateful) is (Route.STATEFUL if stateful else Route.INFERENCE)

    def connected(self, event: GetHttpConnectionCompleted) -> CommandGenerator[None]:
        """Send the request, if this connection is one that it may be sent by."""
        attempt, target = self._course.current, self._target
        connection, problem = event.reply
        if connection is None:
            yield from self.unreachable(failure_words.of(str(problem)))
            return
        if flaw := self._parent.services.proof.flaw(connection, target, leased=attempt.credential is not None):
            yield commands.CloseConnection(connection)
            yield from self._perform(self._course.admitted.distrust(flaw))
            return
        self._stream.context.server = self._stream.flow.server_conn = connection  # type: ignore[assignment]
        attempt.open(connection, self._stream)
        exchange = self._course.admitted
        spool = exchange.spool
        is_partial = self._course.is_uploading or spool is not None
        if is_partial:
            yield from self._course.enter(State.UPLOADING, self._settings.client_body_idle_seconds)
        else:
            yield from self._course.enter(State.SENT, self._settings.first_byte_seconds)
        exchange.sent()
        yield from attempt.send(self._stream.flow, target, self._course.upload, is_partial=is_partial)
        if spool is not None and self._course.state is State.UPLOADING:
            yield from self._send_from(spool, 0, spool.read(0))

    def took_too_long(self, seconds: float | None) -> CommandGenerator[None]:
        """There is no connection yet. With a proxy on the way nobody can tell whose fault that is."""
        why = f"no connection within {seconds} s"
        has_proxy = self._target.by(self._course.current.step.proxy).egress_proxy is not None
        yield from self.unreachable(f"{failure_words.ON_THE_WAY}{why}" if has_proxy else why)

    def unreachable(self, why: str) -> CommandGenerator[None]:
        """There was no way to the upstream."""
        if why.startswith(failure_words.NOT_VERIFIED):
            flaw = why.removeprefix(failure_words.NOT_VERIFIED).strip(" ()")
            step: Step = self._course.admitted.distrust(Kind.NOT_TRUSTED, flaw)
        elif why == failure_words.COMES_BACK:
            step = self._course.admitted.comes_back()
        elif why.startswith(failure_words.ON_THE_WAY):
            step = self._course.admitted.no_way(why)
        else:
            step = self._course.admitted.unreachable(why)
        yield from self._perform(step)

    # UPLOADING

    def upload(self, upload: Upload, data: bytes) -> CommandGenerator[None]:
        """A part of an upload has come: send it on, or hold it while there is nobody to send it to."""
        match self._course.state:
            case State.UPLOADING:
                upload.pass_on()
                self._course.deadlines.heard()
                yield from self._course.current.send_part(data)
            case State.WAITING | State.CONNECTING:
                upload.hold(data)

    def upload_ended(self) -> CommandGenerator[None]:
        """All of an upload has come. Without an upstream it goes there as a whole, once there is one."""
        self._course.deadlines.end_after(self._settings.exchange_seconds)
        if self._course.state is State.UPLOADING:
            yield from self._course.enter(State.SENT, self._settings.first_byte_seconds)
            yield from self._course.current.send_end()

    def _send_from(self, spool: Spooled, number: int, reading: Future[bytes | None]) -> CommandGenerator[None]:
        """Send this piece of a body on the disk as soon as it has been read, and the upstream has taken what was sent.

        Else it would all lie in the memory after all.
        """
        course, attempt = self._course, self._course.current
        unsent = self._parent.services.unsent_bytes(self._stream.context.client, attempt.connection)
        if not reading.done() or unsent > UNSENT_BYTES:
            yield from self._send_later(lambda: self._send_from(spool, number, reading), course.deadlines.heard_at)
            return
        try:
            piece = reading.result()
        except StoreError as problem:
            yield from self._client.answer(course.admitted.refuse(503, str(problem)))
            return
        if piece is None:
            yield from course.enter(State.SENT, self._settings.first_byte_seconds)
            yield from attempt.send_end()
            return
        yield from attempt.send_part(piece)
        if course.state is State.UPLOADING and course.attempt is attempt:  # else the upstream has broken off over it
            following = number + 1
            upcoming = spool.read(following)
            yield from self._send_later(lambda: self._send_from(spool, following, upcoming), course.deadlines.clock())

    def _send_later(self, then: Callable[[], CommandGenerator[None]], heard_at: float) -> CommandGenerator[None]:
        """Go on sending in a moment. The upstream was last seen to take something at `heard_at`."""
        timer = Timer(commands.RequestWakeup(SEND_SECONDS), then)
        yield from self._course.enter(State.UPLOADING, self._settings.stream_idle_seconds, timer=timer)
        self._course.deadlines.heard_at = heard_at
        yield timer.command

    # SENT, JUDGING

    def hold_head(self, event: ResponseHeaders) -> CommandGenerator[None]:
        """Keep the answer's head back, and judge by it if it tells all."""
        attempt = self._course.current
        attempt.heard_at = self._course.deadlines.clock()
        is_validated = self._stream.context.options.validate_inbound_headers
        if problem := attempt.take_head(event, is_validated=is_validated):
            yield from self._no_answer(problem)
            return
        yield from self._course.enter(State.JUDGING, self._patience(attempt))
        if attempt.is_told_by_head:
            yield from self.judge()

    def _patience(self, attempt: Attempt) -> float:
        if attempt.is_document:
            return self._settings.stream_idle_seconds
        return COLLECT_SECONDS if attempt.is_error else PEEK_SECONDS

    def hold_body(self, data: bytes) -> CommandGenerator[None]:
        """Keep this part of the answer back, and judge if it is enough."""
        attempt, deadlines = self._course.current, self._course.deadlines
        attempt.heard_at = deadlines.clock()
        progress = attempt.hold(data)
        if progress is Progress.DECIDED:
            yield from self.judge()
        elif progress is Progress.BEGUN and deadlines.seconds != BEGUN_SECONDS:
            deadlines.wait_for(BEGUN_SECONDS)
        elif attempt.is_document:
            deadlines.heard()

    def ended(self) -> CommandGenerator[None]:
        """Judge by all of the answer."""
        attempt = self._course.current
        if attempt.is_partial:
            yield from attempt.cancel()
        attempt.close()
        attempt.end()
        yield from self.judge()

    def judge(self) -> CommandGenerator[None]:
        """Deliver the answer, or try on: what is here of it has to do."""
        attempt = self._course.current
        response = attempt.judged_head.response
        fields, flaw = response.headers.fields, attempt.flaw
        step = self._course.admitted.judge(
            response.status_code, fields, attempt.evidence(), flaw, is_kept=attempt.is_kept
        )
        if isinstance(step, Deliver):
            return self._client.deliver(attempt)
        # The upstream's parser is still inside the event that led here; it takes the next request once it returned.
        kept = attempt if attempt.is_kept and isinstance(step, Wait) else None
        return self._later(0, lambda: self._perform(step), kept)

    def broke(self, why: str) -> CommandGenerator[None]:
        """The upstream has broken off before there was anything to deliver."""
        attempt, upload = self._course.current, self._course.upload
        attempt.close()
        is_unread = attempt.is_reused and attempt.head is None and not attempt.connection.connected
        if is_unread and not attempt.is_repeat and (upload is None or upload.is_whole):
            # The server closed a kept connection just as we took it. That says nothing about the server; a second
            # time does, and so does a reset of just this stream on a connection that goes on.
            yield from self._later(0, lambda: self._connect(attempt.step, is_repeat=True))
        elif attempt.is_document:
            step = self._course.admitted.cut_while_held(why, attempt.status)
            yield from self._later(0, lambda: self._perform(step))
        else:
            yield from self._no_answer(why)

    def _no_answer(self, why: str) -> CommandGenerator[None]:
        step = self._course.admitted.unreachable(why)
        yield from self._later(0, lambda: self._perform(step))
