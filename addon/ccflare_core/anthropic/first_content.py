"""What is held of a good head's answer until it is known to be one: the start of a stream, or a whole document.

A 200 alone says little. A stream may begin with an error, or end without a word; what is called a message may be a
page of somebody's between the API and us. Nothing of the answer has gone to the client as long as this is looked at,
so another account can still be asked. Pure, total, bounded in memory.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

from ccflare_core.anthropic.routes import BATCHES, COUNT_TOKENS, MESSAGES
from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.sse import BLANK, EVENT_LIMIT, Splitter, parse_event, parse_json

STREAM_BYTES: Final = 64 * 1024
DOCUMENT_BYTES: Final = 1024 * 1024
"""How much of the body is held at most, as it came."""
BEGUN_SECONDS: Final = 1.0
"""How long an empty block is no content yet: what follows it comes at once, or is long in coming."""

_PARSED_BYTES: Final = 64 * 1024
"""Of a longer document only both ends are looked at: errors are short."""
_DECIDED: Final = frozenset({"content_block_delta", "content_block_stop", "message_stop", "error"})
_EMPTY: Final[dict[str, tuple[str, object]]] = {
    "text": ("text", ""),
    "thinking": ("thinking", ""),
    "tool_use": ("input", {}),
}
"""What is in a block that has only begun."""


class Progress(Enum):
    """How far an answer has come."""

    OPEN = "nothing that tells"
    BEGUN = "an empty block"
    DECIDED = "known"


class Held(Protocol):
    """What is known of an answer that is held."""

    limit: int
    """Bytes after which it is passed on, whatever it is."""
    is_document: bool
    """Whether it tells nothing before its end."""

    def feed(self, chunk: bytes) -> Progress:
        """Take the next bytes, still encoded."""

    def end(self) -> None:
        """This was all of it."""

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error that it is, in the API's shape."""

    @property
    def flaw(self) -> str:
        """Why it is no answer, known at its end; "" if it is one, or may be."""


def held_for(
    method: str, path: str, status: int, *, is_event_stream: bool, length: int | None, coding: str
) -> Held | None:
    """What an answer with this head is held in; None if the head tells all that is to be known."""
    if method != "POST" or not 200 <= status < 300:
        return None
    if is_event_stream:
        return HeldStream(coding) if path == MESSAGES else None
    if status != 200 or path not in (MESSAGES, COUNT_TOKENS, BATCHES) or (length or 0) > DOCUMENT_BYTES:
        return None
    return HeldDocument(coding)


class HeldStream:
    """A message's stream up to its first content, the reason why it stopped, or an error."""

    limit = STREAM_BYTES
    is_document = False

    def __init__(self, coding: str = "") -> None:
        self.error: Mapping[str, Any] | None = None
        self.flaw = ""
        self._decoder = Decoder(coding, limit=EVENT_LIMIT)
        self._splitter = Splitter()
        self._progress = Progress.OPEN

    def feed(self, chunk: bytes) -> Progress:
        """Take the next bytes, still encoded."""
        if self._progress is not Progress.DECIDED:
            for event in self._splitter.feed(self._decoder.feed(chunk)).split(BLANK):
                self._take(parse_event(event))
        return self._progress

    def end(self) -> None:
        """The stream is over; its last event may lack the blank line."""
        self._take(parse_event(self._splitter.rest()))
        if self._progress is not Progress.DECIDED and not self._decoder.broken:
            self.flaw = "the stream ended without content"

    def _take(self, event: Mapping[str, Any] | None) -> None:
        if event is None or self._progress is Progress.DECIDED:
            return
        kind = event.get("type")
        kind = kind if isinstance(kind, str) else ""
        if kind == "content_block_start":
            is_first = self._progress is Progress.OPEN
            self._progress = Progress.BEGUN if is_first and is_empty(event.get("content_block")) else Progress.DECIDED
        elif (
            kind in _DECIDED
            or (kind == "ping" and self._progress is Progress.BEGUN)
            or (kind == "message_delta" and says_why(event))
        ):
            self._progress = Progress.DECIDED
            self.error = event if kind == "error" else None


class HeldDocument:
    """A JSON answer, which says everything at its end."""

    limit = DOCUMENT_BYTES
    is_document = True

    def __init__(self, coding: str = "") -> None:
        self.error: Mapping[str, Any] | None = None
        self.flaw = ""
        self._decoder = Decoder(coding, limit=4 * DOCUMENT_BYTES)
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> Progress:
        """Take the next bytes, still encoded."""
        self._chunks.append(chunk)
        return Progress.OPEN

    def end(self) -> None:
        """The document is whole; one in a coding that cannot be undone is passed on."""
        body = self._decoder.feed(b"".join(self._chunks)).strip()
        self._chunks.clear()
        if self._decoder.broken:
            return
        if len(body) > _PARSED_BYTES:
            is_json = body.startswith((b"{", b"[")) and body.endswith((b"}", b"]"))
        else:
            parsed = parse_json(body)
            is_json = isinstance(parsed, dict | list)
            if isinstance(parsed, dict) and (parsed.get("type") == "error") and isinstance(parsed.get("error"), dict):
                self.error = parsed
        if not is_json:
            self.flaw = "the answer is not JSON" if body else "the answer is empty"


def is_empty(block: object) -> bool:
    """Whether a block has only begun, so that nothing of it would be lost."""
    if not isinstance(block, Mapping):
        return False
    kind = block.get("type")
    name, nothing = _EMPTY.get(kind, ("", None)) if isinstance(kind, str) else ("", None)
    return bool(name) and block.get(name, nothing) == nothing


def says_why(event: Mapping[str, Any]) -> bool:
    """Whether a message_delta tells why the message stopped: then it is an answer, also with no content."""
    delta = event.get("delta")
    return isinstance(delta, Mapping) and delta.get("stop_reason") is not None
