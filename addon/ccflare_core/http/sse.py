"""Server-sent events, whole and parsed, out of bytes that may be cut anywhere. Pure, total, bounded in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

EVENT_LIMIT = 1024 * 1024
"""An event of more bytes is skipped."""

BLANK: Final = b"\n\n"
MARKS: Final = (b'"message_', b'"error"', b"event: error\n", b"event:error\n")
"""One of these is in every event that matters.

What a model writes about "message_delta" does not hold the first two, since a quote inside a JSON string is
escaped; nor the last two, since a JSON string has no bare line end.
"""

ERROR_LIMIT = 300


class Splitter:
    """Whole events out of bytes that may be cut anywhere, with LF for every line end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the event that is not whole yet
        self._size = 0
        self._after_cr = False
        self._skipping = False

    def feed(self, data: bytes) -> bytes:
        """The events that became whole, each followed by a blank line; `b""` if there is none."""
        data = self._unify(data)
        if not self._parts:
            data = data.lstrip(b"\n")
        if not data:
            return b""
        whole = data.rfind(BLANK) + len(BLANK)
        if whole < len(BLANK):
            whole = 1 if self._parts and self._parts[-1].endswith(b"\n") and data.startswith(b"\n") else 0
        if not whole:
            self._keep(data)
            return b""
        events = b"".join([*self._parts, data[:whole]])
        if self._skipping:
            events = events[events.index(BLANK) + len(BLANK) :]
        self._parts, self._size, self._skipping = [], 0, False
        if whole < len(data):
            self._keep(data[whole:])
        return events

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return b"" if self._skipping else b"".join(self._parts).rstrip(b"\n")

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > EVENT_LIMIT + 1:  # one more: the line end may be here already
            self._skipping = True
            self._parts = [data[-1:]]

    def _unify(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def marked_events(events: bytes, marks: Sequence[bytes] = MARKS) -> list[bytes]:
    """Those of the whole events that hold one of the marks, in their order."""
    spans: set[tuple[int, int]] = set()
    for mark in marks:
        at = events.find(mark)
        while at >= 0:
            before, end = events.rfind(BLANK, 0, at), events.find(BLANK, at)
            spans.add((before + len(BLANK) if before >= 0 else 0, end))
            at = events.find(mark, end)
    return [events[start:end] for start, end in sorted(spans) if end - start <= EVENT_LIMIT]


def parse_event(event: bytes) -> dict[str, Any] | None:
    """The JSON object that one event carries, else None.

    Its `type` counts, not the `event:` line, which may be missing. But what that line calls an error is given
    the API's shape, whatever its data: `{"type": "error", "error": {"type": …, "message": …}}`.
    """
    name, data = b"", []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()
    text = b"\n".join(data)
    parsed = parse_json(text) if text else None
    if name == b"error":
        if not isinstance(parsed, dict):
            parsed = {"message": text[:ERROR_LIMIT].decode("utf-8", "replace")}
        inner = parsed.get("error", parsed)
        return {**parsed, "type": "error", "error": inner}
    return parsed if isinstance(parsed, dict) else None


def parse_json(text: bytes) -> Any:
    """The value of a JSON text, None if it is not JSON. Bytes that are not UTF-8 are replaced."""
    try:
        return json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
