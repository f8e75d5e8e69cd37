"""zstd as others write and read it, by the library that mitmproxy brings here."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _library() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


STANDARD = _library()
ZSTANDARD: Any = None if STANDARD else import_module("zstandard")


def compress(data: bytes) -> bytes:
    """One frame that says how long its content is."""
    return bytes((STANDARD or ZSTANDARD).compress(data))


def compressor(window_log: int = 20) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """What compresses a piece of a stream so that it can be read at once, and what ends the frame."""
    if STANDARD:
        options = {STANDARD.CompressionParameter.window_log: window_log}
        writer = STANDARD.ZstdCompressor(options=options)
        return lambda data: writer.compress(data, writer.FLUSH_BLOCK), lambda: writer.flush(writer.FLUSH_FRAME)
    parameters = ZSTANDARD.ZstdCompressionParameters(window_log=window_log, write_content_size=0)
    packer = ZSTANDARD.ZstdCompressor(compression_params=parameters).compressobj()
    flushed = ZSTANDARD.COMPRESSOBJ_FLUSH_BLOCK
    return lambda data: packer.compress(data) + packer.flush(flushed), packer.flush


def decompressor() -> Callable[[bytes], bytes]:
    """What reads a stream piece by piece."""
    made = STANDARD.ZstdDecompressor() if STANDARD else ZSTANDARD.ZstdDecompressor().decompressobj()
    return lambda data: bytes(made.decompress(data))
