"""Recorded bodies as a conversation: who said what, which tools were called, what they gave. Pure, and never raises.

Both bodies come from outside, and nothing in them is taken for granted: what has an unknown type is shown as such, what
has a wrong one is left out. A stream that was cut gives what had come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.sse import BLANK, Splitter, parse_event, parse_json

CONTENT_LIMIT = 64 * 1024 * 1024
"""Decoded bytes of a body."""

_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "citations_delta": "",
    "signature_delta": "",
}
"""What adds to a block's text, and the field in which it does."""


class Part(NamedTuple):
    """A piece of a turn.

    `kind` is the API's own word: text, thinking, tool_use, tool_result, image and so on. `name` is a tool's name,
    `id` what connects its call with its result.
    """

    kind: str
    text: str = ""
    name: str = ""
    id: str = ""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says at a time: user, assistant, system; `error` is the upstream's."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `tools` are names."""

    model: str | None
    turns: tuple[Turn, ...]
    tools: tuple[str, ...]


def read_request(body: bytes, content_encoding: str = "") -> Request:
    """The conversation in a request's body; empty if there is none in it."""
    content = _object(parse_json(decoded(body, content_encoding)))
    turns = [Turn("system", parts)] if (parts := tuple(_parts(content.get("system")))) else []
    turns += [
        Turn(_text(message.get("role")) or "?", tuple(_parts(message.get("content"))))
        for message in _objects(content.get("messages"))
    ]
    tools = (_text(tool.get("name")) for tool in _objects(content.get("tools")))
    return Request(_text(content.get("model")) or None, tuple(turns), tuple(name for name in tools if name))


def read_answer(body: bytes, content_type: str, content_encoding: str = "") -> tuple[Turn, ...]:
    """The turns in an answer: the assistant's, and the error's if there was one."""
    text = decoded(body, content_encoding)
    if content_type.startswith("text/event-stream"):
        return tuple(_stream(text))
    return tuple(_document(_object(parse_json(text))))


def decoded(body: bytes, content_encoding: str) -> bytes:
    """The body without its content coding, as far as that can be undone."""
    return Decoder(content_encoding, CONTENT_LIMIT).feed(body)


def _document(content: Mapping[str, Any]) -> Iterator[Turn]:
    if parts := tuple(_parts(content.get("content"))):
        yield Turn(_text(content.get("role")) or "assistant", parts)
    if error := _object(content.get("error")):
        yield _error(error)


def _stream(body: bytes) -> Iterator[Turn]:
    splitter, blocks, errors = Splitter(), dict[int, _Block](), list[Turn]()
    events = [*splitter.feed(body).split(BLANK), splitter.rest()]
    for event in map(parse_event, events):
        if event is None:
            continue
        index = event.get("index")
        if event.get("type") == "content_block_start" and isinstance(index, int):
            blocks[index] = _Block(_object(event.get("content_block")))
        elif event.get("type") == "content_block_delta" and isinstance(index, int) and index in blocks:
            blocks[index].add(_object(event.get("delta")))
        elif event.get("type") == "error":
            errors.append(_error(_object(event.get("error"))))
    if parts := tuple(part for index in sorted(blocks) for part in blocks[index].parts()):
        yield Turn("assistant", parts)
    yield from errors


class _Block:
    """A content block that comes in pieces."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._start = start
        self._pieces: list[str] = []

    def add(self, delta: Mapping[str, Any]) -> None:
        name = _DELTAS.get(_text(delta.get("type")), "")
        if name and (piece := _text(delta.get(name))):
            self._pieces.append(piece)

    def parts(self) -> Iterator[Part]:
        for part in _parts([self._start]):
            begun = "" if part.text == "{}" else part.text  # the input of a call begins as an empty object
            text = begun + "".join(self._pieces)
            yield part._replace(text=_pretty(text) if part.kind.endswith("tool_use") else text)


def _error(error: Mapping[str, Any]) -> Turn:
    text = ": ".join(filter(None, (_text(error.get("type")), _text(error.get("message")))))
    return Turn("error", (Part("text", text or "an error without words"),))


def _parts(content: object) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield Part("text", content)
        return
    for block in _objects(content):
        kind = _text(block.get("type")) or "?"
        name, id_ = _text(block.get("name")), _text(block.get("id")) or _text(block.get("tool_use_id"))
        yield Part(kind, _shown(kind, block), name, id_, block.get("is_error") is True)


def _shown(kind: str, block: Mapping[str, Any]) -> str:
    """What there is to read in a content block."""
    match kind:
        case "text":
            return _text(block.get("text"))
        case "thinking":
            return _text(block.get("thinking"))
        case "redacted_thinking":
            return ""
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            return _json(block.get("input"))
        case "image" | "document":
            return _source(_object(block.get("source")))
        case _ if kind.endswith("_result"):
            return _result(block.get("content"))
        case _:
            return _json({name: value for name, value in block.items() if name not in ("type", "cache_control")})


def _result(content: object) -> str:
    if isinstance(content, dict):
        return _json(content)
    return "\n".join(part.text or f"[{part.kind}]" for part in _parts(content))


def _source(source: Mapping[str, Any]) -> str:
    if url := _text(source.get("url")):
        return url
    if text := _text(source.get("text")) or (_text(source.get("data")) if source.get("type") == "text" else ""):
        return text
    size = len(_text(source.get("data"))) * 3 // 4
    return f"[{_text(source.get('media_type')) or 'file'}, {size:,} bytes]"


def _pretty(text: str) -> str:
    """A call's input as it came, or with its lines apart if it is whole."""
    parsed = parse_json(text.encode("utf-8", "replace"))
    return text if parsed is None else _json(parsed)


def _json(value: object) -> str:
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, indent=None if value in ({}, []) else 2)
    except (ValueError, RecursionError):
        return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
