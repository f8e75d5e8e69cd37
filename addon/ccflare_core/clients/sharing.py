"""How a limit is divided among the proxies on one database: what is divided, and who gets how much of it. Pure.

A limit is an amount of something in a window, for a scope: the requests that a client key may have open, its requests
a minute, its tokens of a day. Nothing here knows of client keys. Each run, the life of one proxy, holds a share of it,
and all shares together are never more than the amount.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Resource(StrEnum):
    """What becomes of a part of a limit that was used."""

    OPEN = "open"
    """It is free again when what it was used for has ended."""
    RATE = "rate"
    """It comes back evenly within a minute."""
    SPEND = "spend"
    """It is gone until the window ends."""


class Limit(NamedTuple):
    """How much of something there is in a window, for a scope."""

    scope: str
    window: str
    amount: int
    resource: Resource
    until: float | None = None
    """When the window ends, in epoch seconds; None: never."""

    @property
    def id(self) -> tuple[str, str]:
        """What tells it from others; its amount may change."""
        return self.scope, self.window


class Claim(NamedTuple):
    """What one run holds of a limit, and wants to hold."""

    held: int = 0
    used: int = 0
    """What is open, or was spent and may yet be by what is open; nothing of a rate."""
    wanted: int = 0
    """What it could use in all."""
    spent: int = 0
    """What is known to have been spent."""
    waiting: int | None = None
    """Since when it has held nothing and refused something: a number that only grows."""


def apportion(limit: Limit, claims: Mapping[str, Claim]) -> dict[str, int]:
    """How much of the limit each run should hold.

    Everybody gets what they want, as far as there is enough; if not, nobody gets more than somebody who gets too
    little. Of what nobody wants each gets as much, but for what is spent: that stays where all can take it.
    """
    is_spent, amount = limit.resource is Resource.SPEND, limit.amount
    least = 1 if not is_spent and amount >= 4 * len(claims) else 0
    """So that a first request need not wait for a share."""
    base = {run: claim.used if is_spent else 0 for run, claim in claims.items()}
    wants = {run: max(least, min(claim.wanted, amount) - base[run]) for run, claim in claims.items()}
    left = max(0, amount - sum(base.values()))
    if sum(wants.values()) > left:
        given = _fill(wants, left, claims)
    elif is_spent:
        given = wants
    else:
        given = _spread(wants, left - sum(wants.values()), claims)
    return {run: base[run] + given[run] for run in claims}


def _fill(wants: Mapping[str, int], left: int, claims: Mapping[str, Claim]) -> dict[str, int]:
    """As much for everybody, and no more than wanted."""
    given, short = dict.fromkeys(wants, 0), dict(wants)
    while short:
        level = left // len(short)
        content = [run for run, wanted in short.items() if wanted <= level]
        if not content:
            rest = left - level * len(short)
            first = sorted(short, key=lambda run: _turn(run, claims[run]))[:rest]
            return given | {run: level + (run in first) for run in short}
        for run in content:
            given[run] = short.pop(run)
            left -= given[run]
    return given


def _turn(run: str, claim: Claim) -> tuple[bool, float, int, str]:
    """Who gets what cannot be divided: those that have nothing, the longest first; then it stays where it is."""
    waiting = float("inf") if claim.waiting is None else claim.waiting
    return claim.held > 0, waiting, -claim.held, run


def _spread(wants: Mapping[str, int], rest: int, claims: Mapping[str, Claim]) -> dict[str, int]:
    each, odd = divmod(rest, len(wants) or 1)
    first = sorted(wants, key=lambda run: (-claims[run].held, run))[:odd]
    return {run: wanted + each + (run in first) for run, wanted in wants.items()}


class Line(NamedTuple):
    """What a run says of its share."""

    limit: Limit
    held: int
    """What it keeps at most; it never takes any by itself."""
    used: int
    wanted: int
    spent: int
    is_short: bool = False
    """Whether something was refused of late for lack of it."""
    tokens: int = 0
    """Thousandths of requests that may be sent at once, and go with the part of a rate that it gives up."""


class Standing(NamedTuple):
    """What came of it."""

    held: int
    give: int = 0
    """What others lack and it should give up."""
    tokens: int = 0
    """Thousandths of requests that came with what it got of a rate."""
    spent_by_all: int = 0


class Report(NamedTuple):
    """What a run tells of all limits of which something has changed."""

    is_whole: bool
    """Whether it has held everything so far."""
    lines: tuple[Line, ...] = ()


class Answer(NamedTuple):
    """What the run goes by from then on."""

    is_alone: bool
    standings: Mapping[tuple[str, str], Standing] = {}
