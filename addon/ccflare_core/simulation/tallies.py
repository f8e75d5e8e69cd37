"""What came of the turns, in all and along time. Pure."""

from dataclasses import dataclass, field
from typing import Final

PANELS: Final = (
    ("served", "Served"),
    ("moved", "Moved"),
    ("waited", "Waited"),
    ("refused", "Refused"),
    ("cost_usd", "Cost, USD"),
    ("lost_usd", "Cache lost, USD"),
)
"""What is drawn along time, with its heading."""


@dataclass(slots=True)
class Counts:
    """Sums over turns. Costs are list prices in USD."""

    requests: int = 0
    served: int = 0
    failed: int = 0
    """That an account served, and the upstream did not to the end, or the client did not wait for it."""
    moved: int = 0
    """That another account served than the one before in their session."""
    waited: int = 0
    """That were held until an account was free."""
    waited_seconds: float = 0.0
    refused: int = 0
    limits: int = 0
    """Answers of accounts that a window is full."""
    cost_usd: float = 0.0
    """Of all that was served, with what was lost."""
    billed_usd: float = 0.0
    """As much of it as accounts with an API key have served."""
    lost_tokens: int = 0
    """That were written into a cache again, since another account had them."""
    lost_usd: float = 0.0
    """What that cost, and that of thinking that stays with the other account."""
    unsized: int = 0
    """Of those served, how many were refused in the past, so that their size is another one's."""


@dataclass(slots=True)
class Tally:
    """The counts of one replay, in all and by steps of so many seconds."""

    step: float
    total: Counts = field(default_factory=Counts)
    steps: dict[int, Counts] = field(default_factory=dict)

    def at(self, moment: float) -> tuple[Counts, Counts]:
        """Those that a turn which came at this time counts in."""
        number = int(moment // self.step)
        counts = self.steps.get(number)
        if counts is None:
            counts = self.steps[number] = Counts()
        return self.total, counts
