"""Undoes the needless escapes of JSON, so that none hides a secret, and leads back to the places in the original."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

# Ways to write a plain character in JSON, at any depth of JSON within JSON.
_HAS_ESCAPE = re.compile(rb"\\u00[2-7]")
_ESCAPE = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|/)")


def unescaped(data: bytes) -> tuple[bytes, Callable[[int], int] | None]:
    """`data` with its needless escapes undone, and what leads from a place in that to the one in `data`."""
    if b"\\/" not in data and not (b"\\u00" in data and _HAS_ESCAPE.search(data)):
        return data, None
    parts: list[bytes] = []
    places, origins = [0], [0]
    position = length = 0
    for match in _ESCAPE.finditer(data):
        char = bytes([int(match[1], 16)]) if match[1] else b"/"
        start = match.start() - backslashes(data, position, match.start())
        parts += data[position:start], char
        length += start - position + 1
        position = match.end()
        places += length - 1, length
        origins += start, position
    if not parts:
        return data, None
    return b"".join((*parts, data[position:])), _lookup(places, origins)


def backslashes(view: bytes, start: int, end: int) -> int:
    """How many stand directly before `end`, as far back as `start`."""
    position = end
    while position > start and view[position - 1] == 0x5C:
        position -= 1
    return end - position


def _lookup(places: Sequence[int], origins: Sequence[int]) -> Callable[[int], int]:
    def origin(place: int) -> int:
        index = bisect_right(places, place) - 1
        return origins[index] + place - places[index]

    return origin
