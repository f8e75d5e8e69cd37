"""What a store does when a standby has taken the place of its database server.

What was committed last may be missing there: the standby had not heard of it. So nothing is relied on that this store
remembers to have written. Each proxy writes again the newest OAuth tokens that it knows of (accounts/successors.py);
until all had the time for that, nobody spends a refresh token, which may be one that was spent already.
"""

import time
from collections.abc import Callable

SETTLING_SECONDS = 45.0
"""As long as the last proxy may take to notice that the old server is gone without a word, and to find the new one."""


class Takeover:
    """Counts and times what the engine finds. `takeovers` is the engine's count."""

    def __init__(
        self, takeovers: Callable[[], int], has_peers: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._takeovers = takeovers
        self._has_peers = has_peers
        self._clock = clock
        self._timed = self._told = self._forgotten = 0
        self._at = float("-inf")

    def is_settling(self) -> bool:
        """Whether another proxy may still have newer tokens than the database. Without others there is none."""
        self._look()
        return self._has_peers() and self._clock() - self._at < SETTLING_SECONDS

    def is_news(self) -> bool:
        """Whether a standby has taken over since the last call."""
        self._look()
        before, self._told = self._told, self._timed
        return before != self._told

    def is_news_for_the_ledger(self) -> bool:
        """The same for who remembers what it has written."""
        self._look()
        before, self._forgotten = self._forgotten, self._timed
        return before != self._forgotten

    def _look(self) -> None:
        if (count := self._takeovers()) != self._timed:
            self._timed, self._at = count, self._clock()
