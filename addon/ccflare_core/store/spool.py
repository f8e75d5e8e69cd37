"""The body of a large batch on the disk, until it has gone upstream: sealed, without a name, and gone with the process.

It is written and read by a thread, block by block, so that neither the event loop waits for a disk nor the memory fills
up. The file has no name from the moment it is there, so that a crash leaves nothing. The key that it is sealed with is
made for it alone and is nowhere else, so that what the disk still holds of it later is nothing to anybody.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

from ccflare_core.errors import StoreError
from ccflare_core.secrets.vault import Chunks

BLOCK_BYTES: Final = 1024 * 1024
WAITING_BYTES: Final = 8 * BLOCK_BYTES
"""How much may wait for the disk; what is more is not to be read from the client yet."""


class SpoolRoom:
    """Where spools are kept: a folder, and the bytes that have to stay free on its disk. One thread serves them all.

    Together they take at most half of the room that there is: clients that hold batches open must not bring the disk to
    where nothing is recorded any more.
    """

    def __init__(self, folder: Callable[[], Path], minimum_free: Callable[[], int]) -> None:
        self.folder = folder
        self.minimum_free = minimum_free
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="ccflare-spool")
        self.taken = 0
        """Bytes of all spools on the disk. For the thread alone."""

    def open(self, on_drained: Callable[[], object]) -> "Spool":
        """A new one. `on_drained` is called, from the thread, when less waits for the disk after it was too much."""
        return Spool(self, on_drained)

    def require(self, disk: os.statvfs_result, size: int) -> None:
        """Raise OSError if there is no room for so many more bytes."""
        room = disk.f_bavail * disk.f_frsize - self.minimum_free()
        if room < size:
            raise OSError(errno.ENOSPC, "less than ccflare_minimum_free_bytes would be free on the disk")
        if room < self.taken + size:
            raise OSError(errno.ENOSPC, "batches on their way would take more than half of the room on the disk")


class Spool:
    """One body. `add` and `finish` it, then read it as often as needed; `close` it in any case."""

    def __init__(self, room: SpoolRoom, on_drained: Callable[[], object]) -> None:
        self.size = 0
        """Bytes that have been added."""
        self.trouble = ""
        """Why it cannot be kept, as a sentence."""
        self._room = room
        self._on_drained = on_drained
        self._chunks = Chunks(os.urandom(32), b"spool")
        self._block = bytearray()
        self._written: Future[None] | None = None
        self._is_closed = False
        self._counting = threading.Lock()  # for these two, never for long
        self._waiting = 0
        self._is_full = False
        self._using = threading.Lock()  # for the file and its blocks, by threads that may wait for the disk
        self._file: IO[bytes] | None = None
        self._places: list[tuple[int, int]] = []

    def add(self, data: bytes) -> bool:
        """Keep this part; whether more may come at once."""
        self.size += len(data)
        self._block += data
        while len(self._block) >= BLOCK_BYTES:
            self._submit(bytes(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]
        with self._counting:
            self._is_full = self._waiting >= WAITING_BYTES
            return not self._is_full

    def finish(self) -> None:
        """That was all of it."""
        self._submit(bytes(self._block))
        self._block.clear()
        self._written = self._room.thread.submit(lambda: None)  # one thread: it is done when all before it is

    @property
    def is_written(self) -> bool:
        """Whether all of it is on the disk, or there is `trouble`."""
        return self._written is not None and self._written.done()

    def pieces(self) -> Iterator[bytes]:
        """The body. Waits for the disk, so it is for a thread. Raises StoreError."""
        if self._written is not None:
            self._written.result()
        number = 0
        while (piece := self._read(number)) is not None:
            yield piece
            number += 1

    def read(self, number: int) -> Future[bytes | None]:
        """The piece of this number, or None behind the last one, as soon as it is here. StoreError is in the future."""
        return self._room.thread.submit(self._read, number)

    def close(self) -> None:
        """Give the room on the disk back soon. Never waits for the disk."""
        self._is_closed = True
        self._room.thread.submit(self._discard)

    def _submit(self, block: bytes) -> None:
        with self._counting:
            self._waiting += len(block)
        self._room.thread.submit(self._write, block)

    # In the thread

    def _write(self, block: bytes) -> None:
        try:
            self._append(block)
        except OSError as error:
            self.trouble = f"This batch cannot be kept until it is sent on ({error.strerror or error})."
        with self._counting:
            self._waiting -= len(block)
            is_drained = self._is_full and self._waiting < WAITING_BYTES // 2
            self._is_full = self._is_full and not is_drained
        if is_drained:
            self._on_drained()

    def _append(self, block: bytes) -> None:
        with self._using:
            if self._is_closed or self.trouble or not block:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._room.folder())  # noqa: SIM115
            handle = self._file.fileno()
            self._room.require(os.fstatvfs(handle), len(block))
            sealed = self._chunks.seal(len(self._places), block, is_last=False)
            begin = sum(self._places[-1]) if self._places else 0
            if os.pwrite(handle, sealed, begin) != len(sealed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._places.append((begin, len(sealed)))
            self._room.taken += len(sealed)

    def _discard(self) -> None:
        with self._using:
            if self._file is not None:
                self._file.close()
                self._file = None
                self._room.taken -= sum(length for _, length in self._places)

    def _read(self, number: int) -> bytes | None:
        with self._using:
            if self.trouble or self._is_closed:
                raise StoreError(self.trouble or "This batch is not kept any more.")
            if number >= len(self._places) or self._file is None:
                return None
            begin, length = self._places[number]
            try:
                sealed = os.pread(self._file.fileno(), length, begin)
                return self._chunks.open(number, sealed, is_last=False)
            except Exception as error:  # of the disk, or because somebody has changed what is on it
                raise StoreError("This batch cannot be read back from the disk.") from error
