"""How long an upstream has sent nothing, and what follows when its client leaves then. Pure.

A client does not say why it leaves. If it has waited for as long as clients do, or asks the same again at once, the
upstream was to blame; see `departures`.
"""

from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.exchange.aftermath import is_clients_limit
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.departures import SILENT_SECONDS, Departure, SameRequest
from ccflare_core.exchange.serving import Serving
from ccflare_core.exchange.steps import Outcome, Ticket
from ccflare_core.exchange.story import Story


def account_to_avoid(story: Story, shared: Collaborators) -> str | None:
    """The account that another one is tried before, since this client has got nothing good out of it last."""
    departures, now, opening, facts = shared.departures, shared.clock(), story.opening, story.facts
    repeated = departures.take(opening, facts, story.request_body, now)
    if repeated is None:
        is_free = opening.path == MESSAGES and not facts.stays and story.continues is None
        return departures.avoided(opening, facts, now) if is_free else None
    if not repeated.is_blamed:
        why = f"the upstream sent nothing for {repeated.silence:.1f} s, and the client asked again"
        shared.recorder.corrected(repeated.exchange_id, Outcome.UPSTREAM_ERROR, why)
    return repeated.account_id


class Silence:
    """What the client of one exchange has been waiting for. `started` is in monotonic seconds."""

    def __init__(self, story: Serving, shared: Collaborators, started: float) -> None:
        self._story = story
        self._shared = shared
        self._started = started

    def seconds(self) -> float | None:
        """For how long the client has had nothing, while an upstream was at work on it; None if none is."""
        story = self._story
        if story.ticket is not Ticket.LEASE or not (story.first_byte is not None or story.is_under_way):
            return None
        last_at = story.capture.last_at
        return self._shared.clock() - (self._started + (story.first_byte or 0.0) if last_at is None else last_at)

    def waited_in_vain(self) -> float | None:
        """The same for a client that leaves now, if that is as long as clients wait for an upstream."""
        silence, story = self.seconds(), self._story
        has_head, is_streamed = story.first_byte is not None, bool(story.facts.stream)
        is_blamed = silence is not None and is_clients_limit(silence, has_head=has_head, is_streamed=is_streamed)
        return silence if is_blamed else None

    def note_departure(self, *, is_blamed: bool) -> None:
        """Remember that the exchange ends while the upstream is silent: the same request may come again."""
        silence, story = self.seconds(), self._story
        if silence is None or story.lease is None or (story.first_byte is not None and silence < SILENT_SECONDS):
            return
        asked = SameRequest.of(story.opening, story.facts, story.request_body)
        departure = Departure(story.id, story.lease.account.id, self._shared.clock(), silence, is_blamed)
        self._shared.departures.note(asked, departure)
