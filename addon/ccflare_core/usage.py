"""What an answer says about itself: the tokens used, the model, how it ended.

Two shapes exist. A JSON body says everything at once. A stream (server-sent events) opens with
`message_start`, which holds the prompt's tokens, and closes with `message_delta`, whose numbers are
cumulative and final, and `message_stop`. In between come thousands of `content_block_delta` events that say
nothing of use. So a stream is not taken apart line by line: the reader jumps to the few events that can
matter and leaves the rest unread (20,000 deltas, 2.9 MB, fed as one body, take about 4 ms).

The bytes may be cut anywhere. Nothing here raises on any input, and memory is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ccflare_core.decoding import Decoder, Trouble

__all__ = ["Decoder", "Ending", "FirstEvent", "Reading", "Usage", "UsageReader"]

EVENT_LIMIT = 1024 * 1024
"""An event of more bytes is skipped."""

STREAM_LIMIT = 64 * 1024 * 1024
DOCUMENT_LIMIT = 8 * 1024 * 1024
"""How many decoded bytes of a body are read; the longest answers have about 20 MiB and 1 MiB."""

COUNT_LIMIT = 10**12
TEXT_LIMIT = 100
MODEL_LIMIT = 200
ERROR_LIMIT = 300

BLANK: Final = b"\n\n"
MARKS: Final = (b'"message_', b'"error"', b"event: error\n", b"event:error\n")
"""One of these is in every event that matters.

What a model writes about "message_delta" does not hold the first two, since a quote inside a JSON string is
escaped; nor the last two, since a JSON string has no bare line end.
"""

FIRST_EVENTS: Final = frozenset({"content_block_start", "content_block_delta", "message_stop", "error"})

COUNTS: Final = {
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_input_tokens": ("cache_read_input_tokens",),
    "cache_creation_input_tokens": ("cache_creation_input_tokens",),
    "cache_creation_5m_input_tokens": ("cache_creation", "ephemeral_5m_input_tokens"),
    "cache_creation_1h_input_tokens": ("cache_creation", "ephemeral_1h_input_tokens"),
    "thinking_tokens": ("output_tokens_details", "thinking_tokens"),
    "web_search_requests": ("server_tool_use", "web_search_requests"),
}
"""Our names, and where the numbers stand in the API's `usage` object."""

WORDS: Final = ("service_tier", "speed", "inference_geo")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used, in tokens and requests. None: the upstream did not say, which is not the same as 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_5m_input_tokens: int | None = None
    cache_creation_1h_input_tokens: int | None = None
    thinking_tokens: int | None = None
    web_search_requests: int | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None


class Ending(StrEnum):
    """How an answer ended: whole, cut short, or with an error that the upstream told."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was learned from one answer.

    `error` is what the upstream called an error, or else why the body could not be read to its end; at most
    300 printable characters.
    """

    usage: Usage
    model: str | None
    ending: Ending
    error: str | None
    stop_reason: str | None


class UsageReader:
    """Reads one answer: `feed` it the bytes of the wire in any portions, then `close` gives the `Reading`.

    Bodies that are neither JSON nor an event stream (files, results of a batch) are not looked at.
    """

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        media = content_type.partition(";")[0].strip().lower()
        self._tally = _Tally()
        self._body: _Stream | _Document | None = None
        limit = STREAM_LIMIT
        if media == "text/event-stream":
            self._body = _Stream(self._tally)
        elif media == "application/json" or media.endswith("+json"):
            self._body = _Document(self._tally)
            limit = DOCUMENT_LIMIT
        self._decoder = Decoder(content_encoding, limit)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes as they came over the wire, still encoded."""
        if self._body is not None:
            for piece in self._decoder.pieces(chunk):
                self._body.feed(piece)

    def close(self, *, cut: bool = False) -> Reading:
        """The reading; `cut` tells that the connection broke before the body's end."""
        tally, trouble = self._tally, self._decoder.trouble
        cut = cut or trouble is Trouble.CORRUPT
        finished = self._body.close(cut or trouble is not None) if self._body else not cut
        error = tally.error
        if error is None and trouble and not finished:
            coding = clean(self._decoder.coding) or "?"
            error = f"usage may be incomplete: the body is {trouble} (content-encoding {coding})"
        ending = Ending.TRUNCATED
        if tally.error is not None:
            ending = Ending.ERROR
        elif finished or (trouble and not cut):
            ending = Ending.COMPLETE
        return Reading(Usage(**tally.usage), tally.model, ending, error, tally.stop_reason)


