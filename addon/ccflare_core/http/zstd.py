"""zstd by the library that is here; what one of them has written the others read.

Python 3.14 has one of its own (`compression.zstd`), mitmproxy 12.3 brings its backport for older Pythons, mitmproxy
12.2 brings `zstandard`. All are libzstd, so levels mean the same. They differ in what has to be said:

- Reading a whole frame, `zstandard` takes the first one and is silent about bytes after it, or about none at all; the
  others go on through all frames. Here it is one whole frame and nothing else, with all of them.
- `zstandard` cannot read a frame in one step unless the frame says how long its content is. All of them write that as
  long as a frame is made of one piece, as it is here.
- A bound for what comes out of one step is in the standard library's interface alone (see `decoding`).
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol


class BoundedDecompressor(Protocol):
    """What `compression.zstd`, `bz2` and `lzma` agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Library(Protocol):
    """What we ask of each."""

    def compress_all(self, bodies: Sequence[bytes], level: int) -> list[bytes]:
        """A frame of each body, with the length of its content in it."""

    def decompress_all(self, frames: Iterable[bytes]) -> list[bytes]:
        """What each frame holds. Raises ValueError unless each is one whole frame and nothing else."""


class Standard:
    """`compression.zstd`, or its backport."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def compress_all(self, bodies: Sequence[bytes], level: int) -> list[bytes]:
        """See Library."""
        compressor = self._module.ZstdCompressor(level=level)
        return [compressor.compress(body, compressor.FLUSH_FRAME) for body in bodies]

    def decompress_all(self, frames: Iterable[bytes]) -> list[bytes]:
        """See Library."""
        return [self._decompress(frame) for frame in frames]

    def _decompress(self, frame: bytes) -> bytes:
        decompressor = self._module.ZstdDecompressor()
        try:
            content: bytes = decompressor.decompress(frame)
        except self._module.ZstdError as error:
            raise ValueError(str(error)) from error
        if not decompressor.eof or decompressor.unused_data:
            raise ValueError("this is not one whole frame")
        return content

    def decompressor(self, window_log: int) -> BoundedDecompressor:
        """Reads a stream's frame; one that asks for a larger window than 2 to the power of `window_log` is an error."""
        options = {self._module.DecompressionParameter.window_log_max: window_log}
        made: BoundedDecompressor = self._module.ZstdDecompressor(options=options)
        return made


class Zstandard:
    """`zstandard`."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def compress_all(self, bodies: Sequence[bytes], level: int) -> list[bytes]:
        """All in one call: each lets go of the interpreter's lock, and getting it back beside a busy event loop costs
        more than a small body does. The standard library's interface has nothing like it.
        """
        compressor = self._module.ZstdCompressor(level=level)
        if not any(bodies):  # it refuses to work for nothing
            return [compressor.compress(b"")] * len(bodies)
        packed = compressor.multi_compress_to_buffer(list(bodies))
        return [packed[index].tobytes() for index in range(len(packed))]

    def decompress_all(self, frames: Iterable[bytes]) -> list[bytes]:
        """With one decompressor: making one costs more than reading a small frame does."""
        decompress = self._module.ZstdDecompressor().decompress
        try:
            return [decompress(frame, allow_extra_data=False) for frame in map(_not_empty, frames)]
        except self._module.ZstdError as error:
            raise ValueError(str(error)) from error

    def stream(self, window_log: int) -> Any:
        """Reads a stream of frames; one that asks for a larger window is an error. Nothing bounds what a step makes."""
        return self._module.ZstdDecompressor(max_window_size=1 << window_log).decompressobj(read_across_frames=True)


def _not_empty(frame: bytes) -> bytes:
    if not frame:
        raise ValueError("this is not one whole frame")
    return frame


def libraries() -> list[Standard | Zstandard]:
    """All that are installed, the best first."""
    found: list[Standard | Zstandard] = []
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        try:
            module = import_module(name)
        except ImportError:
            continue
        found.append(Zstandard(module) if name == "zstandard" else Standard(module))
    return found


LIBRARY = libraries()[0]
