"""What an answer says about itself: the tokens used, the model, how it ended.

Three shapes exist. A JSON body says everything at once. The results of a batch are JSON lines, with a message in
each. A stream (server-sent events) opens with `message_start`, which holds the prompt's tokens, and closes with
`message_delta`, whose numbers are cumulative and final, and `message_stop`. In between come thousands of
`content_block_delta` events that say nothing of use. So a stream is not taken apart line by line: the reader jumps to
the few events that can matter and leaves the rest unread (20,000 deltas, 2.9 MB, fed as one body, take about 4 ms).

The bytes may be cut anywhere. Nothing here raises on any input, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from ccflare_core.http.content_coding import CODECS, Decoder, Trouble
from ccflare_core.http.failure_words import known
from ccflare_core.http.sse import Splitter, marked_events, parse_event, parse_json

STREAM_LIMIT = 64 * 1024 * 1024
DOCUMENT_LIMIT = 8 * 1024 * 1024
"""How many decoded bytes of a body are read; the longest answers have about 20 MiB and 1 MiB."""

LINE_LIMIT = 8 * 1024 * 1024
PARTS_LIMIT = 100_000
"""What is read of a batch's results: bytes of a line, and messages, of which the API allows as many."""

COUNT_LIMIT = 10**12
TEXT_LIMIT = 100
MODEL_LIMIT = 200

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

LINES: Final = frozenset({"application/x-jsonl", "application/jsonl", "application/x-ndjson"})
"""What the results of a batch may be called; the API says the first."""

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

    `parts` are the messages of a batch's results, whose sum `usage` is: each has a price of its own.
    `error` is which of the API's errors the upstream told ("error" if it is none of them), or else why the body could
    not be read to its end: words of ours. Its message stands in the body alone.
    """

    usage: Usage
    model: str | None
    ending: Ending
    error: str | None
    stop_reason: str | None
    parts: tuple[Message, ...] = ()


def without(reading: Reading, is_secret: Callable[[str], bool]) -> Reading:
    """The reading without those of the upstream's own words that hold what must not be stored."""

    def left(word: str | None) -> str | None:
        return None if word is not None and is_secret(word) else word

    used = reading.usage
    used = replace(
        used, service_tier=left(used.service_tier), speed=left(used.speed), inference_geo=left(used.inference_geo)
    )
    return replace(reading, usage=used, model=left(reading.model), stop_reason=left(reading.stop_reason))


class Message(NamedTuple):
    """The model and the usage of one message among several."""

    model: str | None
    usage: Usage


class UsageReader:
    """Reads one answer: `feed` it the bytes of the wire in any portions, then `close` gives the `Reading`.

    Bodies that are neither JSON nor an event stream (files, for one) are not looked at.
    """

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        media = content_type.partition(";")[0].strip().lower()
        self._tally = _Tally()
        self._body: _Body | None = None
        limit = STREAM_LIMIT
        if media == "text/event-stream":
            self._body = _Stream(self._tally)
        elif media == "application/json" or media.endswith("+json"):
            self._body = _Document(self._tally)
            limit = DOCUMENT_LIMIT
        elif media in LINES:
            self._body = _Lines(self._tally)
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
            coding = f" ({self._decoder.coding})" if self._decoder.coding in CODECS else ""
            error = f"usage may be incomplete: the body is {trouble}{coding}"
        ending = Ending.TRUNCATED
        if tally.error is not None:
            ending = Ending.ERROR
        elif finished or (trouble and not cut):
            ending = Ending.COMPLETE
        return Reading(Usage(**tally.usage), tally.model, ending, error, tally.stop_reason, tuple(tally.parts))


class _Tally:
    """What the events or the document told so far; later numbers win, field by field."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.model: str | None = None
        self.stop_reason: str | None = None
        self.error: str | None = None
        self.parts: list[Message] = []

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

    def take_part(self, message: object) -> None:
        """Add one of several messages: numbers add up, words stay where all messages agree."""
        part = _Tally()
        part.take_message(message)
        if not part.usage:
            return
        if not self.parts:
            self.model, self.usage = part.model, dict(part.usage)
        else:
            self.model = self.model if self.model == part.model else None
            self.usage = _sum(self.usage, part.usage)
        self.parts.append(Message(part.model, Usage(**part.usage)))

    def take_error(self, body: Mapping[str, Any]) -> None:
        """The first error stays: what comes after it is a consequence."""
        if self.error is None:
            self.error = known(_at(body, "error", "type")) or "error"


class _Body(Protocol):
    def feed(self, data: bytes) -> None: ...
    def close(self, cut: bool) -> bool: ...


class _Stream:
    """Server-sent events."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._splitter = Splitter()
        self._stopped = False

    def feed(self, data: bytes) -> None:
        for event in marked_events(self._splitter.feed(data)):
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


class _Lines:
    """A batch's results: one JSON object a line, with a message in it if that request succeeded."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        # Of a line that is too long only the start is kept, and that is no JSON.
        self._rest += rest[: max(0, LINE_LIMIT + 1 - len(self._rest))]
        for line in lines:
            self._take(line)

    def close(self, cut: bool) -> bool:
        """Whether the results came whole: nothing in them says which line is the last."""
        self._take(bytes(self._rest))
        return not cut

    def _take(self, line: bytes) -> None:
        if len(line) <= LINE_LIMIT and len(self._tally.parts) < PARTS_LIMIT:
            self._tally.take_part(_at(parse_json(line), "result", "message"))


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: one.get(name, 0) + other.get(name, 0) for name in COUNTS if name in one or name in other}
    return counts | {name: one[name] for name in WORDS if name in one and one[name] == other.get(name)}


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
