"""Bounds the memory that recording takes: a budget for all open answers, which closes while the process has too much.

Traffic never waits for any of this. What there is no room for is forwarded all the same, and recorded cut.
"""

import logging
from collections.abc import Callable

logger = logging.getLogger("ccflare")

MIB = 1024**2
AGAIN = 0.9
"""At which part of the limit bodies are kept again, so that it does not switch at every look."""


class MemoryBudget:
    """Bytes for the bodies of all open answers. What is reserved has to be released."""

    def __init__(self, limit: Callable[[], int] = lambda: 256 * MIB) -> None:
        self._limit = limit
        self.used = 0
        self.is_closed = False
        """Whether bodies are not kept at all for now."""

    def reserve(self, size: int) -> bool:
        """Whether so much was left; if so, it is reserved now."""
        if self.is_closed or self.used + size > self._limit():
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Let other answers have it."""
        self.used -= size


class MemoryWatch:
    """Closes the budget while the process occupies more than `limit` bytes; 0 is no limit."""

    def __init__(self, budget: MemoryBudget, *, occupied: Callable[[], int | None], limit: Callable[[], int]) -> None:
        self._budget = budget
        self._occupied = occupied
        self._limit = limit

    def look(self) -> None:
        """Compare once, and say so if that changes anything."""
        limit, occupied = self._limit(), self._occupied()
        if not limit or occupied is None:
            self._budget.is_closed = False
        elif not self._budget.is_closed and occupied > limit:
            self._budget.is_closed = True
            logger.warning("%d MiB of memory are in use: no bodies are recorded until it is less", occupied // MIB)
        elif self._budget.is_closed and occupied < AGAIN * limit:
            self._budget.is_closed = False
            logger.warning("%d MiB of memory are in use: bodies are recorded again", occupied // MIB)
