"""Captures an answer's body within a bound, and reads its usage as it passes."""

import time
from array import array
from collections.abc import Callable

from ccflare_core.anthropic.usage import Reading, SoFar
from ccflare_core.anthropic.usage_reader import UsageReader
from ccflare_core.exchange.memory import MemoryBudget

PORTION = 16 * 1024
PAUSE = 0.2
"""The reader gets what has come once it is so many bytes, or once so many seconds have gone since it got the last."""

TICK, MOMENTS = 0.001, 20_000
"""When chunks came is noted to so many seconds, and for so many moments: 16 bytes each."""


class Capture:
    """Collects an answer's body up to `limit` bytes, as far as the memory budget goes; reads its usage from all of it.

    `add` is called for every chunk of every stream, so it only appends most of the time, and gives the reader several
    chunks at once. What the reader tells does not depend on how much of the body is kept. `clock` is monotonic.
    """

    def __init__(
        self, limit: int, memory: MemoryBudget | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.size = 0
        """Bytes that passed."""
        self.last_at: float | None = None
        """When the last of them did."""
        self.begun_at: float | None = None
        """When the head was there."""
        self.content_type = ""
        self.content_encoding = ""
        self._limit = limit
        self._memory = memory or MemoryBudget()
        self._clock = clock
        self._reserved = 0
        self._chunks: list[bytes] = []
        self._is_full = False
        self._reader: UsageReader | None = None
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._read_at = 0.0
        self._came_at = array("d")
        self._sizes = array("Q")

    def start(self, content_type: str, content_encoding: str, *, metered: bool = True) -> None:
        """Say what kind of body comes, and whether it can tell usage."""
        self.content_type, self.content_encoding = content_type, content_encoding
        self.begun_at = self._clock()
        if metered:
            self._reader = UsageReader(content_type, content_encoding)

    def add(self, chunk: bytes) -> None:
        """Note one chunk. Never raises."""
        self.size += len(chunk)
        self.last_at = now = self._clock()
        if self._came_at and now - self._came_at[-1] < TICK:
            self._sizes[-1] = self.size
        elif len(self._came_at) < MOMENTS:
            self._came_at.append(now)
            self._sizes.append(self.size)
        if self._reader is not None:
            self._unread.append(chunk)
            self._unread_size += len(chunk)
            if self._unread_size >= PORTION or now - self._read_at >= PAUSE:
                self._hand_over(self._reader, now)
        if not self._is_full:
            self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        if self.size > self._limit:
            self._is_full = True
            self._chunks.append(chunk[: max(0, len(chunk) - (self.size - self._limit))])
        elif self._memory.reserve(len(chunk)):
            self._reserved += len(chunk)
            self._chunks.append(chunk)
        else:
            self._is_full = True

    def _hand_over(self, reader: UsageReader, now: float) -> None:
        portion = b"".join(self._unread)
        self._unread, self._unread_size, self._read_at = [], 0, now
        reader.feed(portion, now)

    def release(self) -> None:
        """Release its memory: the exchange is over, and its body on the way to the database."""
        self._memory.release(self._reserved)
        self._reserved = 0

    def let_go(self) -> None:
        """Keep nothing of the body."""
        self._chunks = []

    @property
    def truncated(self) -> bool:
        """Whether more passed than was kept."""
        return self._is_full

    @property
    def body(self) -> bytes:
        """The kept bytes, as they were on the wire (still compressed if they came so)."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    @property
    def arrivals(self) -> list[tuple[int, float]]:
        """How many bytes had passed at each moment, in seconds since the head; the last one may be some time ago."""
        begun = self.begun_at or 0.0
        return [(size, at - begun) for size, at in zip(self._sizes.tolist(), self._came_at.tolist(), strict=False)]

    def so_far(self) -> SoFar:
        """What is known of its usage while more comes."""
        if self._reader is None:
            return SoFar()
        if self._unread:
            self._hand_over(self._reader, self._clock())
        return self._reader.so_far()

    def read(self, *, cut: bool) -> Reading:
        """What the whole body says of usage; `cut` means that the upstream did not get to end it."""
        now = self._clock()
        reader = self._reader or UsageReader(self.content_type, self.content_encoding)
        self._hand_over(reader, now)
        return reader.close(cut=cut, at=now)
