"""Content codings undone piece by piece, on the side, and never without a bound.

The client gets the upstream's bytes as they came; what is decoded here is only for reading. So nothing here
raises: input that cannot be decoded sets `Decoder.trouble`, and the rest is ignored.

How each library is kept from a decompression bomb:

- gzip, deflate: `zlib` takes a maximal output length.
- br: `brotli` >= 1.2 takes an output limit. An older one refuses the argument, and br then counts as corrupt.
- zstd: `compression.zstd` and its backport take a maximal output length. `zstandard` does not, so it gets little
  input at a time: a block of four bytes makes at most 128 KiB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import Final

import brotli

from ccflare_core.http import zstd
from ccflare_core.http.zstd import BoundedDecompressor

PIECE = 256 * 1024
"""About how many bytes a piece of output has; what memory a bomb can take at once follows from it."""

INPUT_SLICE = 64 * 1024
ZSTANDARD_SLICE = 256  # at most 64 blocks, so 8 MiB at once
WINDOW_LOG = 23  # 8 MiB, the most that RFC 9659 lets a zstd content coding ask for

type Codec = Callable[[bytes], Iterator[bytes]]


class Trouble(StrEnum):
    """Why a body was not decoded to its end."""

    CORRUPT = "corrupt"
    LIMIT = "too long"
    UNSUPPORTED = "in an unknown coding"


class Decoder:
    """Undoes one content coding; `feed` gives what the chunk decodes to, `b""` once there is `trouble`.

    `limit` bounds the decoded bytes of the whole body (64 MiB); what is beyond it is left out. A body without
    a coding, or with `identity`, stays as it is.
    """

    def __init__(self, content_encoding: str, limit: int = 64 * 1024 * 1024) -> None:
        self.coding = content_encoding.strip().lower() or "identity"
        self.trouble: Trouble | None = None
        self._room = limit
        if self.coding not in CODECS:
            self.trouble = Trouble.UNSUPPORTED
        self._codec = CODECS.get(self.coding, _Identity)()

    @property
    def broken(self) -> bool:
        """True once the rest of the body cannot be decoded, whatever the reason."""
        return self.trouble is not None

    def feed(self, chunk: bytes) -> bytes:
        """What `chunk` adds to the decoded body."""
        return b"".join(self.pieces(chunk))

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """The same as `feed`, in pieces of bounded size, for a reader that need not hold them all."""
        if self.trouble or not chunk:
            return ()
        if self.coding == "identity" and len(chunk) <= self._room:  # most bodies: no generator for what stays as it is
            self._room -= len(chunk)
            return (chunk,)
        return self._undone(chunk)

    def _undone(self, chunk: bytes) -> Iterator[bytes]:
        try:
            for piece in self._codec(chunk):
                yield piece[: self._room]
                self._room -= len(piece)
                if self._room < 0:
                    self.trouble = Trouble.LIMIT
                    return
        except Exception:  # each library has errors of its own, and they all mean this
            self.trouble = Trouble.CORRUPT


class _Identity:
    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        return iter((chunk,))


class _Zlib:
    """gzip and deflate; further members of a gzip body are read on, other bytes after its end are ignored."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._stream = zlib.decompressobj(wbits)

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        for data in _slices(chunk, INPUT_SLICE):
            yield from self._inflate(data)

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        full = False  # zlib may hold back output although it took all input
        while data or full:
            if self._stream.eof:
                if self._wbits != zlib.MAX_WBITS | 16 or not data.startswith(b"\x1f"):
                    return
                self._stream = zlib.decompressobj(self._wbits)
            piece = self._stream.decompress(data, PIECE)
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            full = len(piece) == PIECE
            yield piece


class _Deflate:
    """deflate: in the zlib format, as the standard says, or without its header, as some servers send it."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Zlib | None = None

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        if self._inner is None:
            chunk = self._head = self._head + chunk
            if len(chunk) < 2:
                return
            # RFC 1950: method 8, and both bytes together a multiple of 31. No raw stream in use begins so.
            has_header = chunk[0] & 0x0F == 8 and int.from_bytes(chunk[:2]) % 31 == 0
            self._inner = _Zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        yield from self._inner(chunk)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        stream = self._stream
        for data in _slices(chunk, INPUT_SLICE):
            if stream.is_finished():
                return
            piece = stream.process(data, output_buffer_limit=PIECE)
            yield piece
            # Seen in 1.2.0: can_accept_more_data() may already be true while output is held back.
            while not stream.is_finished() and (len(piece) >= PIECE or not stream.can_accept_more_data()):
                piece = stream.process(b"", output_buffer_limit=PIECE)
                yield piece


class Bounded:
    """A codec out of the standard library's kind of decompressor, one frame after the other."""

    def __init__(self, make: Callable[[], BoundedDecompressor]) -> None:
        self._make = make
        self._stream = make()

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        while chunk or not (self._stream.eof or self._stream.needs_input):
            if self._stream.eof:
                self._stream = self._make()
            yield self._stream.decompress(chunk, PIECE)
            chunk = self._stream.unused_data if self._stream.eof else b""


class _Zstandard:
    def __init__(self, library: zstd.Zstandard) -> None:
        self._stream = library.stream(WINDOW_LOG)

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        return map(self._stream.decompress, _slices(chunk, ZSTANDARD_SLICE))


def zstd_codec(library: zstd.Standard | zstd.Zstandard = zstd.LIBRARY) -> Codec:
    """A zstd codec by this library."""
    if isinstance(library, zstd.Standard):
        return Bounded(partial(library.decompressor, WINDOW_LOG))
    return _Zstandard(library)


def _slices(data: bytes, size: int) -> Iterator[bytes]:
    if len(data) <= size:
        return iter((data,))
    return (data[at : at + size] for at in range(0, len(data), size))


CODECS: Final[Mapping[str, Callable[[], Codec]]] = {
    "identity": _Identity,
    "gzip": partial(_Zlib, zlib.MAX_WBITS | 16),
    "x-gzip": partial(_Zlib, zlib.MAX_WBITS | 16),
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": zstd_codec,
}
