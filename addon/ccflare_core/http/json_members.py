"""Some members of a JSON object, out of a text that is too long to hold. Pure, total, bounded in memory."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from ccflare_core.http.sse import parse_json

VALUE_LIMIT = 1024 * 1024
"""A member whose value has more bytes is left out."""

_MARK = re.compile(rb'["{}\[\],:]')
IN_STRING: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
"""What is between a string's quotes. In runs, not a byte at a time: that is twenty times as quick."""
STRING: Final = b'"' + IN_STRING + b'"'
STRING_OR_BRACKET: Final = re.compile(STRING + rb"|[{}\[\]]", re.DOTALL)
"""What a text has to be walked over by to know how deep one is in it."""
_INSIDE: Final = re.compile(IN_STRING, re.DOTALL)
_OPENING, _CLOSING = b"{[", b"}]"


class Members:
    """Reads the members called `names` of the outermost object; `feed` it the text in any portions."""

    def __init__(self, names: Collection[str]) -> None:
        self.found: dict[str, Any] = {}
        """The members that came whole so far; of two of one name the later one."""
        self.is_whole = False
        """Whether the outermost value has ended."""
        self._names = frozenset(names)
        self._depth = 0
        self._in_string = False
        self._held = b""  # a backslash whose other half is to come
        self._key: str | None = None
        self._kept: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            at = self._string(data, at) if self._in_string else self._structure(data, at)

    def _string(self, data: bytes, at: int) -> int:
        """Go on within a string; gives where to go on."""
        found = _INSIDE.match(data, at)
        end = found.end() if found else at
        self._keep(data[at:end])
        if data[end : end + 1] == b'"':
            self._in_string = False
            self._keep(b'"')
            return end + 1
        self._held = data[end:]
        return len(data)

    def _structure(self, data: bytes, at: int) -> int:
        """Go on between strings, up to behind the next mark."""
        found = _MARK.search(data, at)
        if found is None:
            self._keep(data[at:])
            return len(data)
        self._keep(data[at : found.start()])
        self._take(found[0])
        return found.end()

    def _take(self, mark: bytes) -> None:
        is_outer = self._depth == 1
        if mark == b'"':
            self._in_string = True
            if is_outer and self._key is None:
                self._kept = bytearray()
        elif mark in _OPENING:
            self._depth += 1
        elif mark in _CLOSING:
            self._depth -= 1
        if mark == b":" and is_outer and self._key is None:
            self._key = str(parse_json(bytes(self._kept or b"")))
            self._kept = bytearray() if self._key in self._names else None
        elif is_outer and (mark == b"," or self._depth == 0):
            self._end_member()
        else:
            self._keep(mark)
        self.is_whole = self.is_whole or self._depth == 0

    def _end_member(self) -> None:
        if self._key is not None and self._kept is not None:
            self.found[self._key] = parse_json(bytes(self._kept))
        self._key = self._kept = None

    def _keep(self, data: bytes) -> None:
        if self._kept is None:
            return
        self._kept += data
        if len(self._kept) > VALUE_LIMIT:
            self._kept = None
