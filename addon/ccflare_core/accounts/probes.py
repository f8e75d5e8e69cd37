"""Which half-open parts of accounts this proxy may try: of all proxies on the database one at a time, by a claim there.

Without others every part may be tried. With them a proxy claims a part ahead if requests have waited for its rest to
end, otherwise as soon as one comes that would go there; neither waits for the database on the event loop. What it has
not used it leaves to others for a while, so that none keeps what it does not need. A claim has a term. Who finds it
taken watches the term, by its own clock, for longer than a first request is waited for, and then ends the claim. So
that of a dead or frozen proxy ends whatever anybody's clock says. Where the database does not answer, a proxy goes on
by itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ccflare_core.accounts.cooldowns import PROBE_SECONDS, Cooldown, Part
from ccflare_core.errors import CCFlareError

logger = logging.getLogger("ccflare")

AHEAD_SECONDS = 1.5
"""How long before its end a rest is claimed that requests wait for."""
HELD_SECONDS = 5.0
"""How long a claim lets a first request through; then it is given back, or asked for anew."""
TERM_SECONDS = HELD_SECONDS + PROBE_SECONDS
"""For how long others watch a claim before they end it: as long as a first request may go on that it let through."""
PATIENCE_SECONDS = 2.0
"""How long the database may take; then a proxy goes on as if it were alone."""
AGAIN_SECONDS = 0.5
"""How long a claim that was not to be had is not asked for again."""
TURN_SECONDS = 3 * AGAIN_SECONDS
"""How long after its own time a claim is left to others: a proxy whose sessions are all elsewhere never uses it."""
_LOOK_SECONDS = 0.5


class Claim(NamedTuple):
    """What came of asking for one."""

    is_mine: bool
    term: str
    """Of the claim that there is now; "" where nobody can have one."""


class Rests(Protocol):
    """The pool, as far as it is asked here."""

    @property
    def has_peers(self) -> bool: ...
    def ending(self, seconds: float) -> list[Cooldown]: ...
    def is_tried(self, cooldown: Cooldown) -> bool | None: ...


@dataclass(slots=True)
class _Trial:
    """Where this proxy stands with one rest. Times are monotonic seconds."""

    cooldown: Cooldown
    asked_at: float | None = None
    """Since when the database owes an answer."""
    again_at: float = float("-inf")
    held_until: float | None = None
    own_term: str = ""
    term: str = ""
    """Of another proxy's claim."""
    watched_since: float = 0.0


class Probes:
    """The claims of one proxy. All but what is awaited is for the event loop's thread."""

    def __init__(
        self,
        rests: Rests,
        *,
        take: Callable[[Cooldown, str], Awaitable[Claim]],
        give_back: Callable[[Cooldown, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`take` asks the database for a claim, and ends that of the term it is given; `give_back` ends an own one."""
        self._rests = rests
        self._take = take
        self._give_back = give_back
        self._clock = clock
        self._trials: dict[tuple[str, Part], _Trial] = {}
        self._wanted: list[_Trial] = []
        self._is_wanted = asyncio.Event()

    def may_try(self, cooldown: Cooldown, now: float) -> bool:
        """Whether a request may go first after this rest, now. If not, and it would go there, `claim` that."""
        if not self._rests.has_peers:
            return True
        trial = self._trial(cooldown)
        if trial.held_until is not None and now < trial.held_until:
            return True
        return trial.asked_at is not None and now - trial.asked_at >= PATIENCE_SECONDS

    def claim(self, cooldown: Cooldown, now: float) -> None:
        """Ask for the right to go first after this rest, unless that was done a moment ago."""
        self._want(self._trial(cooldown), now)

    async def run(self) -> None:
        """Claim and give back until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_wanted.wait(), _LOOK_SECONDS)
            await self.step()

    async def step(self) -> None:
        """Ask for what is wanted and for what will be soon; give back what is over."""
        self._is_wanted.clear()
        if self._rests.has_peers:
            for cooldown in self._rests.ending(AHEAD_SECONDS):
                self._want(self._trial(cooldown), self._clock())
        while self._wanted:
            await self._ask(self._wanted.pop(0))
        for key, trial in list(self._trials.items()):
            if self._is_over(trial):
                del self._trials[key]
                self._end(trial)

    def _trial(self, cooldown: Cooldown) -> _Trial:
        key = (cooldown.account_id, cooldown.part)
        trial = self._trials.get(key)
        if trial is None or trial.cooldown.until != cooldown.until:
            trial = self._trials[key] = _Trial(cooldown)
        return trial

    def _want(self, trial: _Trial, now: float) -> None:
        if trial.asked_at is None and now >= trial.again_at and trial.held_until is None:
            trial.asked_at = now
            self._wanted.append(trial)
            self._is_wanted.set()

    async def _ask(self, trial: _Trial) -> None:
        began = self._clock()
        is_abandoned = trial.term and began - trial.watched_since >= TERM_SECONDS
        try:
            claim = await self._take(trial.cooldown, trial.term if is_abandoned else "")
        except CCFlareError as error:
            logger.debug("nobody knows whether another proxy tries an account: %s", error)
            claim = Claim(True, "")
        now, trial.asked_at = self._clock(), None
        if claim.is_mine:
            trial.held_until, trial.own_term, trial.term = began + HELD_SECONDS, claim.term, ""
            return
        trial.again_at = now + AGAIN_SECONDS
        if claim.term != trial.term:
            trial.term, trial.watched_since = claim.term, now

    def _end(self, trial: _Trial) -> None:
        """Give back what it has, and leave the rest to others for their turn if it goes on."""
        if not trial.own_term:
            return
        self._give_back(trial.cooldown, trial.own_term)
        if trial.held_until is not None and self._rests.is_tried(trial.cooldown) is not None:
            self._trial(trial.cooldown).again_at = trial.held_until + TURN_SECONDS

    def _is_over(self, trial: _Trial) -> bool:
        if trial.asked_at is not None:
            return False
        is_tried = self._rests.is_tried(trial.cooldown)
        if is_tried is None:
            return True
        return trial.held_until is not None and self._clock() >= trial.held_until and not is_tried
