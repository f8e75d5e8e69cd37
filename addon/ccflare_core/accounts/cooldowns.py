"""How one account rests: a cooldown, the probation after it, and what people are told of both."""

from dataclasses import dataclass
from typing import NamedTuple

from ccflare_core.text import local_time

WHOLE_ACCOUNT = ""
"""The family of a cooldown that holds every request."""

LONGEST_REST = 8 * 86400.0
"""Seconds. No window of Anthropic's is longer than a week."""

PROBE_SECONDS = 10.0
"""How long a probe may go unanswered before another one is let through: its answer may take minutes."""

_PROBE_WAIT = 0.25


class Moment(NamedTuple):
    """One instant on both clocks, in seconds: monotonic for timers, epoch for what comes in or goes out."""

    mono: float
    wall: float


class Obstacle(NamedTuple):
    """Why an account cannot serve, and in how many seconds that ends by itself (None: it does not)."""

    reason: str
    seconds: float | None

    def recovery(self, wall: float) -> float | None:
        """The same end in epoch seconds."""
        return None if self.seconds is None else wall + self.seconds


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A rest of an account, or with a `family` only of that model family on it. It ends by itself."""

    account_id: str
    family: str
    until: float
    """Epoch seconds."""
    reason: str
    source: str
    """The value of the `limits.Kind` that caused it."""
    streak: int


class Rest:
    """A cooldown at work; once its time is over, the probation that follows until an answer is in.

    `since` is the number of the youngest lease there was when it began, `by` that of the lease that caused
    it (0: none in this run).
    """

    __slots__ = ("by", "cooldown", "deadline", "label", "probe", "probe_until", "since")

    def __init__(self, cooldown: Cooldown, at: Moment, since: int, by: int) -> None:
        self.cooldown = cooldown
        self.deadline = at.mono + cooldown.until - at.wall
        self.since = since
        self.by = by
        self.probe = 0  # the number of the lease that probes
        self.probe_until = 0.0
        self.label = f"{cooldown.reason} until {local_time(cooldown.until, at.wall)}"

    def left(self, at: Moment) -> float:
        """Seconds that remain; not positive once it is over.

        The monotonic deadline stands whatever the wall clock does. But it does not count while the machine
        sleeps, so the wall clock may end a rest early: at worst that costs one probe.
        """
        return min(self.deadline - at.mono, self.cooldown.until - at.wall)

    def obstacle(self, at: Moment) -> Obstacle | None:
        """Why nobody can pass now; None if the next lease may (as a probe)."""
        left = self.left(at)
        if left > 0:
            return Obstacle(self.label, left)
        return Obstacle("being probed", _PROBE_WAIT) if self.probe and at.mono < self.probe_until else None

    def lend(self, number: int, at: Moment) -> None:
        """Let this lease through as the probe."""
        self.probe, self.probe_until = number, at.mono + PROBE_SECONDS

    def is_disproved_by(self, number: int) -> bool:
        """Whether a good answer to this lease ends the rest.

        An older request's good answer says nothing about what was learned after it was sent. The request
        that caused the rest may have been repeated in place.
        """
        return number > self.since or number == self.by

    def is_answered_by(self, number: int, at: Moment) -> bool:
        """Whether this lease was a probe, so that any answer to it ends the probation."""
        return number > self.since and self.left(at) <= 0
