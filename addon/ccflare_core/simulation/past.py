"""What has really happened: its counts, and how large requests were. Pure."""

from collections.abc import Iterable

from ccflare_core.simulation.tallies import Counts, Tally
from ccflare_core.simulation.turns import Recent, Turn


class Past:
    """The same counts of what has really happened."""

    def __init__(self, step: float, billed: Iterable[str] = ()) -> None:
        self.tally = Tally(step)
        self._billed = frozenset(billed)

    def take(self, turn: Turn) -> None:
        """The next turn."""
        for counts in self.tally.at(turn.at):
            self._count(turn, counts)

    def _count(self, turn: Turn, counts: Counts) -> None:
        cost = turn.cost + turn.lost_cost
        counts.requests += 1
        counts.served += turn.outcome == "ok"
        counts.refused += turn.outcome == "refused"
        counts.failed += turn.outcome not in ("ok", "refused")
        counts.moved += turn.moved
        counts.waited += turn.waited > 0
        counts.waited_seconds += turn.waited
        counts.limits += turn.limits
        counts.cost_usd += cost
        counts.billed_usd += cost if turn.account_id in self._billed else 0.0
        counts.lost_tokens += turn.lost_tokens
        counts.lost_usd += turn.lost_cost + turn.lost_thinking


class Sizes:
    """How large requests are that were refused in the past: as the last one in their thread, or else of their model."""

    def __init__(self) -> None:
        self._last: Recent[tuple[str | None, ...], Turn] = Recent(3600.0)
        self._of_model: dict[str | None, Turn] = {}

    def sized(self, turn: Turn) -> Turn:
        """The turn with a size; its own, if that is known."""
        if not turn.facts.spends:
            return turn
        if turn.is_sized:
            self._last.put(turn.thread, turn, turn.at)
            self._of_model[turn.facts.model] = turn
            return turn
        found = self._last.get(turn.thread, turn.at) or self._of_model.get(turn.facts.model)
        if found is None:
            return turn
        return turn._replace(
            tokens=found.tokens,
            cost=found.cost,
            output_share=found.output_share,
            head_seconds=found.head_seconds,
            seconds=found.seconds,
        )
