"""Reads what an answer says about itself out of its bytes, as they pass.

Three shapes exist. A JSON body says everything at once. The results of a batch are JSON lines, with a message in
each. A stream (server-sent events) opens with `message_start`, which holds the prompt's tokens, and closes with
`message_delta`, whose numbers are cumulative and final, and `message_stop`. In between come thousands of
`content_block_delta` events that say nothing of use; they are weighed (deltas.py) for the case that the stream breaks
off, and not parsed: 20,000 of them, 2.9 MB, take about 30 ms, spread over the minutes in which they come.

The bytes may be cut anywhere, and there may be any number of them: neither a long stream nor a long document is held.
Nothing here raises on any input.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ccflare_core.anthropic import ids
from ccflare_core.anthropic.deltas import Weight
from ccflare_core.anthropic.usage import Ending, Reading, SoFar, Tally, Usage, value_at
from ccflare_core.http.content_coding import CODECS, Decoder, Trouble
from ccflare_core.http.json_members import Members
from ccflare_core.http.sse import MARKS, Splitter, marked_events, parse_event, parse_json

DOCUMENT_LIMIT = 1024 * 1024
"""Bytes of a document up to which it is held, and parsed as a whole."""

LINE_LIMIT = 8 * 1024 * 1024
PARTS_LIMIT = 100_000
"""What is read of a batch's results: bytes of a line, and messages, of which the API allows as many."""

LINES: Final = frozenset({"application/x-jsonl", "application/jsonl", "application/x-ndjson"})
"""What the results of a batch may be called; the API says the first."""

_EVENTS: Final = (*MARKS, b'"content_block_st')
_MEMBERS: Final = (
    *("type", "id", "model", "usage", "stop_reason", "stop_details", "error"),
    *("input_tokens", "input_transformations", "container", "content", "data"),
)


class UsageReader:
    """Reads one answer: `feed` it the bytes of the wire in any portions, then `close` gives the `Reading`.

    Bodies that are neither JSON nor an event stream (files, for one) are not looked at. `at` is the monotonic time at
    which a portion came.
    """

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        media = content_type.partition(";")[0].strip().lower()
        self._tally = Tally()
        self._weight = Weight()
        self._body: _Body | None = None
        if media == "text/event-stream":
            self._body = _Stream(self._tally, self._weight)
        elif media == "application/json" or media.endswith("+json"):
            self._body = _Document(self._tally)
        elif media in LINES:
            self._body = _Lines(self._tally)
        self._decoder = Decoder(content_encoding, sys.maxsize)

    def feed(self, chunk: bytes, at: float = 0.0) -> None:
        """Take the next bytes as they came over the wire, still encoded."""
        if self._body is not None:
            for piece in self._decoder.pieces(chunk):
                self._body.feed(piece, at)

    def so_far(self) -> SoFar:
        """What is known by now: the prompt once the upstream has told it, and the output as far as it has come."""
        told, tally = dict(self._tally.usage), self._tally
        is_weighed = isinstance(self._body, _Stream) and not tally.has_output and "input_tokens" in told
        if is_weighed:
            told["output_tokens"] = self._weight.passed_tokens
        return SoFar(Usage(**told), is_weighed)

    def close(self, *, cut: bool = False, at: float = 0.0) -> Reading:
        """The reading; `cut` tells that the connection broke before the body's end."""
        tally, trouble = self._tally, self._decoder.trouble
        cut = cut or trouble is Trouble.CORRUPT
        finished = self._body.close(cut or trouble is not None, at) if self._body else not cut
        error = tally.error
        if error is None and trouble and not finished:
            coding = f" ({self._decoder.coding})" if self._decoder.coding in CODECS else ""
            error = f"usage may be incomplete: the body is {trouble}{coding}"
        ending = Ending.TRUNCATED
        if tally.error is not None:
            ending = Ending.ERROR
        elif finished or (trouble and not cut):
            ending = Ending.COMPLETE
        presumed = None
        if isinstance(self._body, _Stream) and not tally.has_output:
            presumed = self._weight.most(at)
        is_estimated = presumed is not None and "input_tokens" in tally.usage
        if is_estimated:
            tally.usage["output_tokens"] = self._weight.output_tokens
        return Reading(
            Usage(**tally.usage),
            tally.model,
            ending,
            error,
            tally.stop_reason,
            tuple(tally.parts),
            tally.extra(),
            tally.message_id,
            tally.refusal,
            tally.input_transformations,
            is_estimated=is_estimated,
            presumed_output=presumed,
            is_readable=trouble is None,
            batches=tuple(tally.batches),
            handed_out=tuple(dict.fromkeys(tally.handed_out)),
        )


