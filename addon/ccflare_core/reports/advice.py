"""A piece of advice: what the record says one should change, what that is worth, and where to look. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

LEAST_USD: Final = 1.0
"""In the whole period. What is worth less costs more to think about."""
EXAMPLES: Final = 3
"""How many requests or sessions are named to look at: enough to see what they have in common."""


class Kind(StrEnum):
    """What the advice is about."""

    IDLE_ACCOUNT = "idle_account"
    GREEDY_PROJECT = "greedy_project"
    MOVED_SESSIONS = "moved_sessions"
    BATCHES = "batches"
    SHORT_ANSWERS = "short_answers"


class Advice(NamedTuple):
    """One thing to change. What it is worth is in dollars, tokens or a share of a limit window; None is unknown."""

    kind: Kind
    subject: str
    """Of whom it is: an account, a project, a client, a family of models; "" is all of them."""
    text: str
    """What the record says, and what to do, in sentences."""
    requests: int
    """How many it goes by."""
    usd: float | None = None
    """By the price table, whoever pays for it."""
    unpriced_tokens: int = 0
    """Tokens of which nobody knows the price; that comes on top."""
    tokens: int | None = None
    window: str | None = None
    """Of which limit window `share` is a part: `7d`, `5h`."""
    share: float | None = None
    account: str | None = None
    """Whose window that is."""
    request_ids: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    """What one may look at."""


def by_worth(found: Iterable[Advice]) -> list[Advice]:
    """In the order in which to follow them: the dearest first, then the largest part of a window."""
    return sorted(found, key=lambda advice: (-(advice.usd or 0.0), -(advice.share or 0.0), advice.subject))


def largest(worth: Mapping[str | None, float]) -> tuple[str, ...]:
    """The names with the largest figures, as examples; what has no name or no worth is none."""
    ranked = sorted(((-each, name) for name, each in worth.items() if name is not None and each > 0))
    return tuple(name for _, name in ranked[:EXAMPLES])
