"""Replay: a person sends a request of the list once more, through the gate, the pool and all limits.

Never by itself: it takes two presses, the first of which says what it may cost. Only what a client has really sent is
repeated, so its exact body has to be here still. It is audited before it is sent.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.flow import Flow
from mitmproxy.log import ALERT

from ccflare_core.anthropic.prompt_size import estimated_tokens
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.exchange.log_line import money
from ccflare_core.exchange.steps import Ticket
from ccflare_core.exchange.story import Story
from ccflare_mitm.host.replays import Replay
from ccflare_mitm.inspector.repeat import Seen
from ccflare_mitm.inspector.stand_ins import StandIn
from ccflare_mitm.inspector.views import has_conversation

logger = logging.getLogger("ccflare")

PAUSE, PATIENCE = 0.5, 60.0
"""Seconds from which on, and for which, the second press counts: nobody reads a question within a double click."""


class Wanted(NamedTuple):
    """A replay that waits for its second press."""

    account: str
    asked_at: float
    """Monotonic seconds."""


class Way(NamedTuple):
    """What a replay needs of others."""

    find: Callable[[http.HTTPFlow], Story | None]
    is_loaded: Callable[[http.HTTPFlow], bool]
    """Whether it was made of the record, and did not run here."""
    bring_back: Callable[[http.HTTPFlow], Awaitable[object]]
    """Gets its bodies out of the database, if they have been let go."""
    describe: Callable[[http.HTTPFlow, str], Replay]
    """The replay of this flow with the account of this name, or with any."""
    objection: Callable[[], str]
    """Why nothing can be replayed here; "" if it can."""
    audit: Callable[[Replay], Awaitable[object]]
    """Writes down what is sent again. Raises StoreError."""
    send: Callable[[http.Request, Replay], Awaitable[None]]
    say: Callable[[http.HTTPFlow, str], object]
    """Shows a sentence over the flow's comment."""
    start: Callable[[str, Coroutine[Any, Any, None]], object]
    """Runs something beside the traffic."""


class Replayer:
    """See the module."""

    def __init__(self, way: Way, clock: Callable[[], float]) -> None:
        self._way = way
        self._clock = clock
        self._seen: WeakKeyDictionary[http.HTTPFlow, Seen] = WeakKeyDictionary()
        self._wanted: WeakKeyDictionary[http.HTTPFlow, Wanted] = WeakKeyDictionary()

    def remember(self, flow: http.HTTPFlow, story: Story) -> None:
        """The flow has finished: note what it was, as long as its exchange has the body."""
        if story.request_body and has_conversation(flow, flow.request):
            self._seen[flow] = Seen.of(flow.request, story.request_body)

    def press(self, flows: Sequence[Flow]) -> None:
        """mitmproxy's own command, behind mitmweb's button and the console's key. It does not raise: see the page."""
        for flow in flows:
            if isinstance(flow, http.HTTPFlow):
                try:
                    told = self.replay(flow)
                except StoreError as refused:
                    told = str(refused)
                logger.log(ALERT, "%s", told)

    def replay(self, flow: http.HTTPFlow, account: str = "") -> str:
        """Ask, or send what was asked about, and what a person is told. Raises StoreError if it cannot be sent."""
        if objection := self._objection(flow):
            self._way.say(flow, objection)
            raise StoreError(objection)
        wanted, now = self._wanted.pop(flow, None), self._clock()
        if wanted is not None and wanted.account == account and PAUSE <= now - wanted.asked_at <= PATIENCE:
            self._way.say(flow, "")
            replay = self._way.describe(flow, account)
            self._way.start("replay", self._send(flow, replay))
            return "the request is sent again"
        self._wanted[flow] = Wanted(account, now)
        question = f"replay? once more within {PATIENCE:.0f} s sends it; {self._costs(flow)}"
        self._way.say(flow, question)
        return question

    # Whether it can be sent

    def _objection(self, flow: http.HTTPFlow) -> str:
        story, seen = self._way.find(flow), self._seen.get(flow)
        if story is not None and story.outcome is None:
            return "not replayed: it still runs"
        if story is not None and story.ticket is Ticket.PASS:
            return "not replayed: it went with the client's own credential, which is not kept"
        if self._way.is_loaded(flow):
            return "not replayed: it was loaded from the record, which keeps no headers to send it with"
        if story is None or seen is None:
            return "not replayed: only requests to the Messages API whose exact body is still here can be"
        body = flow.request.raw_content
        is_away = isinstance(body, StandIn)
        if body is None or len(body) != seen.size or (isinstance(body, StandIn) and body.fetch is None):
            return "not replayed: its exact body is not here any more"
        found = Seen.of(flow.request, body)
        if (found._replace(size=seen.size, digest=seen.digest) if is_away else found) != seen:
            return "not replayed: it was edited here, and only what a client has sent is sent again"
        return self._way.objection()

    def _costs(self, flow: http.HTTPFlow) -> str:
        """What it may take at most if the answer is as long as the first one, with nothing in the cache any more."""
        story = self._way.find(flow)
        reading = story.reading if story else None
        if story is None or reading is None or reading.usage.input_tokens is None:
            tokens = estimated_tokens(flow.request.raw_content or b"")
            return f"what it costs is not known, its prompt has about {tokens:,} tokens"
        usage = reading.usage
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        anew = replace(usage, cache_read_input_tokens=0, cache_creation_input_tokens=read + written)
        cost: Decimal | None = story.prices.cost(reading.model or story.facts.model, anew) if story.prices else None
        return f"it costs about {money(cost)} (the first time {money(story.cost)})"

    # Sending it

    async def _send(self, flow: http.HTTPFlow, replay: Replay) -> None:
        await self._way.bring_back(flow)
        if objection := self._objection(flow):  # what comes back may have been recorded without its secrets, or cut
            self._way.say(flow, objection)
            return
        try:
            request = flow.request.copy()
            await self._way.audit(replay)
            await self._way.send(request, replay)
        except (CCFlareError, OSError) as error:
            self._way.say(flow, f"not replayed: {error}")
            logger.warning("a request could not be replayed: %s", error)
