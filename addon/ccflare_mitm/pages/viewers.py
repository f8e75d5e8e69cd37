"""Who looks on at what goes on: a few, each for as long as it takes what it is given, and may have it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Self

MOST: Final = 16
"""Viewers at once, of all doors."""
UNTAKEN_BYTES: Final = 256 * 1024
"""What may wait for one of them. It is more than a look ever tells, so who gets there takes nothing."""


class Viewer:
    """One of them: gives what it is to see, piece by piece, until it is closed. `may_stay` is asked before each."""

    def __init__(self, may_stay: Callable[[], bool]) -> None:
        self.may_stay = may_stay
        self.is_new = True
        """Whether nothing was given to it yet."""
        self.is_closed = False
        self._untaken = bytearray()
        self._changed = asyncio.Event()

    def give(self, piece: bytes) -> None:
        """Have it see this next. One that lets too much wait is closed."""
        self.is_new = False
        if len(self._untaken) + len(piece) > UNTAKEN_BYTES:
            self.close()
        elif not self.is_closed:
            self._untaken += piece
            self._changed.set()

    def close(self) -> None:
        """It is given no more, nor what waits for it."""
        self.is_closed = True
        self._untaken.clear()
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not (self._untaken or self.is_closed):
            self._changed.clear()
            await self._changed.wait()
        if self.is_closed:
            raise StopAsyncIteration
        piece = bytes(self._untaken)
        self._untaken.clear()
        return piece


class Viewers:
    """All of them."""

    def __init__(self) -> None:
        self._viewers: list[Viewer] = []
        self.is_closed = False

    def __iter__(self) -> Iterator[Viewer]:
        return (viewer for viewer in self._viewers if not viewer.is_closed)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def has_room(self) -> bool:
        """Whether one more may look on."""
        return len(self) < MOST

    def join(self, may_stay: Callable[[], bool]) -> Viewer:
        """One more; closed from the start if there is no room for it."""
        viewer = Viewer(may_stay)
        if self.has_room and not self.is_closed:
            self._viewers.append(viewer)
        else:
            viewer.close()
        return viewer

    def review(self) -> None:
        """Let go of those that have left, and close those that may not stay."""
        for viewer in self:
            if not viewer.may_stay():
                viewer.close()
        self._viewers = [*self]

    def dismiss(self) -> None:
        """Close all that look on now."""
        for viewer in self:
            viewer.close()

    def close(self) -> None:
        """Nobody looks on any more."""
        self.is_closed = True
        self.dismiss()
