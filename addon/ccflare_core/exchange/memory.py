"""How much memory recording may take: all open answers together, and none at all while the process has too much. Pure.

Traffic never waits for any of this. What there is no room for is forwarded all the same, and recorded cut.
"""

import logging
from collections.abc import Callable

logger = logging.getLogger("ccflare")

MIB = 1024**2
AGAIN = 0.9
"""At which part of the limit bodies are kept again, so that it does not switch at every look."""


class Room:
    """Room for the bodies of open answers, in bytes. Whoever takes some gives it back."""

    def __init__(self, limit: Callable[[], int] = lambda: 256 * MIB) -> None:
        self._limit = limit
        self.used = 0
        self.is_closed = False
        """Whether bodies are not kept at all for now."""

    def take(self, size: int) -> bool:
        """Whether there was room for so much, which is now taken."""
        if self.is_closed or self.used + size > self._limit():
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Let others have it."""
        self.used -= size


class MemoryWatch:
    """Closes the room while the process occupies more than `limit` bytes; 0 is no limit."""

    def __init__(self, room: Room, *, occupied: Callable[[], int | None], limit: Callable[[], int]) -> None:
        self._room = room
        self._occupied = occupied
        self._limit = limit

    def look(self) -> None:
        """Compare once, and say so if that changes anything."""
        limit, occupied = self._limit(), self._occupied()
        if not limit or occupied is None:
            self._room.is_closed = False
        elif not self._room.is_closed and occupied > limit:
            self._room.is_closed = True
            logger.warning("%d MiB of memory are in use: no bodies are recorded until it is less", occupied // MIB)
        elif self._room.is_closed and occupied < AGAIN * limit:
            self._room.is_closed = False
            logger.warning("%d MiB of memory are in use: bodies are recorded again", occupied // MIB)
