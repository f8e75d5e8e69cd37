"""Secrets in a text that should have none: a log, a source file, a configuration. Pure.

What a secret looks like is known to `redact.py`. A source file may have made-up ones: those are shorter or plainer than
real ones, say PLANTED or EXAMPLE, or stand in a line that says `allow-secret`.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from ccflare_core.secrets import redact

ALLOWED = b"allow-secret"
_MADE_UP = (b"planted", b"example", b"redacted", b"placeholder")
_LEAST = {"anthropic-key": 60, "client-key": 36, "private-key": 200}
"""Bytes of a real one; 20 for all others."""
_LINK = b"/ccflare/login?token="
"""What follows is good once and for minutes, and the proxy logs it at its start."""
_BITS = {"secret": 4.0, "password": 4.0}
"""Least entropy per byte where only the name before it tells that it is a secret; else 3.5. Base64 has 5 and more."""


class Leak(NamedTuple):
    """Where something looks like a secret; what it says is not in here."""

    line: int
    kind: str


def find(data: bytes, known: Iterable[bytes] = (), *, is_source: bool = False) -> list[Leak]:
    """The lines in which a secret seems to be, each once; of a source file without what is made up.

    `known` are secrets that are looked for as they are. Raises redact.TooMuch for hostile input.
    """
    starts = list(
        accumulate((len(line) for line in data.split(b"\n")[:-1]), lambda end, size: end + size + 1, initial=0)
    )
    lines: dict[int, str] = {}
    for start, kind in sorted([*_known(data, known), *_unknown(data, is_source=is_source)]):
        lines.setdefault(bisect_right(starts, start), kind)
    if is_source:
        allowed = {number for number, line in enumerate(data.split(b"\n"), start=1) if ALLOWED in line}
        lines = {number: kind for number, kind in lines.items() if number not in allowed}
    return [Leak(number, kind) for number, kind in sorted(lines.items())]


def _known(data: bytes, known: Iterable[bytes]) -> Iterable[tuple[int, str]]:
    for secret in known:
        position = data.find(secret) if len(secret) >= 8 else -1
        while position >= 0:
            yield position, "a secret of this database"
            position = data.find(secret, position + 1)


def _unknown(data: bytes, *, is_source: bool) -> Iterable[tuple[int, str]]:
    spans = sorted(span for span in redact.find(data) if span.label not in ("", "number"))
    formed = [span.start for span in spans if span.label not in _BITS]
    for start, end, label in spans:
        if data.endswith(_LINK, 0, start):
            continue
        if label in _BITS and bisect_left(formed, end) > bisect_left(formed, start):
            continue  # a name stands before it, but its form tells more
        if not (is_source and _is_made_up(label, data[start:end])):
            yield start, label


def _is_made_up(label: str, text: bytes) -> bool:
    lower = text.lower()
    if any(word in lower for word in _MADE_UP) or len(text) < _LEAST.get(label, 20):
        return True
    if label in _BITS and text.replace(b"_", b"").isalpha():
        return True  # the name of a variable
    return _bits(text) < _BITS.get(label, 3.5) or (label in _BITS and len(text.split()) > 1)


def _bits(text: bytes) -> float:
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
