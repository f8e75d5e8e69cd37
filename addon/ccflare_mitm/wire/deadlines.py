"""How long a stream waits, for whom, and what is said when nobody came."""

import time
from collections.abc import Callable
from enum import Enum

from mitmproxy.proxy import events


class Phase(Enum):
    """What a stream is waiting for."""

    BODY = "the rest of the client's request"
    CONNECTION = "a connection to the upstream"
    HEAD = "the head of the upstream's answer"
    VERDICT = "so much of the answer that it can be judged"
    ANSWER = "the rest of the upstream's answer"
    LEAVING = "a client that was answered early to stop sending"


class DeadlinePassed(events.Event):
    """To a stream: what it waits for has not come in time."""


class ReaderStalled(events.Event):
    """To a stream: its client does not take what it is sent."""


class TunnelOver(events.Event):
    """To a stream: the key that its client's tunnel was opened with is over."""


class Deadlines:
    """A stream's two deadlines, which the reaper compares with the clock.

    One is for the next sign of life and begins anew with each; the other is the end of the whole, which nothing moves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.heard_at = clock()
        """The last sign of life."""
        self.phase: Phase | None = None
        self.seconds = 0.0
        self._end: float | None = None

    def wait_for(self, phase: Phase, seconds: float) -> None:
        """Begin to wait."""
        self.phase, self.seconds, self.heard_at = phase, seconds, self.clock()

    def pause(self) -> None:
        """Expect no sign of life for now; the end stays."""
        self.phase = None

    def end_after(self, seconds: float) -> None:
        """Set the deadline that nothing moves; 0 takes it away."""
        self._end = self.clock() + seconds if seconds else None

    def cancel(self) -> None:
        """Drop both."""
        self.phase = self._end = None

    def is_at_end(self, now: float) -> bool:
        """Whether the deadline that nothing moves has passed."""
        return self._end is not None and now >= self._end

    def is_over(self, now: float) -> bool:
        """Whether one of the two has passed."""
        return (self.phase is not None and now - self.heard_at >= self.seconds) or self.is_at_end(now)
