"""Remembers the last bodies of each session with what was made of them, so that the next one need not begin anew.

In memory alone, within a bound: the sessions that were heard of longest ago go first, and whoever has been silent for
an hour. The writer's thread alone uses it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ccflare_core.transcripts.changes import alike

MOST_BYTES = 16 * 1024 * 1024
"""Of what is made for one purpose. There are two, so it is 32 MiB in all."""
_MOST_BODIES = 4
"""Of one session: an agent's helpers have conversations of their own in it, which take turns."""
_SILENT_SECONDS = 3600


class Made(Protocol):
    """What was made of a body."""

    @property
    def body(self) -> bytes: ...

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""


class _Session[T: Made](NamedTuple):
    made: list[T]
    heard_at: float


class Conversations[T: Made]:
    """What was made of the last bodies, by session."""

    def __init__(self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._sessions: OrderedDict[str, _Session[T]] = OrderedDict()
        self.weight = 0
        """How many bytes all of it takes."""

    def closest(self, session: str, body: bytes) -> T | None:
        """What was made of the body of this session that begins most like this one."""
        known = self._sessions.get(session)
        if known is None:
            return None
        return known.made[0] if len(known.made) == 1 else max(known.made, key=lambda made: _common(made, body))

    def keep(self, session: str, made: T) -> None:
        """Remember this, in place of what it goes on from."""
        known = self._sessions.pop(session, None)
        others = [each for each in known.made if not _goes_on(made, each)] if known else []
        self.weight -= _weight(known)
        self._sessions[session] = new = _Session([*others, made][-_MOST_BODIES:], self._clock())
        self.weight += _weight(new)
        self._let_go()

    def clear(self) -> None:
        """Forget everything."""
        self._sessions.clear()
        self.weight = 0

    def _let_go(self) -> None:
        earliest = self._clock() - _SILENT_SECONDS
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if self.weight <= self._most_bytes and oldest.heard_at >= earliest:
                break
            self._sessions.popitem(last=False)
            self.weight -= _weight(oldest)


def _weight[T: Made](session: _Session[T] | None) -> int:
    return sum(made.weight for made in session.made) if session else 0


def _common(made: Made, body: bytes) -> int:
    return alike(made.body, 0, body, 0, min(len(made.body), len(body)))


def _goes_on(made: Made, earlier: Made) -> bool:
    half = (len(earlier.body) + 1) // 2
    return made.body.startswith(memoryview(earlier.body)[:half])
