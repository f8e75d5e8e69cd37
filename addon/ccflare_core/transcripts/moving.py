"""Takes out of a request's body what its client changes with every turn in the middle of what stays. Pure.

Where a body begins as an earlier one did it is not looked through again.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

_MOST = 200
"""Of one kind, so that no body makes endless work."""
_MOVING = (
    (b'"cache_control"', re.compile(rb'(?:,\s{0,40})?"cache_control"\s{0,40}:\s{0,40}\{[^{}]{0,200}\}')),
    (b"x-anthropic-billing-header:", re.compile(rb'x-anthropic-billing-header:[^"\\]{0,400}')),
    (b'"previous_message_id"', re.compile(rb'"previous_message_id"\s{0,40}:\s{0,40}"[^"\\]{0,200}"')),
)
_BEFORE, _SIGHT = 40, 512
"""No more bytes in front of a word, and from it on, tell whether it is one of those."""

type Place = tuple[int, int]
"""From where to where something stands."""


class Taken(NamedTuple):
    """A body without what moves in it, which are the `inserts`: each an offset in the rest, and what stood there."""

    rest: bytes
    inserts: list[tuple[int, bytes]]
    places: list[list[Place]]
    """Where it stood in the body, by its kind."""


def take_out(body: bytes, earlier: Taken | None = None, same: int = 0) -> Taken:
    """The body in these two parts. Its first `same` bytes are those of the body that `earlier` was made of."""
    known, alike = (earlier.places, same) if earlier else ([[]] * len(_MOVING), 0)
    places = [
        list(islice(_places(body, word, pattern, before, alike), _MOST))
        for (word, pattern), before in zip(_MOVING, known, strict=True)
    ]
    view, kept, inserts, done, offset = memoryview(body), list[memoryview](), list[tuple[int, bytes]](), 0, 0
    for start, end in sorted(place for kind in places for place in kind):
        if start < done:
            continue  # within the last one
        kept.append(view[done:start])
        offset += start - done
        inserts.append((offset, body[start:end]))
        done = end
    return Taken(b"".join((*kept, view[done:])) if inserts else body, inserts, places)


def _places(body: bytes, word: bytes, pattern: re.Pattern[bytes], known: Sequence[Place], same: int) -> Iterator[Place]:
    """Where the pattern is found around the word. Looking for the word alone is ten times as fast."""
    sure = same - _SIGHT
    kept = [place for place in known if place[1] <= sure]
    yield from kept
    following = known[len(kept)][0] if len(kept) < len(known) else sure
    at = body.find(word, max(kept[-1][1] if kept else 0, min(following, sure)))
    while at >= 0:
        low = max(0, at - _BEFORE)
        comma = len(body[low:at].rstrip()) - 1 + low
        start = comma if body[comma : comma + 1] == b"," else at
        found = pattern.match(body, start) or pattern.match(body, at)
        if found:
            yield found.span()
        at = body.find(word, found.end() if found else at + len(word))
