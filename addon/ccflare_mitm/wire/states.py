"""The states of one request on its way: what each holds, which events are legal in it, and where it leads.

Rule 1: a stream changes its state in `Course.enter` and nowhere else, and every way that it may take is in TABLE.
Rule 2: this module knows neither mitmproxy nor the pool, so that the table can be read, and tested, by itself.

    READING ------ refused while its body comes --------> LINGERING ------.
      |                                                                   |
      |---- a page of ours that goes on ---> FEEDING --------.            |
      |                                                      |            |
      |---- refused, or answered by another addon -----------|            |
      |                                                      |            |
      |  the request is whole                                |            |
      v                                                      |            |
    WAITING <---------------------------.                    |            |
      |  ^  for an account, or a retry  |                    |            |
      v  |                              |                    |            |
    CONNECTING ---- no way upstream ----|--- no account, ----|            |
      |  |  (again: the next account)   |    too late        |            |
      |  |                              |                    |            |
      |  |  a large file or batch       |                    |            |
      |  `---> UPLOADING -- broken off -|--- too large, -----|            |
      |          |  `--- head --> JUDGING    too late        |            |
      |  .-------'  the request is whole                     |            |
      v  v                              |                    |            |
    SENT ----- broken off, unfit -------|--- too late -------|            |
      |                                 |                    |            |
      |  the answer's head              |                    |            |
      v                                 |                    |            |
    JUDGING -- another account, a retry-'--- too late -------|            |
      |                                                      |            |
      |  good: deliver it                                    |            |
      v                                                      v            v
    RELAYING --- whole, or broken off and collected ---> ANSWERED -----> OVER
      |   `----- broken off in the middle, killed ----------------------> ^
      |                                                                   |
      `--- 101 ---> PIPE <--- CONNECT (from READING)                      |
                                                                          |
    any state --- the client left, the proxy failed inside, an illegal event

The body of a large file is not read before it goes up: with its head alone the request leaves READING, and what comes
of the body is an event of its own. While there is no upstream a little of it is held, and the client's connection is
not read; what comes when there is nobody to send it to any more is dropped. A large batch is read as a whole, onto the
disk, and goes up from there.

An event has one of three places in each state.

*Handled*: the state is there for it, or it may come at any time (a deadline, a client that leaves).

*Late*: it belongs to something that the stream has let go of meanwhile. A timer cannot be called back, and neither can
a connection that mitmproxy has begun to open; and while mitmproxy waits for a hook that the user has intercepted, it
queues what comes for the stream. Late events are dropped. Events of an upstream that was dropped do not get this far:
its stream id is taken out of the layer.

*Illegal*: it cannot be, so something is not as we think: a second head, a body before its head, a request that goes on
after its end. Then nobody can say whose bytes these are, and an account's credential is at stake: the stream fails
closed. Nothing more goes upstream, the client gets a 500 if it has nothing yet, else its answer is cut; the log tells
the event and the state.
"""

from collections.abc import Set
from enum import Enum
from typing import Final, NamedTuple

from ccflare_core.errors import CCFlareError


class Word(Enum):
    """A word that is looked up in sets again and again: by what it is, where Enum's own hash is a call of Python's."""

    __hash__ = object.__hash__


class State(Word):
    """Where a request stands."""

    READING = "reading the request"
    WAITING = "waiting for an account or a retry"
    CONNECTING = "connecting to the upstream"
    UPLOADING = "sending the request as it comes"
    SENT = "waiting for the answer's head"
    JUDGING = "judging the answer"
    RELAYING = "relaying the answer"
    FEEDING = "sending an answer of ours as it comes"
    ANSWERED = "answered"
    LINGERING = "answered early, the request still coming"
    PIPE = "a tunnel or another protocol"
    OVER = "over"


class Event(Word):
    """What may happen to a stream, by what it means here: mitmproxy has several types for some."""

    REQUEST = "a part of the request"
    UPLOAD = "a part of an upload"
    CLIENT_LEFT = "the client's leaving"
    CONNECTED = "the end of connecting"
    TIMER = "the end of a wait"
    HEAD = "an answer's head"
    BODY = "a part of an answer's body"
    TRAILERS = "an answer's trailers"
    END = "an answer's end"
    BROKEN = "the breaking off of an answer"
    DEADLINE = "a deadline"
    STALLED = "a client that reads nothing"
    TUNNEL_OVER = "the end of a tunnel's key"
    PIECE = "a piece of an answer of ours"
    PIECES_OVER = "the last piece of an answer of ours"


