"""What an exchange has used, and what it counts in its client's budget. Pure."""

import logging
from collections.abc import Callable

from ccflare_core.anthropic import usage
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.usage import Reading
from ccflare_core.exchange.counted import AS_RECORDED, NOTHING, Counted, Demand, presumed, unanswered
from ccflare_core.exchange.story import Story, Used
from ccflare_core.secrets.echo import Echo

logger = logging.getLogger("ccflare")


class Spending:
    """Follows one exchange. Times are monotonic seconds."""

    def __init__(self, story: Story, clock: Callable[[], float]) -> None:
        self._story = story
        self._clock = clock
        self._sent_at: float | None = None
        self._may_be_made = False
        self.estimate: Counted | None = None
        """What a batch may take that this exchange makes."""

    def sent(self) -> None:
        """The request goes out: the upstream may be at work on it."""
        self._sent_at = self._clock()

    def judged(self) -> None:
        """There is a verdict on what was sent."""
        self._sent_at = None

    def broke_off(self, *, before_head: bool) -> None:
        """The upstream said no more; what it was asked to make may be there all the same."""
        self._may_be_made |= self._sent_at is not None or not before_head

    def used(self, prices: PriceList, echo: Echo | None, *, cut: bool) -> Used:
        """What it used. A mistake in reading that must not cost the client its answer, nor the pool a lease."""
        used, story = Used(prices), self._story
        if not story.metered:
            return used
        try:
            if not story.capture.content_type:  # also an empty one: a stream of no events was cut
                return used._replace(counted=self._unread(prices))
            reading = story.capture.read(cut=cut)
            reading = usage.without(reading, echo.is_in) if echo else reading
            used = used._replace(reading=reading)
            used = used._replace(cost=prices.cost_of(reading, story.facts.model))
            return used._replace(counted=self._counted(reading, prices))
        except Exception:
            logger.exception("The usage of %s could not be read", story.id)
            return used

    def _counted(self, reading: Reading, prices: PriceList) -> Counted:
        status = self._story.status
        if self.estimate is not None:
            is_made = status is not None and 200 <= status < 300
            return self.estimate if is_made or self._may_be_made else NOTHING
        return presumed(reading, prices, self._demand(), status)

    def _unread(self, prices: PriceList) -> Counted:
        """What counts where nothing of an answer has gone to the client."""
        if self.estimate is not None:
            return self.estimate if self._sent_at is not None or self._may_be_made else NOTHING
        if self._sent_at is None:
            return AS_RECORDED
        return unanswered(prices, self._demand(), self._clock() - self._sent_at)

    def _demand(self) -> Demand:
        story, facts = self._story, self._story.facts
        body, encoding = story.request_body, story.request_encoding
        return Demand(story.opening.path, facts.model, body, encoding, is_streamed=bool(facts.stream))
