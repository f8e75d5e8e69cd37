"""Where an event stream's text lies in its bytes: the pieces, event by event, that belong together. Pure.

A stream tells a text in pieces, so what must not be kept of it may be in no single event. Joined, the pieces of a
block are the inside of one JSON string.
"""

import re
from collections.abc import Sequence

Pieces = Sequence[tuple[int, int]]
"""From where to where each lies in the stream's bytes."""

_MARK = b'"content_block_delta"'
_COMPLETION = b'"completion"'
_USUAL = re.compile(
    rb'"type":"content_block_delta","index":(\d{1,9}),"delta":\{"type":"\w{1,40}","(\w{1,40})":"([^"\\]*(?:\\.[^"\\]*)*+)"',
    re.DOTALL,
)
"""As the API writes them; anything else is looked at line by line."""
_DATA = re.compile(rb"^data:([^\r\n]*)", re.MULTILINE)
_INDEX = re.compile(rb'"index"\s*:\s*(\d{1,9})')
_STRING = re.compile(rb'"(\w{1,40})"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*+)(?:"|$)', re.DOTALL)


def pieces(stream: bytes) -> list[Pieces]:
    """The pieces of each text, in order. ValueError if an event with some cannot be read."""
    found: dict[tuple[bytes, bytes], list[tuple[int, int]]] = {}
    usual = 0
    for match in _USUAL.finditer(stream):
        usual += 1
        found.setdefault((match[1], match[2]), []).append(match.span(3))
    if usual == stream.count(_MARK) and _COMPLETION not in stream:
        return list(found.values())
    return list(_by_line(stream).values())


def _by_line(stream: bytes) -> dict[tuple[bytes, bytes], list[tuple[int, int]]]:
    found: dict[tuple[bytes, bytes], list[tuple[int, int]]] = {}
    seen = 0
    for line in _DATA.finditer(stream):
        begin, end = line.span(1)
        marks = stream.count(_MARK, begin, end)
        seen += marks
        if not marks and stream.find(_COMPLETION, begin, end) < 0:
            continue
        index = _INDEX.search(stream, begin, end)
        for match in _STRING.finditer(stream, begin, end):
            if match[1] != b"type":
                found.setdefault((index[1] if index else b"", match[1]), []).append(match.span(2))
    if seen != stream.count(_MARK):
        raise ValueError("an event of the stream is not in one line of data")
    return found
