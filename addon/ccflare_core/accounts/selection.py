"""Which account serves the next request, and why: a pure decision over a list of candidates.

The order of what counts: availability, then priority (the lowest number goes first, also before a session's
own account), then affinity, then load and utilization.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from ccflare_core.accounts.priority import LAST

IN_FLIGHT_WEIGHT = 0.05
"""A request in flight weighs as much as five points of 5h utilization, so new sessions spread at once
although the utilization that they cause is learned only later."""


class Candidate(NamedTuple):
    """One account as the choice sees it. Utilizations are fractions of the window; unknown is 0."""

    id: str
    name: str
    priority: int
    unavailable: str | None
    """Why it cannot serve now; None if it can."""
    in_flight: int
    utilization_5h: float
    utilization_7d: float

    def behind(self, place: int) -> Self:
        """The same with so many before it, whatever the priorities are."""
        return self._replace(priority=place * (LAST + 1) + self.priority)


class Choice(NamedTuple):
    """The chosen account (None: there is none), the reason, and why each of the others was not."""

    account_id: str | None
    reason: str
    considered: tuple[tuple[str, str], ...]


def choose(candidates: Sequence[Candidate], *, strategy: str, pinned: str | None, turn: int) -> Choice:
    """The account for one request.

    `pinned` is the id of the account that holds the session, if any. `turn` is the place in `candidates`
    whose turn it is; it decides for round-robin, and for the others between equals.
    """
    free = [candidate for candidate in candidates if candidate.unavailable is None]
    if not free:
        considered = tuple((candidate.name, candidate.unavailable or "") for candidate in candidates)
        return Choice(None, "no account is available", considered)
    best = min(candidate.priority for candidate in free)
    level = [candidate for candidate in free if candidate.priority == best]
    if strategy == "round-robin":
        chosen = _in_turn(level, candidates, turn)
        return _chosen(chosen, "next in turn", candidates, best, "not its turn")
    reason = "most headroom"
    if strategy == "session" and pinned is not None:
        for candidate in level:
            if candidate.id == pinned:
                return _chosen(candidate, "keeps its session", candidates, best, "the session is elsewhere")
        reason = _why_moved(candidates, pinned) or reason
    return _chosen(_lightest(level, candidates, turn), reason, candidates, best, "more used")


def _in_turn(level: list[Candidate], everyone: Sequence[Candidate], turn: int) -> Candidate:
    """The first of `level` at or after the turn, going round."""
    start = turn % len(everyone)
    return next(candidate for candidate in (*everyone[start:], *everyone[:start]) if candidate in level)


def _lightest(level: list[Candidate], everyone: Sequence[Candidate], turn: int) -> Candidate:
    """The one with the most headroom; among equals the one whose turn it is."""
    loads = [
        # In whole points: finer differences say nothing, and the turn spreads sessions better than they do.
        (round(c.utilization_5h + IN_FLIGHT_WEIGHT * c.in_flight, 2), c.in_flight, round(c.utilization_7d, 2))
        for c in level
    ]
    least = min(loads)
    equals = [candidate for candidate, load in zip(level, loads, strict=True) if load == least]
    return equals[0] if len(equals) == 1 else _in_turn(equals, everyone, turn)


def _why_moved(candidates: Sequence[Candidate], pinned: str) -> str:
    for candidate in candidates:
        if candidate.id == pinned:
            return f"moved from {candidate.name}: {candidate.unavailable or 'a higher priority is free'}"
    return ""


def _chosen(chosen: Candidate, reason: str, candidates: Sequence[Candidate], best: int, otherwise: str) -> Choice:
    considered = tuple(
        (c.name, c.unavailable or ("lower priority" if c.priority > best else otherwise))
        for c in candidates
        if c is not chosen
    )
    return Choice(chosen.id, reason, considered)
