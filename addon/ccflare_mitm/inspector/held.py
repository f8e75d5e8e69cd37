"""The bodies of finished flows, in bounds: beyond `limit` bytes the oldest are let go, and come back when opened.

They come back as they were recorded. One that was not recorded is let go all the same: a sentence stands in its place.
"""

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import RLock
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.net import encoding

from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.story import Story
from ccflare_core.text import size as told_size
from ccflare_core.text import some
from ccflare_core.transcripts.read import Body
from ccflare_mitm.inspector.stand_ins import AWAY, GONE, StandIn, stand_in

type Recorded = Mapping[str, Body]
"""The recorded bodies of one exchange by their part, "request" or "response"."""

LEAST = 1024
"""A shorter body stays: what stands in its place takes as much."""

PATIENCE = 10.0
"""Seconds to wait until a body is in the database. Then it is let go without, or memory would have no bound."""

ANSWER_SECONDS = 5.0
"""How long somebody who cannot await it waits for a body."""


@dataclass(slots=True)
class _Held:
    flow: http.HTTPFlow
    bodies: dict[str, bytes]
    """The very objects in the flow, by their part."""
    number: int
    """The how manieth flow that has finished it is; 0 if it came from the database."""

    @property
    def size(self) -> int:
        return sum(map(len, self.bodies.values()))


class Held:
    """See the module. Flows are held from their end on, and go in the order in which they have finished or were opened.

    `recorded` reads the bodies of the exchange with an id; `written` is done once what was put so far is in the
    database; `soon` calls on the event loop, from any thread.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        recorded: Callable[[str], Future[Recorded]],
        written: Callable[[], Future[bool]],
        soon: Callable[..., object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = 0
        """How many bytes they are."""
        self._limit = limit
        self._recorded = recorded
        self._written = written
        self._soon = soon
        self._clock = clock
        self._lock = RLock()  # a body may be wanted in any thread
        self._held: dict[str, _Held] = {}
        self._exchanges: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        self._notes: WeakKeyDictionary[http.HTTPFlow, dict[str, str]] = WeakKeyDictionary()
        self._newest = 0
        self._written_to = 0
        self._asked_at: float | None = None

    def hold(self, flow: http.HTTPFlow, exchange: Story | None = None) -> None:
        """This flow has finished; its bodies are in the record of that exchange, or in none."""
        if exchange is not None:
            self._exchanges[flow] = exchange.id
            self._notes[flow] = dict(_lacks(exchange))
        with self._lock:
            self._newest += 1
            self._add(flow, self._newest)
        self.make_room()

    def forget(self, flow_id: str) -> None:
        """It is shown no more."""
        with self._lock:
            if held := self._held.pop(flow_id, None):
                self.size -= held.size

    def promise(self, flow: http.HTTPFlow, exchange_id: str, sizes: Mapping[str, int]) -> None:
        """Have the bodies of a flow that is made of a record come from there; they are of these sizes."""
        self._exchanges[flow] = exchange_id
        for part, message in _messages(flow):
            if sizes.get(part):
                self._stand_in(flow, message, part, sizes[part])

    async def bring_back(self, flow: http.HTTPFlow) -> None:
        """Have the flow's bodies in it again, as far as they were recorded."""
        if not _is_away(flow):
            return
        if (reading := self._read(flow)) is None:
            self._give_up(flow, GONE)
            return
        try:
            self._put_back(flow, await asyncio.wrap_future(reading))
        except CCFlareError as error:
            self._give_up(flow, _unreadable(error))

    def is_exact(self, flow: http.HTTPFlow) -> bool:
        """Whether the request's body in the flow is the very one that came; call `bring_back` before you ask."""
        return flow.request.raw_content is not None and not self.note(flow, "request")

    def note(self, flow: http.HTTPFlow, part: str) -> str:
        """What is to be known of the body of this part, as a sentence; empty if it is as it was on the wire."""
        message: http.Message | None = getattr(flow, part)
        if message is not None and isinstance(message.raw_content, StandIn):
            return message.raw_content.sentence
        return self._notes.get(flow, {}).get(part, "")

    # Letting go

    def _add(self, flow: http.HTTPFlow, number: int) -> None:
        self.forget(flow.id)
        bodies = {part: body for part, message in _messages(flow) if len(body := _content(message)) > LEAST}
        if bodies:
            self._held[flow.id] = held = _Held(flow, bodies, number)
            self.size += held.size

    def make_room(self) -> None:
        """Let go of what is in the database for sure, and else ask whether it is by now."""
        self._let_go(self._written_to)
        if self.size <= self._limit():
            return
        now = self._clock()
        if self._asked_at is None:
            self._asked_at, newest = now, self._newest

            def answered(_: Future[bool]) -> None:
                with contextlib.suppress(RuntimeError):  # the event loop is over
                    self._soon(self._answered, newest)

            self._written().add_done_callback(answered)
        elif now - self._asked_at > PATIENCE:
            self._let_go(self._newest)

    def _answered(self, newest: int) -> None:
        """Those up to this one are in the database, or never will be."""
        self._asked_at, self._written_to = None, newest
        if newest < self._newest:
            self.make_room()
        else:
            self._let_go(newest)

    def _let_go(self, newest: int) -> None:
        """Of the oldest ones, but of none that has finished after this one, until there are not too many."""
        with self._lock:
            gone, excess = list[_Held](), self.size - self._limit()
            for held in self._held.values():
                if excess <= 0:
                    break
                if held.number <= newest and not held.flow.live and not held.flow.intercepted:
                    gone.append(held)
                    excess -= held.size
            for held in gone:
                self.forget(held.flow.id)
                self._empty(held)

    def _empty(self, held: _Held) -> None:
        """But what somebody has changed stays, and what they have changed it from: no database has that."""
        if held.flow._backup is not None:
            return
        for part, message in _messages(held.flow):
            body = held.bodies.get(part)
            if body is not None and message.raw_content is body:
                self._stand_in(held.flow, message, part, len(body))

    def _stand_in(self, flow: http.HTTPFlow, message: http.Message, part: str, size: int) -> None:
        reference = weakref.ref(flow)

        def fetch() -> None:
            if (there := reference()) is not None:
                self._fetch(there)

        stand_in(message, StandIn(AWAY, size, f"{flow.id} {part}", fetch))

    # Coming back

    def _fetch(self, flow: http.HTTPFlow) -> None:
        """As `bring_back`, for those who cannot await it."""
        if (reading := self._read(flow)) is None:
            self._give_up(flow, GONE)
            return
        try:
            self._put_back(flow, reading.result(ANSWER_SECONDS))
        except (CCFlareError, TimeoutError) as error:
            self._give_up(flow, _unreadable(error))

    def _read(self, flow: http.HTTPFlow) -> Future[Recorded] | None:
        exchange_id = self._exchanges.get(flow)
        return self._recorded(exchange_id) if exchange_id is not None else None

    def _put_back(self, flow: http.HTTPFlow, found: Recorded) -> None:
        with self._lock:
            for part, message in _messages(flow):
                if isinstance(message.raw_content, StandIn) and part in found:
                    message.raw_content = _as_on_the_wire(found[part], message)
                    self._notes.setdefault(flow, {})[part] = _difference(found[part])
        self._give_up(flow, GONE)
        if _is_on_loop():
            self.make_room()  # at once: who saves many flows has one after the other come back
        else:
            self._soon(self.make_room)
        with self._lock:
            self._add(flow, 0)

    def _give_up(self, flow: http.HTTPFlow, why: str) -> None:
        """Say of what has not come back why not."""
        for _, message in _messages(flow):
            if isinstance(away := message.raw_content, StandIn):
                message.raw_content = StandIn(why, away.size, away.version)