class Part(Word):
    """What a stream can have in its hands."""

    EXCHANGE = "an admitted exchange"
    TIMER = "a timer"
    ATTEMPT = "an attempt"
    UPSTREAM = "an open upstream stream"
    HEAD = "an answer's head"
    RELAY = "a relay"
    UPLOAD = "an upload that has not ended"
    PIECES = "an answer of ours in pieces"


class Rule(NamedTuple):
    """What is true in one state. See the module."""

    leads_to: Set[State]
    """Besides OVER, to which every state leads."""
    needs: Set[Part]
    """What the state cannot be without. It is looked at when the state is entered."""
    allows: Set[Part]
    """What it may hold besides. All the rest is let go of when it is entered."""
    handles: Set[Event]
    late: Set[Event]
    """Dropped. What is in neither of the two is illegal."""
    is_timed: bool = True
    """Whether the deadline of the whole request goes on."""

    def holds(self, part: Part) -> bool:
        """Whether this may be there at all."""
        return part in self.needs or part in self.allows


_ANY_TIME = frozenset({Event.CLIENT_LEFT, Event.DEADLINE, Event.STALLED, Event.TUNNEL_OVER})
_UPSTREAM = frozenset({Event.HEAD, Event.BODY, Event.TRAILERS, Event.END, Event.BROKEN})
_LET_GO = frozenset({Event.CONNECTED, Event.TIMER})
_PIECES = frozenset({Event.PIECE, Event.PIECES_OVER})
_NOTHING: frozenset[Part] = frozenset()

TABLE: Final[dict[State, Rule]] = {
    # mitmproxy reads the head and the body, runs the request's hooks, and asks for a server when all is here.
    State.READING: Rule(
        leads_to={
            *(State.WAITING, State.CONNECTING, State.ANSWERED, State.LINGERING, State.PIPE, State.FEEDING),
        },
        needs=_NOTHING,
        allows=_NOTHING,
        handles=_ANY_TIME | {Event.REQUEST},
        late=frozenset(),
    ),
    # Between two attempts, or before the first. A wait of 0 s is one too: it lets the upstream's parser return, which
    # is still inside the event that led here, before a request goes out by the same connection.
    State.WAITING: Rule(
        leads_to={State.WAITING, State.CONNECTING, State.ANSWERED},
        needs={Part.EXCHANGE, Part.TIMER},
        allows={Part.UPLOAD},
        handles=_ANY_TIME | {Event.TIMER, Event.UPLOAD},
        late={Event.CONNECTED},  # it took too long, and came after all
    ),
    State.CONNECTING: Rule(
        leads_to={State.WAITING, State.CONNECTING, State.UPLOADING, State.SENT, State.ANSWERED},
        needs={Part.EXCHANGE, Part.ATTEMPT},
        allows={Part.UPLOAD},
        handles=_ANY_TIME | {Event.CONNECTED, Event.UPLOAD},
        late={Event.TIMER},  # of an upload by another connection
    ),
    # What has gone up of a file is nowhere else, so it goes to one account, once.
    # A batch on the disk goes up from there, piece by piece: between two of them there is a timer.
    State.UPLOADING: Rule(
        leads_to={State.WAITING, State.UPLOADING, State.SENT, State.JUDGING, State.ANSWERED},
        needs={Part.EXCHANGE, Part.ATTEMPT, Part.UPSTREAM},
        allows={Part.UPLOAD, Part.TIMER},
        handles=_ANY_TIME | {Event.UPLOAD, Event.TIMER, Event.HEAD, Event.BROKEN},
        late={Event.CONNECTED},
    ),
    # Here and in UPLOADING alone a request goes upstream, and here it does so at the state's beginning.
    State.SENT: Rule(
        leads_to={State.WAITING, State.JUDGING, State.ANSWERED},
        needs={Part.EXCHANGE, Part.ATTEMPT, Part.UPSTREAM},
        allows=_NOTHING,
        handles=_ANY_TIME | {Event.HEAD, Event.BROKEN},
        late=_LET_GO,
    ),
    # Nothing of the answer has left the proxy: another account can still be asked. So neither the client nor another
    # addon may have seen anything of it.
    State.JUDGING: Rule(
        leads_to={State.WAITING, State.RELAYING, State.ANSWERED},
        needs={Part.EXCHANGE, Part.ATTEMPT, Part.UPSTREAM, Part.HEAD},
        allows={Part.UPLOAD},
        handles=_ANY_TIME | {Event.UPLOAD, Event.BODY, Event.TRAILERS, Event.END, Event.BROKEN},
        late=_LET_GO,
    ),
    # There is no way back to another account from here on. The upstream is gone already if the answer came as a whole.
    State.RELAYING: Rule(
        leads_to={State.ANSWERED, State.PIPE},
        needs={Part.EXCHANGE, Part.ATTEMPT, Part.HEAD, Part.RELAY},
        allows={Part.UPSTREAM, Part.UPLOAD},
        handles=_ANY_TIME | {Event.UPLOAD, Event.BODY, Event.TRAILERS, Event.END, Event.BROKEN},
        late=_LET_GO,
    ),
    # The head of our own answer is out, and what goes on behind it is nobody's exchange. It ends with its pieces, or
    # when the client leaves; until then no sign of life is expected of either side.
    State.FEEDING: Rule(
        leads_to={State.ANSWERED},
        needs={Part.PIECES},
        allows=_NOTHING,
        handles=_ANY_TIME | _PIECES,
        late=frozenset(),
        is_timed=False,
    ),
    # mitmproxy has all of the answer, the upstream's or ours. It may still wait for a hook. Of a request that another
    # addon has sent on before it was read (`flow.request.stream`) the rest comes now, and goes nowhere. So does that of
    # an upload, for as long as a client may linger.
    State.ANSWERED: Rule(
        leads_to=frozenset(),
        needs=_NOTHING,
        allows={Part.EXCHANGE, Part.UPLOAD},
        handles=_ANY_TIME | {Event.UPLOAD},
        late=_LET_GO | _UPSTREAM | _PIECES | {Event.REQUEST},
        is_timed=False,
    ),
    # A client that is cut off while it sends may never read why: it goes on for a while, into nothing.
    State.LINGERING: Rule(
        leads_to=frozenset(),
        needs=_NOTHING,
        allows={Part.EXCHANGE},
        handles=_ANY_TIME | {Event.REQUEST},
        late=frozenset(),
        is_timed=False,
    ),
    # mitmproxy's `passthrough` has taken the stream over, and its events with it. Only ours come by the table; a
    # client's leaving does if mitmproxy would not speak what the upstream switched to.
    State.PIPE: Rule(
        leads_to=frozenset(),
        needs=_NOTHING,
        allows={Part.EXCHANGE, Part.ATTEMPT, Part.UPSTREAM, Part.HEAD},
        handles={Event.CLIENT_LEFT},
        late=(_ANY_TIME - {Event.CLIENT_LEFT}) | _LET_GO | _UPSTREAM | {Event.REQUEST},
        is_timed=False,
    ),
    # The stream may still be told that its client left, of which mitmproxy's layer wants to hear when it is dropped.
    State.OVER: Rule(
        leads_to=frozenset(),
        needs=_NOTHING,
        allows={Part.EXCHANGE, Part.UPLOAD},
        handles={Event.CLIENT_LEFT},
        late=(_ANY_TIME - {Event.CLIENT_LEFT}) | _LET_GO | _UPSTREAM | _PIECES | {Event.REQUEST, Event.UPLOAD},
        is_timed=False,
    ),
}

