"""Cuts a request's body where the next request of the same conversation will be cut again.

A client sends its whole conversation with every turn. So the body is cut at its JSON structure: system blocks, tools,
messages, the blocks of their content, long strings. No JSON is parsed, since a parser would keep neither white space
nor duplicate keys nor broken text. Instead the cuts are found by a few patterns of bytes that a string can hardly
hold (a quote within a string is escaped). A false find only cuts somewhere else: whatever the body is, its pieces
together are the body. On one core, 500 kB take about two milliseconds; a body that goes on from one that was cut is
looked at only where it differs, and is cut as if it were the first.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from ccflare_core.transcripts.changes import alike, alike_before
from ccflare_core.transcripts.moving import take_out

SMALLEST = 4096
"""Bodies below this many bytes are not worth a cut."""

_LEAST = 1024
"""A block costs some 130 bytes beside its content. Pieces are put together until they have this many bytes ..."""
_LARGE = 4096
"""... unless the next one is this large: it shall stay the same whatever changes before it."""
_LONG = 8192
"""A string of this many bytes is a piece of its own: a file that is read twice has two ids, but one text."""
_MOST = 20_000
"""Finds of one kind at most, so that no body makes endless work."""

_AFTER_OBJECT = re.compile(rb'\}\s*(?:,\s*\{|\]\s*,)\s*"')
"""Where an array's next element begins, or its end and the next key."""
_SECTION = re.compile(rb'"(?:messages|system|tools)"\s*:\s*\[')
_BODY_END = re.compile(rb"\]\s*\}\s*\Z")
_QUOTE = re.compile(rb'"(?<!\\")')


class Split(NamedTuple):
    """A body: the `pieces` in their order, with each of `inserts` put in where it was (an offset in the pieces)."""

    pieces: list[bytes]
    inserts: list[tuple[int, bytes]]


class Cuts(NamedTuple):
    """How a body is cut whose insertions were taken out."""

    rest: bytes
    places: list[int]
    """Where it may be cut, in order."""
    always: list[int]
    """Those of them where it is cut in any case."""
    ends: list[int]
    """Where its pieces end, from 0 on."""
    kept_front: int = 0
    kept_back: int = 0
    """How many pieces, from either end, are the same as those of the body that it goes on from."""

    def __repr__(self) -> str:
        return f"<Cuts: {len(self.ends) - 1} pieces>"

    def piece(self, number: int) -> bytes:
        """One of the pieces."""
        return self.rest[self.ends[number] : self.ends[number + 1]]


def split(body: bytes) -> Split:
    """The body in pieces; a single one if it is small or has no structure that is known here."""
    if not has_structure(body):
        return Split([body], [])
    taken = take_out(body)
    cuts = cut(taken.rest)
    return Split([cuts.piece(number) for number in range(len(cuts.ends) - 1)], taken.inserts)


def has_structure(body: bytes) -> bool:
    """Whether it is worth a cut."""
    return len(body) >= SMALLEST and body.lstrip()[:1] == b"{"


def join(pieces: Sequence[bytes], inserts: Sequence[tuple[int, bytes]]) -> bytes:
    """The body again. Raises ValueError if an insertion lies outside of it."""
    rest = b"".join(pieces)
    if not inserts:
        return rest
    parts: list[bytes] = []
    done = 0
    for offset, text in inserts:
        if not done <= offset <= len(rest):
            raise ValueError("an insertion lies outside of its body")
        parts += rest[done:offset], text
        done = offset
    return b"".join((*parts, rest[done:]))


def cut(rest: bytes, earlier: Cuts | None = None) -> Cuts:
    """Where to cut. What an `earlier` body has in common with this one is taken from there."""
    if earlier is None or len(earlier.places) >= _MOST:
        earlier = Cuts(b"", [], [], [0])
    front, back = _unchanged(rest, earlier)
    shift = len(rest) - len(earlier.rest)
    low = earlier.places[front - 1] if front else 0
    behind = [place + shift for place in earlier.places[back:]]
    places, always = _places(rest, low, behind[0] if behind else None)
    places = [*earlier.places[:front], *places, *behind]
    if len(places) >= _MOST and earlier.places:
        return cut(rest)  # so many that some would be left out
    firm = earlier.always
    kept = firm[bisect_left(firm, earlier.places[back]) :] if behind else []
    always = [*firm[: bisect_left(firm, low)], *always, *(place + shift for place in kept)]
    return _grouped(Cuts(rest, places, always, []), earlier, front, behind[0] if behind else None)


def _unchanged(rest: bytes, earlier: Cuts) -> tuple[int, int]:
    """How many of the earlier places are the same here, and from which one on they are so again, but shifted.

    Only where objects meet does nothing before the place tell where to cut behind it, nor the other way round.
    """
    old, places = earlier.rest, earlier.places
    most = min(len(old), len(rest))
    same = alike(old, 0, rest, 0, most)
    front = bisect_right(places, same)
    while front and not ((found := _AFTER_OBJECT.match(rest, places[front - 1] - 1)) and found.end() <= same):
        front -= 1
    back = bisect_left(places, len(old) - alike_before(old, len(old), rest, len(rest), most - same) + 1)
    while back < len(places) and not _AFTER_OBJECT.match(old, places[back] - 1):
        back += 1
    return front, back


def _places(rest: bytes, low: int, high: int | None) -> tuple[list[int], list[int]]:
    """Where to cut between these two places, or up to the end; and where in any case."""
    end = len(rest) if high is None else high - 1
    always = {found.end() for found in islice(_SECTION.finditer(rest, low, end), _MOST)}
    if high is None and (tail := _BODY_END.search(rest, max(0, len(rest) - 64))):
        always.add(tail.start())
    met = (found.start() + 1 for found in islice(_AFTER_OBJECT.finditer(rest, low, end), _MOST))
    cuts = sorted({*always, *met})
    strings = _around_strings(rest, (low, *cuts, len(rest) if high is None else high))
    return sorted({*cuts, *strings}), sorted(always)


def _grouped(cuts: Cuts, earlier: Cuts, front: int, high: int | None) -> Cuts:
    """With the pieces put together that are too small, up to where they are the earlier ones again."""
    rest, places, always, length = cuts.rest, cuts.places, {*cuts.always}, len(cuts.rest)
    first = max(front - 1, 0)
    ends = earlier.ends[: bisect_left(earlier.ends, places[first])] if front else [0]
    kept, start, shift = len(ends) - 1, ends[-1], length - len(earlier.rest)
    for place, following in pairwise((*places[first:], length)):
        if place < length and (place in always or place - start >= _LEAST or following - place >= _LARGE):
            ends.append(place)
            start = place
            if high is not None and place >= high and _has(earlier.ends, place - shift):
                more = earlier.ends[bisect_right(earlier.ends, place - shift) :]
                return cuts._replace(ends=[*ends, *(end + shift for end in more)], kept_front=kept, kept_back=len(more))
    return cuts._replace(ends=[*ends, length] if rest else ends, kept_front=kept)


def _has(ordered: Sequence[int], value: int) -> bool:
    index = bisect_left(ordered, value)
    return index < len(ordered) and ordered[index] == value


def _around_strings(body: bytes, cuts: Sequence[int]) -> Iterator[int]:
    """Both ends of the long strings. Between two quotes that are not escaped there is a string, or next to nothing."""
    for start, end in pairwise(cuts):
        if end - start > _LONG:
            quotes = (found.start() for found in islice(_QUOTE.finditer(body, start, end), _MOST))
            for opening, closing in pairwise(quotes):
                if closing - opening > _LONG:
                    yield from (opening + 1, closing)
