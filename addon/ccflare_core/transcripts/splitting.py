"""Cuts a request's body where the next request of the same conversation will be cut again.

A client sends its whole conversation with every turn. So the body is cut at its JSON structure: system blocks, tools,
messages, the blocks of their content, long strings. No JSON is parsed, since a parser would keep neither white space
nor duplicate keys nor broken text. Instead the cuts are found by a few patterns of bytes that a string can hardly
hold (a quote within a string is escaped). A false find only cuts somewhere else: whatever the body is, its pieces
together are the body. On one core, 500 kB take about one millisecond.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

SMALLEST = 4096
"""Bodies below this many bytes are not worth a cut."""

_LEAST = 1024
"""A block costs some 130 bytes beside its content. Pieces are put together until they have this many bytes ..."""
_LARGE = 4096
"""... unless the next one is this large: it shall stay the same whatever changes before it."""
_LONG = 8192
"""A string of this many bytes is a piece of its own: a file that is read twice has two ids, but one text."""
_MOST = 20_000
"""Finds of one kind at most, so that no body makes endless work; and of insertions a hundredth of it."""

_AFTER_OBJECT = re.compile(rb'\}\s*(?:,\s*\{|\]\s*,)\s*"')
"""Where an array's next element begins, or its end and the next key."""
_SECTION = re.compile(rb'"(?:messages|system|tools)"\s*:\s*\[')
_BODY_END = re.compile(rb"\]\s*\}\s*\Z")
_QUOTE = re.compile(rb'"(?<!\\")')

_MOVING = (
    (b'"cache_control"', re.compile(rb'(?:,\s*)?"cache_control"\s*:\s*\{[^{}]{0,200}\}')),
    (b"x-anthropic-billing-header:", re.compile(rb'x-anthropic-billing-header:[^"\\]{0,400}')),
    (b'"previous_message_id"', re.compile(rb'"previous_message_id"\s*:\s*"[^"\\]{0,200}"')),
)
"""What a client changes with every turn in the middle of what stays."""


class Split(NamedTuple):
    """A body: the `pieces` in their order, with each of `inserts` put in where it was (an offset in the pieces)."""

    pieces: list[bytes]
    inserts: list[tuple[int, bytes]]


def split(body: bytes) -> Split:
    """The body in pieces; a single one if it is small or has no structure that is known here."""
    if len(body) < SMALLEST or body.lstrip()[:1] != b"{":
        return Split([body], [])
    rest, inserts = _take_out(body)
    ends = [0, *_grouped(rest), len(rest)]
    return Split([rest[start:end] for start, end in pairwise(ends) if end > start], inserts)


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


def _take_out(body: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    spans = sorted(span for word, pattern in _MOVING for span in islice(_spans(body, word, pattern), _MOST // 100))
    if not spans:
        return body, []
    kept, inserts, done, offset = [], [], 0, 0
    for start, end in spans:
        if start < done:
            continue  # within the last one
        kept.append(body[done:start])
        offset += start - done
        inserts.append((offset, body[start:end]))
        done = end
    return b"".join((*kept, body[done:])), inserts


def _spans(body: bytes, word: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """Where the pattern is found around the word. Looking for the word alone is ten times as fast."""
    at = body.find(word)
    while at >= 0:
        comma = len(body[max(0, at - 40) : at].rstrip()) - 1 + max(0, at - 40)
        start = comma if body[comma : comma + 1] == b"," else at
        found = pattern.match(body, start) or pattern.match(body, at)
        if found:
            yield found.span()
        at = body.find(word, found.end() if found else at + len(word))


def _grouped(body: bytes) -> Iterator[int]:
    """Where to cut, in order."""
    always = {found.end() for found in islice(_SECTION.finditer(body), _MOST)}
    if tail := _BODY_END.search(body, max(0, len(body) - 64)):
        always.add(tail.start())
    cuts = sorted({*always, *(found.start() + 1 for found in islice(_AFTER_OBJECT.finditer(body), _MOST))})
    cuts = sorted({*cuts, *_around_strings(body, (0, *cuts, len(body)))})
    start = 0
    for cut, following in pairwise((*cuts, len(body))):
        if cut in always or cut - start >= _LEAST or following - cut >= _LARGE:
            yield cut
            start = cut


def _around_strings(body: bytes, cuts: Sequence[int]) -> Iterator[int]:
    """Both ends of the long strings. Between two quotes that are not escaped there is a string, or next to nothing."""
    for start, end in pairwise(cuts):
        if end - start > _LONG:
            quotes = (found.start() for found in islice(_QUOTE.finditer(body, start, end), _MOST))
            for opening, closing in pairwise(quotes):
                if closing - opening > _LONG:
                    yield from (opening + 1, closing)
