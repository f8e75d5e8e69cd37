"""The cooldown of one scope of an account, the half-open time after it, and both in words."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Scope, Verdict
from ccflare_core.text import local_time

LONGEST_COOLDOWN = 8 * 86400.0
"""Seconds. No window of Anthropic's is longer than a week."""

PROBE_SECONDS = 10.0
"""How long the request that a half-open scope let through may go unanswered before another one is: it may take minutes.
"""

_HALF_OPEN_WAIT = 0.25

HALF_OPEN = "half-open: one request is trying it"
"""Why others have to wait while a request goes through a half-open scope."""


class Moment(NamedTuple):
    """One instant on both clocks, in seconds: monotonic for timers, epoch for what comes in or goes out."""

    mono: float
    wall: float


class Unavailable(NamedTuple):
    """Why an account cannot serve, and in how many seconds that ends by itself (None: it does not)."""

    reason: str
    seconds: float | None

    def recovery(self, wall: float) -> float | None:
        """The same end in epoch seconds."""
        return None if self.seconds is None else wall + self.seconds


class Part(NamedTuple):
    """What of an account is cooling: the scope, and which one of its kind, as in (FAMILY, "opus")."""

    scope: Scope
    name: str = ""

    def __str__(self) -> str:
        """For people; "" is all of the account."""
        return f"{self.name} mode" if self.scope is Scope.MODE else self.name


WHOLE = Part(Scope.ACCOUNT)
_NO_MODEL = "?"
"""The family of requests that name no model, so that their cooldown is not one for all."""


def parts_of(facts: Facts) -> tuple[Part, ...]:
    """Everything of an account that a request passes through: it can be served if all of that is ready."""
    return _parts(facts.family or _NO_MODEL, facts.path_class, facts.mode, facts.betas)


@lru_cache(maxsize=256)  # for requests that are held, and because clients send the same few
def _parts(family: str, path_class: str, mode: str, betas: tuple[str, ...]) -> tuple[Part, ...]:
    modes = (Part(Scope.MODE, mode),) if mode else ()
    named = tuple(Part(Scope.BETA, beta) for beta in betas)
    return (WHOLE, Part(Scope.FAMILY, family), Part(Scope.PATH_CLASS, path_class), *modes, *named)


def parts_for(verdict: Verdict, facts: Facts) -> tuple[Part, ...]:
    """What of an account is cooling after this verdict on a request with these facts: one part, or every beta named."""
    match verdict.scope:
        case Scope.REQUEST:
            return ()
        case Scope.FAMILY:
            return (Part(Scope.FAMILY, facts.family or _NO_MODEL),)
        case Scope.PATH_CLASS:
            return (Part(Scope.PATH_CLASS, facts.path_class),)
        case Scope.MODE:
            return (Part(Scope.MODE, facts.mode),)
        case Scope.BETA:
            return tuple(Part(Scope.BETA, beta) for beta in verdict.betas)
        case _:
            return (WHOLE,)


TRIED = Unavailable(HALF_OPEN, _HALF_OPEN_WAIT)
UNCLAIMED = Unavailable(HALF_OPEN, _HALF_OPEN_WAIT)
"""The same in words, but it is this proxy that has to ask whether it may try."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The cooldown of one part of an account, which ends by itself."""

    account_id: str
    part: Part
    until: float
    """Epoch seconds."""
    reason: str
    source: str
    """The value of the `verdicts.Kind` that caused it."""
    failures: int
    """How many such verdicts have come one after another."""

    @property
    def scope_name(self) -> str:
        """What of the account is cooling, in words; "" is all of it."""
        return str(self.part)

    def in_words(self, now: float) -> str:
        """`cooling for opus until 14:20: 7d_opus window spent`."""
        scope = f" for {self.scope_name}" if self.scope_name else ""
        return f"cooling{scope} until {local_time(self.until, now)}: {self.reason}"


class ActiveCooldown:
    """A cooldown at work: its scope is cooling, then half-open until an answer is in.

    `since` is the number of the youngest lease there was when it began, `by` that of the lease that caused
    it (0: none in this run).
    """

    __slots__ = ("by", "cooldown", "deadline", "is_awaited", "label", "passed", "passed_until", "since")

    def __init__(self, cooldown: Cooldown, at: Moment, since: int, by: int) -> None:
        self.cooldown = cooldown
        self.deadline = at.mono + cooldown.until - at.wall
        self.since = since
        self.by = by
        self.passed = 0  # the number of the lease that was let through half-open
        self.passed_until = 0.0
        self.is_awaited = False  # a request has come that had to do without
        self.label = cooldown.in_words(at.wall)

    def left(self, at: Moment) -> float:
        """Seconds that remain; not positive once it is over.

        The monotonic deadline stands whatever the wall clock does. But it does not count while the machine
        sleeps, so the wall clock may end a cooldown early: at worst that costs one request.
        """
        return min(self.deadline - at.mono, self.cooldown.until - at.wall)

    def is_cooling(self, at: Moment) -> bool:
        """Whether nobody may pass; otherwise it is half-open."""
        return self.left(at) > 0

    def unavailable(self, at: Moment) -> Unavailable | None:
        """Why nobody can pass now; None if the next lease may."""
        left = self.left(at)
        if left > 0:
            return Unavailable(self.label, left)
        return TRIED if self.is_tried(at) else None

    def is_tried(self, at: Moment) -> bool:
        """Whether a request goes through half-open, for which others wait."""
        return bool(self.passed) and at.mono < self.passed_until

    def acquire(self, number: int, at: Moment) -> None:
        """Let this lease through half-open."""
        self.passed, self.passed_until = number, at.mono + PROBE_SECONDS

    def release(self, number: int) -> None:
        """The lease ended; if it was let through and has no answer, the next one is."""
        if self.passed == number:
            self.passed = 0

    def is_disproved_by(self, number: int) -> bool:
        """Whether a good answer to this lease ends the cooldown.

        An older request's good answer says nothing about what was learned after it was sent. The request
        that caused the cooldown may have been repeated in place.
        """
        return number > self.since or number == self.by

    def is_answered_by(self, number: int, at: Moment) -> bool:
        """Whether this lease was let through half-open, so that any answer to it ends that."""
        return number > self.since and not self.is_cooling(at)
