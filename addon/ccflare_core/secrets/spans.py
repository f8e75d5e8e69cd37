"""Where secrets lie in bytes, those bytes without them, and a bound on the places that are looked at."""

from collections.abc import Iterable
from typing import NamedTuple

MOST_CANDIDATES = 50_000
"""How many places may look like the beginning of a secret. A body with more is hostile, or no text."""
MOST_PEMS = 1000
"""How many private keys may begin."""


class TooMuch(Exception):
    """The input looks like secrets in too many places to be searched in bounded time."""


class Span(NamedTuple):
    """Where a secret lies. An empty label is the rest of one that began elsewhere; "number" keeps JSON valid."""

    start: int
    end: int
    label: str


class Redacted(NamedTuple):
    """The input with its secrets blanked, and how many they were."""

    data: bytes
    secrets: int


class Budget:
    """Counts the places that one search looks at. Raises TooMuch when they are too many."""

    def __init__(self) -> None:
        self.candidates = self.pems = 0
        self.looks_far = False
        """Whether one of them depends on what stands some thousand bytes away."""

    def spend(self) -> None:
        """Look at one more."""
        self.candidates += 1
        if self.candidates > MOST_CANDIDATES:
            raise TooMuch

    def spend_pem(self) -> None:
        """Look at one more private key."""
        self.pems += 1
        self.looks_far = True
        if self.pems > MOST_PEMS:
            raise TooMuch


def blank(data: bytes, spans: Iterable[Span]) -> Redacted:
    """`data` with these spans, which may overlap, replaced. The count is that of the labels that are left."""
    parts: list[bytes] = []
    position = count = 0
    for start, end, label in _merged(spans):
        parts += data[position:start], _word(label)
        position = end
        count += bool(label)
    return Redacted(b"".join((*parts, data[position:])), count) if parts else Redacted(data, 0)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; those that overlap are one, under the first's label or whichever has one."""
    merged: list[Span] = []
    for span in sorted(spans):
        if span.start >= span.end:
            continue
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Span(last.start, max(last.end, span.end), last.label or span.label)
        else:
            merged.append(span)
    return merged


def _word(label: str) -> bytes:
    if label == "number":
        return b"0"
    return b"[redacted:%s]" % label.encode() if label else b""
