"""Ready-made answers that break off, stall, are garbage, huge or compressed."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import brotli

import zstd_kit
from fake_upstream.answer import Answer, Cut, Step, Wait
from fake_upstream.messages import STANDING, sse, sse_answer, up_to


def cut_midway(*, after: int = 2, reset: bool = False, stream: bool = False) -> Answer:
    """A stream that ends in the air after so many deltas, by a FIN, a RST or (HTTP/2) a RST_STREAM."""
    return sse_answer(*up_to(sse(after), after), Wait(0.05), Cut(reset, stream))  # let the peer read before a RST


def cut_after(answer: Answer, size: int, *, reset: bool = False) -> Answer:
    """The answer up to that many bytes of its body, then the end; a content-length stays as it was."""
    steps: list[Step] = []
    for chunk in answer.chunks:
        if isinstance(chunk, bytes):
            chunk, size = chunk[:size], size - len(chunk)
        steps.append(chunk)
        if size <= 0:
            break
    return replace(answer, chunks=(*steps, Wait(0.05), Cut(reset)))


def reset_before_head() -> Answer:
    """A RST in the place of an answer."""
    return Answer(before=(Cut(reset=True),))


def close_before_head() -> Answer:
    """The end of the connection in the place of an answer."""
    return Answer(before=(Cut(),))


def stall_before_head(seconds: float, then: Answer | None = None) -> Answer:
    """Silence, and after it an answer (a stream, if none is given)."""
    return replace(then or sse(), before=(Wait(seconds),))


def stall_midway(seconds: float, *, after: int = 1, events: int = 3) -> Answer:
    """A stream with one long silence after so many deltas."""
    whole = sse(events)
    at = 3 + after
    return replace(whole, chunks=(*whole.chunks[:at], Wait(seconds), *whole.chunks[at:]))


def garbage(data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Answer:
    """Bytes that are no HTTP, then the end."""
    return Answer(chunks=(data, Cut()), raw=True)


def huge(size: int = 32 << 20, *, status: int = 200) -> Answer:
    """A JSON answer far larger than anyone expects, in pieces of 64 KiB."""
    piece = b" " * 65536
    return Answer(status, ((b"Content-Type", b"application/json"), *STANDING), (b"{", *[piece] * (size // 65536), b"}"))


def encoded(answer: Answer, encoding: str) -> Answer:
    """The same answer in gzip, deflate, br or zstd, each chunk flushed so that it can be read at once."""
    compress, finish = _compressor(encoding)
    chunks = [compress(chunk) if isinstance(chunk, bytes) else chunk for chunk in answer.chunks]
    kept = tuple(header for header in answer.headers if header[0].lower() != b"content-length")
    return replace(answer, headers=(*kept, (b"Content-Encoding", encoding.encode())), chunks=(*chunks, finish()))


def _compressor(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if encoding == "br":
        packer = brotli.Compressor(quality=4)
        return lambda data: packer.process(data) + packer.flush(), packer.finish
    if encoding == "zstd":
        return zstd_kit.compressor()
    squeezer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[encoding])
    return lambda data: squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH), squeezer.flush