def _messages(flow: http.HTTPFlow) -> Iterator[tuple[str, http.Message]]:
    yield "request", flow.request
    if flow.response is not None:
        yield "response", flow.response


def _content(message: http.Message) -> bytes:
    """The body, if it is here."""
    body = message.raw_content
    return b"" if body is None or isinstance(body, StandIn) else body


def _is_away(flow: http.HTTPFlow) -> bool:
    return any(isinstance(message.raw_content, StandIn) for _, message in _messages(flow))


def _is_on_loop() -> bool:
    """Whether this is the event loop's thread, in which alone bodies go: in another one somebody may look at them."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _as_on_the_wire(body: Body, message: http.Message) -> bytes:
    """What was recorded decoded, since secrets were blanked in it, gets the coding that the head still tells."""
    coding = message.headers.get("content-encoding", "")
    if not coding or body.content_encoding:
        return body.content
    try:
        return bytes(encoding.encode(body.content, coding) or b"")
    except ValueError:  # a coding that mitmproxy does not know: it is shown as it is
        return body.content


def _lacks(exchange: Story) -> Iterator[tuple[str, str]]:
    """By its part, what is to be said of a body that was not kept whole from the beginning."""
    if exchange.unkept_bytes:
        yield "request", f"This body, {told_size(exchange.unkept_bytes)}, was too large to be kept."
    if exchange.capture.truncated:
        yield "response", _cut(exchange.capture.size)


def _difference(body: Body) -> str:
    """What is to be said of a body that was recorded; empty if it is as it was on the wire."""
    blanked = f"{some(body.redactions, 'secret')} in this body {'is' if body.redactions == 1 else 'are'} blanked."
    parts = (_cut(body.size) if body.truncated else "", blanked if body.redactions else "")
    return " ".join(filter(None, parts))


def _cut(size: int) -> str:
    return f"This is the beginning of a body of {told_size(size)}: no more of it was kept."


def _unreadable(error: Exception) -> str:
    return f"This body could not be read from ccflare's database: {error or 'it does not answer'}."
