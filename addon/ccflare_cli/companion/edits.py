"""Entries put into a settings file, and taken out of it again: what was changed, and what undoing it gives. Pure.

What is remembered lets a file that nobody has touched since become what it was, byte for byte. In one that was
touched only the entries that are still ours go. A value of ours is remembered by its digest: it may have a key in it.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ccflare_cli.companion.jsonc import MISSING, Element, value_at
from ccflare_cli.companion.jsonc_edits import put, take

type Steps = tuple[str, ...]

_MARK = "\ufeff"
"""What Windows begins a text with; it is no part of the JSON."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of ours, and what stood in its place."""

    path: Steps
    is_element: bool
    digest: str | None
    """Of our value; None if we have taken the user's out."""
    had: bool
    old: Any = field(repr=False)

    @property
    def steps(self) -> Steps:
        """The path as the file is read by."""
        return (*self.path[:-1], Element(self.path[-1])) if self.is_element else self.path

    def undone(self, text: str) -> str:
        """The text with what stood there before; as it is if what stands there now is not ours."""
        now = value_at(text, self.steps)
        if (None if now is MISSING else _digest(now)) != self.digest:
            return text
        if self.had:
            return put(text, self.steps, self.old)
        return take(text, self.steps)


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a file. `old` and the numbers are the one stretch of it that differs."""

    was: str
    """Digest of the file as it was."""
    left: str
    """Digest of the file as we have left it."""
    start: int
    length: int
    old: str = field(repr=False)
    entries: tuple[Entry, ...]
    made: tuple[Steps, ...]
    """Objects and arrays that were not there, the innermost first."""

    @classmethod
    def between(cls, before: bytes, after: bytes, entries: tuple[Entry, ...], made: tuple[Steps, ...]) -> Self:
        """What leads from `before` to `after`."""
        start = _common(before, after)
        end = _common(before[start:][::-1], after[start:][::-1])
        old = before[start : len(before) - end]
        return cls(
            sha(before),
            sha(after),
            start,
            len(after) - end - start,
            base64.b64encode(old).decode(),
            entries,
            made,
        )

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """What `written` has made of one. Raises ValueError, KeyError or TypeError for anything else."""
        entries = (Entry(**each | {"path": tuple(each["path"])}) for each in found["entries"])
        made = tuple(tuple(path) for path in found["made"])
        return cls(**{**found, "entries": tuple(entries), "made": made})

    def written(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def left_it_so(self, content: bytes) -> bool:
        """Whether nobody has touched the file since."""
        return sha(content) == self.left

    def undone(self, content: bytes) -> bytes:
        """The file without what is ours. Raises ValueError if it is no JSON any more."""
        if self.left_it_so(content):
            before = content[: self.start] + base64.b64decode(self.old) + content[self.start + self.length :]
            if sha(before) == self.was:
                return before
        mark, text = _text(content)
        for entry in self.entries:
            text = entry.undone(text)
        for path in self.made:
            if value_at(text, path) in ({}, []):
                text = take(text, path)
        return (mark + text).encode()


def conflicts(content: bytes, wanted: Mapping[Steps, object]) -> Iterator[Steps]:
    """Where the file has another value than the one that is wanted. Raises ValueError for what is no JSON."""
    _, text = _text(content)
    for path, value in wanted.items():
        found = value_at(text, path)
        if found is not MISSING and found != value:
            yield path


def apply(content: bytes, wanted: Mapping[Steps, object]) -> tuple[bytes, Change]:
    """The file with these values, MISSING ones taken out, and what was changed. Raises ValueError."""
    mark, text = _text(content)
    entries, made = list[Entry](), dict[Steps, None]()
    for path, value in wanted.items():
        found = value_at(text, path)
        if found is value or found == value:
            continue
        for length in range(len(path) - 1, 0, -1):
            if value_at(text, path[:length]) is MISSING:
                made[path[:length]] = None
        text = take(text, path) if value is MISSING else put(text, path, value)
        digest = None if value is MISSING else _digest(value)
        old = None if found is MISSING else found
        entries.append(Entry(tuple(map(str, path)), isinstance(path[-1], Element), digest, found is not MISSING, old))
    after = (mark + text).encode()
    return after, Change.between(content, after, tuple(entries), tuple(made))


def sha(content: bytes) -> str:
    """What a file is known again by."""
    return hashlib.sha256(content).hexdigest()


def _digest(value: object) -> str:
    return sha(json.dumps(value, sort_keys=True).encode())


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _text(content: bytes) -> tuple[str, str]:
    text = content.decode()
    return (_MARK, text[1:]) if text.startswith(_MARK) else ("", text)
