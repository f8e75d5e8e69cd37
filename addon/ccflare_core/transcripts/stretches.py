"""Searches a body for secrets only where it differs from an earlier one, and finds what the whole search would. Pure.

A body is searched in stretches, and what is found in one is kept with it. A stretch begins and ends where objects
meet: at the quotation mark of `},{"`. Nothing that is looked for reaches across that, but for what redact.search looks
at a bounded number of bytes away, and for a string that ends with this very mark or a match that ends just before it.
So each stretch is searched with some bytes of either side in sight, and where a match ends close to its end it is made
longer. A stretch is kept if neither it nor those bytes have changed.

The names and formats that are looked for are part of the program, so they cannot change while anything is kept.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from ccflare_core.secrets import redact
from ccflare_core.secrets.escapes import unescaped
from ccflare_core.secrets.redact import Span
from ccflare_core.secrets.spans import MOST_CANDIDATES, MOST_PEMS, Budget, TooMuch
from ccflare_core.transcripts.changes import Run

_MEETING = re.compile(rb'\}\s*(?:,\s*\{|\]\s*,)\s*"')
_LEAST, _LONG, _PARTS = 2048, 16 * 1024, 16
"""How long a stretch is at least: this much where little is left to search, that much in a body that is all new."""

# How many bytes may be looked at, escapes undone: 206 back and 765 on in by_form.py; 4096 either way for a JWK, and
# 32 KB on for a key in PEM. A stretch has as many in sight as that takes in the body as it is.
_SIGHTS = (1280, 40 * 1024)
_BACK, _ON = 256, 1024
_FAR_BACK, _FAR_ON = 4352, 33 * 1024
_CLEAR = 256
"""How far before the end of a stretch its last match has to end, so that the next one does not depend on it."""


class Stretch(NamedTuple):
    """What was found in some bytes of a body; the spans are relative to their beginning."""

    size: int
    sight: int
    """How many bytes on either side were in sight."""
    spans: tuple[Span, ...]
    candidates: int
    pems: int
    is_clear: bool
    """Whether what follows can be searched without knowing what was found here."""


class Searched(NamedTuple):
    """A body that was searched, in stretches."""

    body: bytes
    stretches: list[Stretch]

    def __repr__(self) -> str:
        return "<Searched>"

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.body) + sum(200 + 150 * len(stretch.spans) for stretch in self.stretches)

    @property
    def spans(self) -> list[Span]:
        """Where its secrets are."""
        return [
            Span(start + at, end + at, label)
            for at, stretch in zip(_starts(self.stretches), self.stretches, strict=True)
            for start, end, label in stretch.spans
        ]


def search(body: bytes, earlier: Searched | None = None, runs: Sequence[Run] = (), *, least: int = _LEAST) -> Searched:
    """The body searched. Of an `earlier` one, with which it has these runs in common, what still holds is kept.

    Raises TooMuch, as the whole search would. `least` is how long a stretch is if little is left to search.
    """
    kept = list(_kept(body, earlier, runs)) if earlier else []
    stretches = list(_around(body, kept, least))
    if sum(each.candidates for each in stretches) > MOST_CANDIDATES or sum(each.pems for each in stretches) > MOST_PEMS:
        raise TooMuch
    return Searched(body, stretches)


def _starts(stretches: Sequence[Stretch]) -> list[int]:
    return list(accumulate((stretch.size for stretch in stretches), initial=0))[:-1]


def _kept(body: bytes, earlier: Searched, runs: Sequence[Run]) -> Iterator[tuple[int, Stretch]]:
    """The stretches that are unchanged with all that is in their sight, and where they are now."""
    starts = _starts(earlier.stretches)
    for old, new, length in runs:
        is_begin, is_end = old == new == 0, (old + length, new + length) == (len(earlier.body), len(body))
        for index in range(bisect_left(starts, old), len(starts)):
            start, stretch = starts[index], earlier.stretches[index]
            end = start + stretch.size
            if end > old + length:
                break
            if (is_begin or start - stretch.sight >= old) and (is_end or end + stretch.sight <= old + length):
                yield start - old + new, stretch


def _around(body: bytes, kept: Sequence[tuple[int, Stretch]], least: int) -> Iterator[Stretch]:
    """All stretches of the body: the kept ones, and what lies between them searched."""
    at = index = 0
    while at < len(body):
        while index < len(kept) and kept[index][0] < at:
            index += 1
        following = kept[index][0] if index < len(kept) else len(body)
        stretch = kept[index][1] if following == at else _next(body, at, following, least)
        yield stretch
        at += stretch.size


def _next(body: bytes, start: int, following: int, least: int) -> Stretch:
    """The stretch that begins there. It ends at what follows, or before that, or later if it must."""
    size = min(_LONG, max(least, (following - start) // _PARTS))
    stretch = _searched(body, start, _meeting(body, start + size, following))
    while not stretch.is_clear and start + stretch.size < len(body):
        stretch = _searched(body, start, _meeting(body, start + 2 * stretch.size, len(body)))
    return stretch


def _meeting(body: bytes, start: int, end: int) -> int:
    """Where objects meet the next time, or the end."""
    found = _MEETING.search(body, start, end)
    return found.end() - 1 if found else end


def _searched(body: bytes, start: int, end: int) -> Stretch:
    for sight in (*_SIGHTS, len(body)):
        if found := _in_sight(body, start, end, sight):
            return found
    raise AssertionError("the whole body is enough to see")


def _in_sight(body: bytes, start: int, end: int, sight: int) -> Stretch | None:
    """What begins from `start` to `end`, if so many bytes on either side are enough to tell."""
    low, high = max(0, start - sight), min(len(body), end + sight)
    view, origin = unescaped(body[low:high])
    back = start - low if origin is None else len(unescaped(body[low:start])[0])
    on = high - end if origin is None else len(unescaped(body[end:high])[0])
    stop = len(view) - on
    budget = Budget()
    found = redact.search(view, budget, back, stop)
    least = (_FAR_BACK, _FAR_ON) if budget.looks_far else (_BACK, _ON)
    if (low and back < least[0]) or (high < len(body) and on < least[1]):
        return None
    reached = max((span.end for span in found if span.label != "private-key"), default=back)
    shift = low - start
    spans = tuple(
        Span((origin(first) if origin else first) + shift, (origin(last) if origin else last) + shift, label)
        for first, last, label in found
    )
    return Stretch(end - start, sight, spans, budget.candidates, budget.pems, reached <= max(back, stop - _CLEAR))
