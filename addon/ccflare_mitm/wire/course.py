"""Where one request stands, and all that it has in its hands there: the machine of `states` with real things in it.

A timer, an attempt and a relay are values that are replaced as a whole, in `enter` and nowhere else. So there is
nothing to reset by hand, and nothing to forget: entering a state lets go of what may not be there in it, and cancels
what was still open upstream.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnectionCompleted
from mitmproxy.proxy.layers.http._events import (
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

from ccflare_core.anthropic.answers import Pieces
from ccflare_core.exchange.exchange import Exchange
from ccflare_mitm.wire.attempt import Attempt
from ccflare_mitm.wire.deadlines import DeadlinePassed, Deadlines, ReaderStalled, TunnelOver
from ccflare_mitm.wire.pieces import Piece, PiecesOver
from ccflare_mitm.wire.relay import Relay
from ccflare_mitm.wire.states import Event, IllegalState, Machine, Part, State
from ccflare_mitm.wire.upload import Upload

MEANINGS: Final[dict[type[events.Event], Event]] = {
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
    Piece: Event.PIECE,
    PiecesOver: Event.PIECES_OVER,
}
"""What mitmproxy's events, and the reaper's, mean to the machine. Any other is illegal in all states.

A part of the request is one of an upload, while there is one.
"""

OF_UPSTREAM: Final = (ResponseHeaders, ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)


LINGER_SECONDS = 5.0
"""How long a client that was answered early may go on sending before its connection is closed."""


class Timer(NamedTuple):
    """A wait, and what follows it."""

    command: commands.RequestWakeup
    then: Callable[[], CommandGenerator[None]]
    kept: Attempt | None = None
    """One that has ended with a refusal, which may yet be what the client gets."""


class Course:
    """See the module."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.deadlines = Deadlines()
        self.exchange: Exchange | None = None
        """From the end of READING on, if the gate has admitted the request."""
        self.timer: Timer | None = None
        self.attempt: Attempt | None = None
        self.relay: Relay | None = None
        self.upload: Upload | None = None
        """The request's body, if it goes up as it comes."""
        self.pieces: Pieces | None = None
        """The body of an answer of ours, if it goes out as it comes."""

    def __repr__(self) -> str:
        return f"{self.state.name}, attempt={self.attempt}"

    @property
    def state(self) -> State:
        """Where the request stands."""
        return self.machine.state

    @property
    def admitted(self) -> Exchange:
        """The exchange, where there has to be one. Raises IllegalState if there is none."""
        if self.exchange is None:
            raise IllegalState(f"there is no exchange in the state {self.state.name}")
        return self.exchange

    @property
    def current(self) -> Attempt:
        """The attempt, where there has to be one. Raises IllegalState if there is none."""
        if self.attempt is None:
            raise IllegalState(f"there is no attempt in the state {self.state.name}")
        return self.attempt

    @property
    def relaying(self) -> Relay:
        """The relay, where there has to be one. Raises IllegalState if there is none."""
        if self.relay is None:
            raise IllegalState(f"there is no relay in the state {self.state.name}")
        return self.relay

    @property
    def is_uploading(self) -> bool:
        """Whether more of an upload is to come."""
        return self.upload is not None and self.upload.is_open

    def takes(self, event: events.Event) -> Event | None:
        """What this event means here; None: it is late. Raises IllegalState if it cannot be."""
        meaning = MEANINGS.get(type(event))
        if meaning is None:
            raise IllegalState(f"{type(event).__name__} came in the state {self.state.name}")
        if meaning is Event.REQUEST and self.upload is not None and self.upload.is_open:
            meaning = Event.UPLOAD
        if not self.machine.handles(meaning):
            return None
        # Whether it is about what is in hand now, and not about what was let go of.
        if isinstance(event, OF_UPSTREAM):
            is_ours = self.attempt is not None and event.stream_id == self.attempt.stream_id
        elif isinstance(event, GetHttpConnectionCompleted):
            is_ours = self.attempt is not None and event.command is self.attempt.command
        elif isinstance(event, events.Wakeup):
            is_ours = self.timer is not None and event.command is self.timer.command
        else:
            is_ours = True
        return meaning if is_ours else None

    def enter(
        self,
        state: State,
        seconds: float | None = None,
        *,
        timer: Timer | None = None,
        attempt: Attempt | None = None,
        relay: Relay | None = None,
        pieces: Pieces | None = None,
    ) -> CommandGenerator[None]:
        """Go on to `state` with these in hand, and let go of what may not be there in it.

        `seconds` is how long it waits for a sign of life. An attempt that goes on from the state before stays.
        """
        rule = self.machine.enter(state)
        self.timer, self.relay, dropped = timer, relay, None
        if self.pieces is not None:
            self.pieces.close()
        self.pieces = pieces
        if attempt is not None or not rule.holds(Part.ATTEMPT):
            dropped, self.attempt = self.attempt, attempt
        if not rule.is_timed:
            self.deadlines.cancel()
        if seconds is None:
            self.deadlines.pause()
        else:
            self.deadlines.wait_for(seconds)
        if self.upload is not None and state not in (State.WAITING, State.CONNECTING):
            self.upload.flow()
            if state is State.ANSWERED and self.upload.is_open:
                self.deadlines.wait_for(LINGER_SECONDS)
        if dropped is not None:
            yield from dropped.cancel()
        self.machine.check(self._held())

    def abort(self) -> CommandGenerator[None]:
        """Be over, whatever was. Asks no table: what has failed before may fail again."""
        attempt = self.attempt
        if self.pieces is not None:
            self.pieces.close()
        self.machine.state = State.OVER
        self.timer = self.attempt = self.relay = self.pieces = None
        self.deadlines.cancel()
        if attempt is not None:
            yield from attempt.cancel()

    def _held(self) -> set[Part]:
        attempt = self.attempt
        held = set()
        if self.exchange is not None:
            held.add(Part.EXCHANGE)
        if self.timer is not None:
            held.add(Part.TIMER)
        if self.relay is not None:
            held.add(Part.RELAY)
        if self.upload is not None and self.upload.is_open:
            held.add(Part.UPLOAD)
        if self.pieces is not None:
            held.add(Part.PIECES)
        if attempt is not None:
            held.add(Part.ATTEMPT)
            if attempt.stream_id is not None:
                held.add(Part.UPSTREAM)
            if attempt.head is not None:
                held.add(Part.HEAD)
        return held
