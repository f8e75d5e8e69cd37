"""Judges how an answer ended whose first content had gone to the client: whose fault it was. Pure.

Nothing is repeated then, but clients repeat by themselves, within a fifth of a second. So what broke the answer gives
the account a cooldown, and the client's own repeat finds another one.
"""

from typing import Final

from ccflare_core.anthropic import verdicts
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.anthropic.usage import Ending, Reading
from ccflare_core.anthropic.verdicts import Verdict
from ccflare_core.exchange.steps import Attempt, Outcome

NEAR: Final = 3.0
"""How far from one of its limits a client's leaving is still told to be for it: seconds."""
TO_HEAD: Final = (182.0, 360.0)
IN_STREAM: Final = (180.0, 300.0)
UNSTREAMED: Final = (300.0, 600.0)
"""How long clients wait, in seconds: Claude Code by HTTPS proxy and by base URL, and the SDKs."""


def outcome_of(ended_as: Outcome | None, reading: Reading | None, status: int | None) -> Outcome:
    """How an exchange ended: `ended_as`, if somebody ended it, unless the upstream had told an error before.

    Clients hang up at the moment at which they read an error, so who was first says nothing.
    """
    ending = reading.ending if reading else Ending.COMPLETE
    if ending is Ending.ERROR:
        return Outcome.UPSTREAM_ERROR
    if ended_as is not None:
        return ended_as
    if status is None or status >= 400:
        return Outcome.UPSTREAM_ERROR
    return Outcome.TRUNCATED if ending is Ending.TRUNCATED else Outcome.OK


def verdict_on_end(
    outcome: Outcome, reading: Reading | None, attempt: Attempt | None, path: str, now: float, facts: Facts
) -> Verdict | None:
    """What the end of a message means for the account of this last attempt; None if it means nothing new.

    An answer that was no good one from its first event on has had its verdict.
    """
    if path != MESSAGES or attempt is None or reading is None:
        return None
    begun = attempt.verdict
    if not (200 <= begun.status < 300 and begun.deliver) or begun.error:
        return None
    if reading.ending is Ending.ERROR:
        event = {"type": "error", "error": {"type": reading.error}}
        return verdicts.classify(begun.status, (), event, now, facts)
    return verdicts.broken_off(begun.status) if outcome is Outcome.TRUNCATED else None


def is_clients_limit(silence: float, *, has_head: bool, is_streamed: bool) -> bool:
    """Whether a client that left after so many seconds of silence has most likely waited as long as it does."""
    limits = UNSTREAMED if not is_streamed else IN_STREAM if has_head else TO_HEAD
    return any(abs(silence - limit) <= NEAR for limit in limits)
