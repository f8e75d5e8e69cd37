"""What one proxy of all on the database does, and another one once it is gone: whichever has the duty.

It is a lease, as that of the first request after a rest (accounts/probes.py). Who has it takes it anew every few
seconds, each time with a new term; the others watch the term, and end it when it has stayed the same for longer than
that can take. So that of a dead or frozen proxy ends whatever anybody's clock says, and one that wakes, also with its
machine, does nothing before it has looked.
"""

import logging
from collections.abc import Callable

from ccflare_core.clients.shares import running_time
from ccflare_core.errors import CCFlareError
from ccflare_core.store.store import Store

logger = logging.getLogger("ccflare")

RENEW_SECONDS = 10.0
"""How often to look, and to take it anew."""
HELD_SECONDS = 30.0
"""For how long it may be done after it was taken."""
WATCH_SECONDS = 45.0
"""For how long others watch a term before they end it."""


class Duty:
    """The duty of this name, for the run `owner`. All but `is_mine` is for the writer's thread."""

    def __init__(self, name: str, owner: str, clock: Callable[[], float] = running_time) -> None:
        self._name = name
        self._owner = owner
        self._clock = clock
        self._next_at = self._until = float("-inf")
        self._term = ""
        self._watched_since = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether this proxy is to do it now. Any thread may ask."""
        return self._clock() < self._until

    def step(self, store: Store) -> None:
        """Look who has it, if it is time, and take it if it is free. What fails is tried again."""
        began = self._clock()
        if began < self._next_at or store.runs.current != self._owner:
            return
        self._next_at = began + RENEW_SECONDS
        try:
            is_mine = self._take(store, began)
        except CCFlareError as error:
            logger.debug("who does the upkeep is not known: %s", error)
            return
        if is_mine:
            self._until = began + HELD_SECONDS

    def _take(self, store: Store, now: float) -> bool:
        is_abandoned = bool(self._term) and now - self._watched_since >= WATCH_SECONDS
        claim = store.duties.take(self._name, self._owner, self._term if is_abandoned else "")
        if claim.is_mine:
            if self._term:
                logger.info("this proxy does the upkeep from now on: the one that did it is gone")
            self._term = ""
        elif claim.term != self._term:
            self._term, self._watched_since = claim.term, now
        return claim.is_mine