UNANSWERED: Final = frozenset(
    {State.READING, State.WAITING, State.CONNECTING, State.UPLOADING, State.SENT, State.JUDGING}
)
"""Where the client has nothing of an answer yet, so that it can still be told what went wrong."""


class IllegalState(CCFlareError):
    """The stream is not as TABLE says; the message names the state."""


class Machine:
    """Keeps the state of one stream to TABLE."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.READING

    def __repr__(self) -> str:
        return f"Machine({self.state.name})"

    def handles(self, event: Event) -> bool:
        """Whether this event is to be handled now; if not, it is late. Raises IllegalState if it cannot be."""
        rule = TABLE[self.state]
        if event in rule.handles:
            return True
        if event in rule.late:
            return False
        raise IllegalState(f"{event.value} came in the state {self.state.name} ({self.state.value})")

    def enter(self, state: State) -> Rule:
        """Go on to this state; its rule. Raises IllegalState if there is no such way."""
        if state is not State.OVER and state not in TABLE[self.state].leads_to:
            raise IllegalState(f"the state {self.state.name} ({self.state.value}) does not lead to {state.name}")
        self.state = state
        return TABLE[state]

    def check(self, held: Set[Part]) -> None:
        """Raise IllegalState if something is missing that the state needs, or there that it does not allow."""
        rule = TABLE[self.state]
        missing, foreign = rule.needs - held, held - rule.needs - rule.allows
        if missing or foreign:
            told = [*(f"without {part.value}" for part in missing), *(f"with {part.value}" for part in foreign)]
            raise IllegalState(f"the state {self.state.name} was entered {', '.join(sorted(told))}")