class _Body(Protocol):
    def feed(self, data: bytes, at: float) -> None: ...
    def close(self, cut: bool, at: float) -> bool: ...


class _Stream:
    """Server-sent events."""

    def __init__(self, tally: Tally, weight: Weight) -> None:
        self._tally = tally
        self._weight = weight
        self._splitter = Splitter()
        self._stopped = False

    def feed(self, data: bytes, at: float) -> None:
        self._read(self._splitter.feed(data), at)

    def close(self, cut: bool, at: float) -> bool:
        """Whether the last event was seen, which may lack its blank line; then a cut does not matter."""
        rest = self._splitter.rest()
        self._take(parse_event(rest) or {}, at)
        self._weight.add(rest)
        return self._stopped

    def _read(self, events: bytes, at: float) -> None:
        """Whole events. A block begins before its deltas are weighed, and ends after it."""
        parsed = [each for event in marked_events(events, _EVENTS) if (each := parse_event(event)) is not None]
        ends = [each for each in parsed if each.get("type") == "content_block_stop"]
        for each in parsed:
            self._take(each, at)
        self._weight.add(events)
        for each in ends:
            self._weight.end(each, at)

    def _take(self, event: dict[str, Any], at: float) -> None:
        match event.get("type"):
            case "message_start":
                self._tally.take_message(event.get("message"))
            case "message_delta":
                self._tally.take_delta(event)
            case "message_stop":
                self._stopped = True
            case "content_block_start":
                self._weight.begin(event, at)
                self._tally.take_ids(ids.in_block(event.get("content_block")))
            case "error":
                self._tally.take_error(event)


class _Document:
    """One JSON body: a message, a token count, an error, or something that has no usage."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._body = bytearray()
        self._members: Members | None = None

    def feed(self, data: bytes, at: float) -> None:
        if self._members is not None:
            self._members.feed(data)
            return
        self._body += data
        if len(self._body) > DOCUMENT_LIMIT:
            self._members = Members(_MEMBERS)
            self._members.feed(bytes(self._body))
            self._body.clear()

    def close(self, cut: bool, at: float) -> bool:
        """Whether the document was read to its end. An empty one (the answer to HEAD) has its end at once."""
        if self._members is not None:
            self._take(self._members.found)
            return self._members.is_whole
        if not self._body:
            return not cut
        body = parse_json(bytes(self._body))
        if isinstance(body, dict):
            self._take(body)
        return isinstance(body, dict | list)

    def _take(self, body: Mapping[str, Any]) -> None:
        if body.get("type") == "error" or isinstance(body.get("error"), dict):
            self._tally.take_error(body)
            return
        if "usage" in body or body.get("type") == "message":
            self._tally.take_message(body)
            return
        self._tally.take_ids(ids.in_document(body))
        if body.get("type") == "message_batch":
            self._tally.take_batch(body)
            self._tally.message_id = next((batch.id for batch in self._tally.batches), None)
        elif isinstance(listed := body.get("data"), list):
            for each in listed:
                self._tally.take_batch(each)
        else:
            self._tally.take_message({"usage": {"input_tokens": body.get("input_tokens")}})


class _Lines:
    """A batch's results: one JSON object a line, with a message in it if that request succeeded."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rest = bytearray()

    def feed(self, data: bytes, at: float) -> None:
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        # Of a line that is too long only the start is kept, and that is no JSON.
        self._rest += rest[: max(0, LINE_LIMIT + 1 - len(self._rest))]
        for line in lines:
            self._take(line)

    def close(self, cut: bool, at: float) -> bool:
        """Whether the results came whole: nothing in them says which line is the last."""
        self._take(bytes(self._rest))
        return not cut

    def _take(self, line: bytes) -> None:
        if len(line) <= LINE_LIMIT and len(self._tally.parts) < PARTS_LIMIT:
            self._tally.take_part(value_at(parse_json(line), "result", "message"))
