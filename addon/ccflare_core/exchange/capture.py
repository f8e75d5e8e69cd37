"""Captures an answer's body within a bound, and reads its usage as it passes."""

import time
from collections.abc import Callable

from ccflare_core.anthropic.usage import Reading
from ccflare_core.anthropic.usage_reader import UsageReader
from ccflare_core.exchange.memory import MemoryBudget

PORTION = 16 * 1024
PAUSE = 0.2
"""The reader gets what has come once it is so many bytes, or once so many seconds have gone since it got the last."""


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

    def start(self, content_type: str, content_encoding: str, *, metered: bool = True) -> None:
        """Say what kind of body comes, and whether it can tell usage."""
        self.content_type, self.content_encoding = content_type, content_encoding
        if metered:
            self._reader = UsageReader(content_type, content_encoding)

    def add(self, chunk: bytes) -> None:
        """Note one chunk. Never raises."""
        self.size += len(chunk)
        self.last_at = now = self._clock()
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

    def read(self, *, cut: bool) -> Reading:
        """What the whole body says of usage; `cut` means that the upstream did not get to end it."""
        now = self._clock()
        reader = self._reader or UsageReader(self.content_type, self.content_encoding)
        self._hand_over(reader, now)
        return reader.close(cut=cut, at=now)
