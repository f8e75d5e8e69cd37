"""All open exchanges: each begins here, and what is left at the end of the process is ended here."""

from dataclasses import dataclass, field

from ccflare_core.config.settings import Settings
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Opening, Outcome


@dataclass(slots=True)
class Exchanges(Collaborators):
    """The open exchanges by their id, and what they share."""

    open: dict[str, Exchange] = field(default_factory=dict)
    is_stopping: bool = False
    """Whether the process is to end as soon as the open ones have."""

    def change(self, settings: Settings) -> None:
        """Go on with these settings. What an open exchange has begun with stays, see the options table."""
        self.settings = settings

    def begin(self, opening: Opening) -> Exchange:
        """A new exchange with no ticket yet; its row is on the way to the database."""
        exchange = Exchange(opening, self, self._forget)
        self.recorder.started(exchange)
        self.open[exchange.id] = exchange
        return exchange

    def finish_all(self, outcome: Outcome) -> int:
        """End whatever is still open, as when the process stops. Returns how many that were."""
        left = list(self.open.values())
        for exchange in left:
            exchange.finish(outcome)
        return len(left)

    def _forget(self, exchange_id: str) -> None:
        self.open.pop(exchange_id, None)
