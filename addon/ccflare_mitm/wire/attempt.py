"""One upstream attempt: its connection, its request, and its answer as far as it is held back to be judged.

An attempt is made for one `Send` step and thrown away as a whole. What belongs to it (its stream id, what it has held,
what it knows of the credential that it was sent with) lives here and nowhere else, so that nothing of one account's
attempt can be taken for another's.

Each has an upstream stream id of its own, fresh and even: clients use odd ones. It is registered with the layer while
the attempt is open, so that late events of a dropped attempt find nobody, and no HTTP/2 upstream sees an id twice.
"""

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakSet

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.net.http import validate
from mitmproxy.proxy import layer
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseHeaders,
)

from ccflare_core.anthropic.first_content import STREAM_BYTES, Held, Progress, held_for
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.steps import Send
from ccflare_core.http import headers
from ccflare_core.secrets.echo import Echo
from ccflare_mitm.host.messages import (
    NO_HEAD,
    parse_error,
    passing_trailers,
    read_head,
    screen_error,
    screen_head,
    with_credential,
)
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.states import IllegalState
from ccflare_mitm.wire.upload import Upload
from ccflare_mitm.wire.way_out import via

HOLD_BYTES = STREAM_BYTES
"""How much of an error is held back at most before it is judged."""

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


class Attempt:
    """See the module. `step` is what it was made for."""

    def __init__(self, step: Send, parent: Parent, asked: tuple[str, str], *, is_repeat: bool = False) -> None:
        self.step = step
        self.credential = credential = step.credential
        """The account's; None: the client's own is in the request, and stays there."""
        self.asked = asked
        """The method and the path."""
        self.is_repeat = is_repeat
        """Whether it repeats one that a kept connection has lost."""
        self.echo = Echo(credential.secret) if credential is not None else None
        """Finds the account's credential in what comes back; None if none was sent."""
        self.command: GetHttpConnection | None = None
        """What asked mitmproxy for the connection. Its end is told apart from others' by it."""
        self.connection: Any = None
        self.is_reused = False
        """Whether the connection had carried a request before."""
        self.stream_id: int | None = None
        """Under which its upstream events come; None while there is no upstream, or no longer."""
        self.head: ResponseHeaders | None = None
        self.facts = NO_HEAD
        """What the head says of the body."""
        self.held: list[bytes] = []
        """What has come of the body."""
        self.is_whole = False
        """Whether that is all of it."""
        self.heard_at = 0.0
        """When the last of the answer came, head or body, by the clock of the deadlines."""
        self.is_partial = False
        """Whether the request is still on its way up."""
        self.is_searched = False
        """Whether the credential has to be looked for in what is still to come of the body."""
        self._held_bytes = 0
        self._content: Held | None = None
        self._parent = parent

    def __repr__(self) -> str:
        whose = "client's own" if self.credential is None else "account's"
        head = self.head.response.status_code if self.head is not None else None
        return f"Attempt(stream_id={self.stream_id}, credential={whose}, head={head}, held={self._held_bytes})"

    # Toward the upstream

    def connect(self, request: http.Request, target: UpstreamTarget) -> GetHttpConnection:
        """The command that gets a connection for `request`."""
        address = (request.host, request.port)
        way = via(target.way(request.scheme, address))
        self.command = GetHttpConnection(address, request.scheme == "https", way)
        # "Blocking, and already taken care of": the answer comes to the stream as an event. If mitmproxy paused the
        # stream instead, neither a deadline nor a client that leaves would be seen while it connects.
        self.command.blocking = self  # type: ignore[assignment]
        return self.command

    def open(self, connection: Connection, stream: HttpStream) -> None:
        """Take this connection, and let upstream events come to `stream` from here on."""
        self.connection = connection
        self.is_reused = connection in self._parent.used
        self._parent.used.add(connection)
        self.stream_id = self._parent.open_attempt(stream)

    def send(
        self, flow: http.HTTPFlow, target: UpstreamTarget, upload: Upload | None = None, *, is_partial: bool = False
    ) -> CommandGenerator[None]:
        """Send the request of `flow`, of which only the copy that is sent gets the credential.

        Of an `upload` that is what has come of it so far. With `is_partial` more follows, by `send_part`.
        """
        self.is_partial = is_partial
        fields = self._parent.services.unmask(flow.request)
        request = with_credential(flow.request, fields, self.credential, target)
        body = flow.request.raw_content if upload is None else upload.held
        trailers = passing_trailers(flow.request.trailers)
        if self.connection.alpn != b"h2" or self.credential is not None:
            # mitmproxy's HTTP/1 cannot send any, and nobody has looked at what is in them. They may be left out
            # (RFC 9110, 6.5.1).
            trailers = None
        parts: list[Any] = [RequestHeaders(self.stream_id, request, end_stream=not (body or trailers or is_partial))]  # type: ignore[arg-type]
        if body:
            parts.append(RequestData(self.stream_id, body))  # type: ignore[arg-type]
        if trailers:
            parts.append(RequestTrailers(self.stream_id, trailers))  # type: ignore[arg-type]
        if not is_partial:
            parts.append(RequestEndOfMessage(self.stream_id))  # type: ignore[arg-type]
        for part in parts:
            # The upstream may break off while it is handed one, and the stream be somewhere else when this goes on.
            if self.stream_id is not None:
                yield SendHttp(part, self.connection)

    def send_part(self, data: bytes) -> CommandGenerator[None]:
        """Send this part of an upload."""
        if self.stream_id is not None:
            yield SendHttp(RequestData(self.stream_id, data), self.connection)

    def send_end(self) -> CommandGenerator[None]:
        """Say that this was all of an upload."""
        self.is_partial = False
        if self.stream_id is not None:
            yield SendHttp(RequestEndOfMessage(self.stream_id), self.connection)

    def cancel(self) -> CommandGenerator[None]:
        """Let go of the upstream. An answer that has not ended is cancelled, which costs an HTTP/1 connection."""
        if (stream_id := self.stream_id) is not None:
            self.close()
            yield SendHttp(RequestProtocolError(stream_id, "nobody waits for it", ErrorCode.CANCEL), self.connection)

    def close(self) -> None:
        """The upstream has ended this: nothing more can come, and what does is nobody's."""
        if self.stream_id is not None:
            self._parent.close_attempt(self.stream_id)
            self.stream_id = None

    # The answer, held until it is judged

    def take_head(self, event: ResponseHeaders, *, is_validated: bool) -> str | None:
        """Keep this head, without the credential; why it cannot be passed on, if so: then it is no answer."""
        response = event.response
        if self.echo is not None:
            screen_head(response, self.echo)
        if problem := self._unfit(response, is_validated=is_validated):
            return problem
        self.head, self.facts = event, read_head(response)
        if self.credential is not None:
            self._content = self._expected(event)
        return None

    def _expected(self, event: ResponseHeaders) -> Held | None:
        facts = self.facts
        content = held_for(
            *self.asked,
            self.status,
            is_event_stream=facts.is_event_stream,
            length=facts.length,
            coding=facts.content_encoding,
        )
        if content is not None and event.end_stream:
            content.end()
        return content

    def _unfit(self, response: http.Response, *, is_validated: bool) -> str | None:
        if response.status_code == SWITCHING and self.credential is not None:
            return "the answer switches to another protocol"
        if is_validated:
            try:
                validate.validate_headers(response)
            except ValueError:  # its message quotes the upstream
                return "the answer's length can be read in two ways, or a field has no name"
        return headers.unfit_answer(response.headers.fields)

    @property
    def judged_head(self) -> ResponseHeaders:
        """Its answer's head, where there has to be one. Raises IllegalState if there is none."""
        if self.head is None:
            raise IllegalState("there is no head to deliver")
        return self.head

    @property
    def status(self) -> int:
        """The status of its answer; 0 before there is one."""
        return 0 if self.head is None else self.head.response.status_code

    @property
    def is_error(self) -> bool:
        """Whether its answer is an error, of which the body tells more."""
        return self.head is not None and self.head.response.status_code >= 400

    @property
    def is_document(self) -> bool:
        """Whether its answer is held as a whole."""
        return self._content is not None and self._content.is_document

    @property
    def is_told_by_head(self) -> bool:
        """Whether nothing that may still come could change what the head says.

        What passes with the client's own credential is never judged, so nothing of it is held.
        """
        if self.head is None:
            return False
        return self.credential is None or self.head.end_stream or not (self.is_error or self._content is not None)

    def hold(self, data: bytes) -> Progress:
        """Keep this part of the body; whether there is enough to judge by, or too much to keep."""
        self.held.append(data)
        self._held_bytes += len(data)
        progress = Progress.OPEN if self._content is None else self._content.feed(data)
        limit = HOLD_BYTES if self._content is None else self._content.limit
        return Progress.DECIDED if self._held_bytes >= limit else progress

    def end(self) -> None:
        """Note that this was all of the body."""
        self.is_whole = True
        if self._content is not None:
            self._content.end()

    @property
    def flaw(self) -> str:
        """Why this is no answer, although its head is good; "" if it is one."""
        return "" if self._content is None else self._content.flaw

    def evidence(self) -> Mapping[str, Any] | None:
        """What the body tells of an error, as far as it is here."""
        if self.is_error:
            return parse_error(b"".join(self.held), self.facts.content_encoding, HOLD_BYTES)
        return None if self._content is None else self._content.error

    def screen_body(self, request_id: str) -> bool:
        """Blank the credential in an error's body, which may quote the request; False: nothing more of it is wanted."""
        if self.echo is None or not self.is_error or self.head is None:
            return True
        is_whole = self.head.end_stream or self.is_whole
        body = screen_error(self.head.response, self.held, self.echo, is_whole=is_whole, request_id=request_id)
        if body is None:
            self.is_searched = True
        elif body is not self.held:
            self.held, self.is_whole, self.facts = body, True, read_head(self.head.response)
            return False
        return True

    @property
    def is_kept(self) -> bool:
        """Whether its answer is an error that is here as a whole, so that it can wait."""
        return self.is_error and self.head is not None and (self.is_whole or self.head.end_stream)

    def take_searched(self) -> bytes:
        """All of a whole error's body, once, without the credential."""
        body = b"".join(self.take_held())
        return self.echo.pass_on(body) + self.echo.rest() if self.echo is not None and self.is_searched else body

    def take_held(self) -> list[bytes]:
        """What was held of the body, once: it goes on now."""
        held, self.held, self._held_bytes, self._content = self.held, [], 0, None
        return held
