"""Which account has which session's prompt cached, and what is lost when a session goes to another one. Pure.

The rules are those of reports/measures.py: what the former account had cached of the prompt, no longer ago than the
cache lives, is written once more. But not what every account has of it: an account that the session comes back to may
have some of it still, and what the session's first turn has read was cached for others, such as the system prompt.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ccflare_core.simulation.turns import Recent, Turn

SHORT_SECONDS: Final = 300.0
LONG_SECONDS: Final = 3600.0


class Loss(NamedTuple):
    """What a turn loses by the account that serves it, in tokens."""

    moved: bool
    rebilled: int = 0
    thinking: int = 0


@dataclass(slots=True)
class _Cached:
    prefix: int
    until: float


@dataclass(slots=True)
class _Thread:
    account_id: str
    shared: int
    """What of the prompt was in the cache before the first turn."""
    of: dict[str, _Cached] = field(default_factory=dict)
    thought: dict[str, int] = field(default_factory=dict)


class Caches:
    """All caches. Turns have to come in about the order in which they were sent; `session_seconds` bounds memory."""

    def __init__(self, session_seconds: float) -> None:
        self._sessions: Recent[str, str] = Recent(session_seconds)
        self._threads: Recent[tuple[str | None, ...], _Thread] = Recent(LONG_SECONDS)

    def adopt(self, session_id: str, account_id: str, now: float) -> None:
        """A session had this account before there was a turn."""
        self._sessions.put(session_id, account_id, now)

    def has_thought(self, turn: Turn) -> bool:
        """Whether there is thinking in its conversation that an account has made."""
        thread = self._threads.get(turn.thread, turn.at)
        return thread is not None and any(thread.thought.values())

    def serve(self, turn: Turn, account_id: str, now: float) -> Loss:
        """This account serves the turn."""
        session = turn.facts.session_id
        if not session or not turn.facts.spends:
            return Loss(moved=False)
        former = self._sessions.get(session, now)
        self._sessions.put(session, account_id, now)
        loss = self._lose(turn, account_id, now)
        return loss._replace(moved=former is not None and former != account_id)

    def _lose(self, turn: Turn, account_id: str, now: float) -> Loss:
        thread = self._threads.get(turn.thread, now) or _Thread(account_id, turn.tokens.read)
        lost, thinking = 0, 0
        if thread.account_id != account_id:
            thinking = thread.thought.get(thread.account_id, 0)
            had, has = thread.of.get(thread.account_id), thread.of.get(account_id)
            if had is not None and now <= had.until:
                left = has.prefix if has is not None and now <= has.until else 0
                lost = max(0, min(had.prefix, turn.tokens.read) - max(left, thread.shared))
        lives = LONG_SECONDS if turn.tokens.written_1h else SHORT_SECONDS
        thread.account_id = account_id
        thread.of[account_id] = _Cached(turn.tokens.prefix, now + lives)
        if turn.facts.ties_thinking and turn.thinking:
            thread.thought[account_id] = thread.thought.get(account_id, 0) + turn.thinking
        self._threads.put(turn.thread, thread, now)
        return Loss(moved=False, rebilled=lost, thinking=thinking)
