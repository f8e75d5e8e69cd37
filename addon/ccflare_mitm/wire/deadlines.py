"""How long a stream waits, and what it is told when that was too long."""

import time
from collections.abc import Callable

from mitmproxy.proxy import events


class DeadlinePassed(events.Event):
    """To a stream: what it waits for has not come in time."""


class ReaderStalled(events.Event):
    """To a stream: its client does not take what it is sent."""


class TunnelOver(events.Event):
    """To a stream: the key that its client's tunnel was opened with is over."""


class Deadlines:
    """A stream's two deadlines, which the reaper compares with the clock.

    One is for the next sign of life and begins anew with each; the other is the end of the whole, which nothing moves.
    What the stream waits for is told by its state.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.heard_at = clock()
        """The last sign of life."""
        self.seconds: float | None = None
        """How long the next one may take; None: none is expected."""
        self._end: float | None = None

    def wait_for(self, seconds: float) -> None:
        """Begin to wait for a sign of life."""
        self.seconds, self.heard_at = seconds, self.clock()

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = self.clock()

    def pause(self) -> None:
        """Expect no sign of life for now; the end stays."""
        self.seconds = None

    def end_after(self, seconds: float) -> None:
        """Set the end of the whole; 0 takes it away."""
        self._end = self.clock() + seconds if seconds else None

    def cancel(self) -> None:
        """Drop both."""
        self.seconds = self._end = None

    def is_at_end(self, now: float) -> bool:
        """Whether the end of the whole has passed."""
        return self._end is not None and now >= self._end

    def is_over(self, now: float) -> bool:
        """Whether one of the two has passed."""
        return (self.seconds is not None and now - self.heard_at >= self.seconds) or self.is_at_end(now)