class FirstEvent:
    """Finds the event of a stream that decides whether it is a good answer: content, the end, or an error."""

    def __init__(self, content_encoding: str = "") -> None:
        self._decoder = Decoder(content_encoding, limit=EVENT_LIMIT)
        self._splitter = _Splitter()
        self._found: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> dict[str, Any] | None:
        """The parsed event, whose `type` is one of FIRST_EVENTS, once it has come, else None."""
        if self._found is None:
            for event in self._splitter.feed(self._decoder.feed(chunk)).split(BLANK):
                parsed = parse_event(event)
                kind = parsed.get("type") if parsed else None
                if isinstance(kind, str) and kind in FIRST_EVENTS:
                    self._found = parsed
                    break
        return self._found


class _Tally:
    """What the events or the document told so far; later numbers win, field by field."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.model: str | None = None
        self.stop_reason: str | None = None
        self.error: str | None = None

    def take_message(self, message: object) -> None:
        self.model = clean(_at(message, "model"), MODEL_LIMIT) or self.model
        self.take_stop_reason(_at(message, "stop_reason"))
        self.take_usage(_at(message, "usage"))

    def take_stop_reason(self, reason: object) -> None:
        self.stop_reason = clean(reason) or self.stop_reason

    def take_usage(self, usage: object) -> None:
        for name, path in COUNTS.items():
            value = _at(usage, *path)
            if type(value) is int and 0 <= value < COUNT_LIMIT:
                self.usage[name] = value
        for name in WORDS:
            if word := clean(_at(usage, name)):
                self.usage[name] = word

    def take_error(self, body: Mapping[str, Any]) -> None:
        """The first error stays: what comes after it is a consequence."""
        if self.error is None:
            kind, message = (clean(_at(body, "error", key), ERROR_LIMIT) for key in ("type", "message"))
            text = ": ".join(part for part in (kind, message) if part)
            self.error = clean(text or body.get("error"), ERROR_LIMIT) or "error"


class _Stream:
    """Server-sent events."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._splitter = _Splitter()
        self._stopped = False

    def feed(self, data: bytes) -> None:
        for event in _marked_events(self._splitter.feed(data)):
            self._take(event)

    def close(self, cut: bool) -> bool:
        """Whether the last event was seen, which may lack its blank line; then a cut does not matter."""
        self._take(self._splitter.rest())
        return self._stopped

    def _take(self, event: bytes) -> None:
        parsed = parse_event(event) or {}
        match parsed.get("type"):
            case "message_start":
                self._tally.take_message(parsed.get("message"))
            case "message_delta":
                self._tally.take_usage(parsed.get("usage"))
                self._tally.take_stop_reason(_at(parsed, "delta", "stop_reason"))
            case "message_stop":
                self._stopped = True
            case "error":
                self._tally.take_error(parsed)


class _Document:
    """One JSON body: a message, a token count, an error, or something that has no usage."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        self._body += data

    def close(self, cut: bool) -> bool:
        """Whether the document was read to its end. An empty one (the answer to HEAD) has its end at once."""
        if not self._body:
            return not cut
        body = parse_json(bytes(self._body))
        if isinstance(body, dict):
            self._take(body)
        return isinstance(body, dict | list)

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("type") == "error" or isinstance(body.get("error"), dict):
            self._tally.take_error(body)
        elif "usage" in body:
            self._tally.take_message(body)
        else:
            self._tally.take_usage({"input_tokens": body.get("input_tokens")})


class _Splitter:
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


def _marked_events(events: bytes) -> list[bytes]:
    """Those of the whole events that hold one of MARKS, in their order."""
    spans: set[tuple[int, int]] = set()
    for mark in MARKS:
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


def clean(value: object, limit: int = TEXT_LIMIT) -> str | None:
    """A text of at most `limit` printable characters, on one line; None if there is none."""
    if not isinstance(value, str):
        return None
    line = " ".join(value[: 4 * limit].split())
    return "".join(filter(str.isprintable, line))[:limit] or None


def _at(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
