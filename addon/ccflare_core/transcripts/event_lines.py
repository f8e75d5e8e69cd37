"""An event stream as people read it: a line for each event, with when it came. Pure, and never raises.

Deltas that follow each other are one line, as what they say belongs together.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ccflare_core.anthropic.blocks import Block, object_of, text_of
from ccflare_core.anthropic.conversation import CONTENT_LIMIT
from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.sse import parse_event
from ccflare_core.text import size
from ccflare_core.transcripts.visible import visible

LINES = 4000
"""How many there are at most."""

_TEXT = 200
"""Characters of what an event says."""
_END: Final = re.compile(rb"\n\n|\r\n\r\n|\r\r")

type Arrivals = Sequence[tuple[int, float]]
"""How many bytes of the body were there at which time, in seconds since the head."""


class _Event(NamedTuple):
    at: float | None
    content: Mapping[str, Any] | None
    """None: it is no event that can be read."""
    raw: bytes


@dataclass(slots=True)
class _Line:
    """An event, or deltas that follow each other: of the later ones only what they say is kept."""

    first: _Event
    last_at: float | None
    key: tuple[str, str] | None
    """What the deltas add to; None for another event."""
    said: list[str]


def event_lines(body: bytes, content_encoding: str = "", arrivals: Arrivals = ()) -> Iterator[str]:
    """The time since the head in seconds, that since the event before, and what the event says. Errors have a ✗."""
    content, came = _decoded(body, content_encoding, arrivals)
    last: float | None = 0.0 if came else None
    for number, line in enumerate(_joined(_events(content, came))):
        if number >= LINES:
            yield "… and more"
            return
        at = line.first.at
        yield f"{_seconds(at)} {_seconds(_gap(at, last), '+')}  {_deltas(line) if line.key else _told(line.first)}"
        last = line.last_at


def _decoded(body: bytes, coding: str, arrivals: Arrivals) -> tuple[bytes, Arrivals]:
    """The body without its coding, and how much of that was there at which time."""
    decoder, pieces, came, at, total = Decoder(coding, CONTENT_LIMIT), list[bytes](), list[tuple[int, float]](), 0, 0
    for end, moment in [*arrivals, (len(body), arrivals[-1][1] if arrivals else 0.0)]:
        pieces.append(decoder.feed(body[at:end]))
        at, total = end, total + len(pieces[-1])
        came.append((total, moment))
    return b"".join(pieces), came if arrivals else ()


def _events(content: bytes, came: Arrivals) -> Iterator[_Event]:
    ends = [end for end, _ in came]

    def event(start: int, end: int) -> _Event:
        raw = content[start:end].replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(b"\n")
        index = min(bisect_left(ends, end), len(came) - 1)
        return _Event(came[index][1] if came else None, parse_event(raw), raw)

    at = 0
    for found in _END.finditer(content):
        if content[at : found.start()].strip():
            yield event(at, found.end())
        at = found.end()
    if content[at:].strip():
        yield event(at, len(content))


def _joined(events: Iterator[_Event]) -> Iterator[_Line]:
    """The events, with deltas of one kind for one block in one line."""
    line: _Line | None = None
    for event in events:
        key = _key(event)
        said = _said(object_of((event.content or {}).get("delta"))) if key else ""
        if line is not None and key and key == line.key:
            line.last_at = event.at
            line.said.append(said)
            continue
        if line is not None:
            yield line
        line = _Line(event, event.at, key, [said])
    if line is not None:
        yield line


def _key(event: _Event) -> tuple[str, str] | None:
    """What a delta adds to; None for another event."""
    content = event.content
    if content is None or content.get("type") != "content_block_delta":
        return None
    return _index(content), text_of(object_of(content.get("delta")).get("type"))


def _index(content: Block) -> str:
    index = content.get("index")
    return _shown(str(index)) if isinstance(index, int) else "?"


def _told(event: _Event) -> str:
    content = event.content
    if content is None:
        return f"✗ no event that can be read, {size(len(event.raw))}: {_shown(event.raw.decode('utf-8', 'replace'))}"
    kind = _shown(text_of(content.get("type")) or "?")
    match kind:
        case "error":
            error = object_of(content.get("error"))
            return f"✗ error {_shown(': '.join(filter(None, map(text_of, (error.get('type'), error.get('message'))))))}"
        case "message_start":
            message = object_of(content.get("message"))
            said = " ".join(filter(None, (text_of(message.get("id")), text_of(message.get("model")))))
            return f"{kind} {_shown(said)}{_usage(message)}"
        case "content_block_start":
            block = object_of(content.get("content_block"))
            said = " ".join(filter(None, (text_of(block.get(name)) for name in ("type", "name", "id"))))
            return f"{kind} {_index(content)} {_shown(said)}"
        case "content_block_stop":
            return f"{kind} {_index(content)}"
        case "message_delta":
            return f"{kind} {_shown(text_of(object_of(content.get('delta')).get('stop_reason')))}{_usage(content)}"
    rest = {name: value for name, value in content.items() if name != "type"}
    return f"{kind} {_json(rest)}" if rest else kind


def _deltas(line: _Line) -> str:
    """`content_block_delta 0 text_delta × 214, 3.2 kB in 2.310 s: Hello…`."""
    index, kind = line.key or ("", "")
    text, count = "".join(line.said), len(line.said)
    times = f" × {count}" if count > 1 else ""
    took = _gap(line.last_at, line.first.at)
    during = f" in {took:.3f} s" if took and count > 1 else ""
    return f"content_block_delta {index} {_shown(kind)}{times}, {_length(text)}{during}: {_shown(text)}"


def _said(delta: Block) -> str:
    """All the texts of a delta."""
    texts = [value for name, value in delta.items() if name != "type" and isinstance(value, str)]
    return "".join(texts) if texts else _json({name: value for name, value in delta.items() if name != "type"})


def _usage(of: Block) -> str:
    """The counts of tokens that are no 0."""
    usage = object_of(of.get("usage"))
    counts = [f"{name.removesuffix('_tokens')} {count:,}" for name, count in usage.items() if _is_count(count)]
    return f", {_shown(', '.join(counts))}" if counts else ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**12


def _json(value: object) -> str:
    try:
        return _shown(json.dumps(value, ensure_ascii=False)) if value else ""
    except (ValueError, RecursionError):
        return "?"


def _length(text: str) -> str:
    return size(len(text.encode("utf-8", "replace")))


def _shown(text: str) -> str:
    """At most `_TEXT` characters in one line."""
    cut = text[:_TEXT].replace("\n", "⏎")
    return visible(cut) + "…" * (len(text) > _TEXT)


def _gap(at: float | None, last: float | None) -> float | None:
    return None if at is None or last is None else max(0.0, at - last)


def _seconds(value: float | None, sign: str = "") -> str:
    return f"{'–':>10}" if value is None else f"{f'{sign}{value:.3f} s':>10}"
