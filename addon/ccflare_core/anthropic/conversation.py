"""Recorded bodies as a conversation: who said what, which tools were called, what they gave. Pure, and never raises.

Both bodies come from outside, and nothing in them is taken for granted: what has an unknown type is shown as such, what
has a wrong one is left out. What was cut, a stream or a document, gives what had come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ccflare_core.anthropic.blocks import (
    DELTAS,
    Block,
    Part,
    as_json,
    citation,
    object_of,
    objects,
    parts,
    text_of,
    unknown,
)
from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.cut_json import parse_cut
from ccflare_core.http.sse import BLANK, Splitter, parse_event, parse_json

CONTENT_LIMIT = 64 * 1024 * 1024
"""Decoded bytes of a body."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says at a time: user, assistant, system; `error` is the upstream's."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `tools` are names; `tools_size` is in characters of JSON."""

    model: str | None
    turns: tuple[Turn, ...]
    tools: tuple[str, ...]
    tools_size: int = 0


def read_request(body: bytes, content_encoding: str = "") -> Request:
    """The conversation in a request's body; empty if there is none in it."""
    content = object_of(parse_cut(decoded(body, content_encoding)))
    turns = [Turn("system", said)] if (said := tuple(parts(content.get("system")))) else []
    turns += [
        Turn(text_of(message.get("role")) or "?", tuple(parts(message.get("content"))))
        for message in objects(content.get("messages"))
    ]
    tools = objects(content.get("tools"))
    names = tuple(name for tool in tools if (name := text_of(tool.get("name"))))
    return Request(text_of(content.get("model")) or None, tuple(turns), names, _size(tools))


def _size(tools: list[Block]) -> int:
    try:
        return len(json.dumps(tools, ensure_ascii=False)) if tools else 0
    except RecursionError:
        return 0


def read_answer(body: bytes, content_type: str, content_encoding: str = "") -> tuple[Turn, ...]:
    """The turns in an answer: the assistant's, and the error's if there was one."""
    text = decoded(body, content_encoding)
    if content_type.startswith("text/event-stream"):
        return tuple(_stream(text))
    return tuple(_document(object_of(parse_cut(text))))


def decoded(body: bytes, content_encoding: str) -> bytes:
    """The body without its content coding, as far as that can be undone."""
    return Decoder(content_encoding, CONTENT_LIMIT).feed(body)


def _document(content: Mapping[str, Any]) -> Iterator[Turn]:
    if said := tuple(parts(content.get("content"))):
        yield Turn(text_of(content.get("role")) or "assistant", said)
    if error := object_of(content.get("error")):
        yield _error(error)


def _stream(body: bytes) -> Iterator[Turn]:
    splitter, blocks, errors = Splitter(), dict[int, _Block](), list[Turn]()
    events = [*splitter.feed(body).split(BLANK), splitter.rest()]
    for event in map(parse_event, events):
        if event is None:
            continue
        index = event.get("index")
        if event.get("type") == "content_block_start" and isinstance(index, int):
            blocks[index] = _Block(object_of(event.get("content_block")))
        elif event.get("type") == "content_block_delta" and isinstance(index, int) and index in blocks:
            blocks[index].add(object_of(event.get("delta")))
        elif event.get("type") == "error":
            errors.append(_error(object_of(event.get("error"))))
    if said := tuple(part for index in sorted(blocks) for part in blocks[index].parts()):
        yield Turn("assistant", said)
    yield from errors


class _Block:
    """A content block that comes in pieces."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._start = start
        self._pieces: list[str] = []
        self._citations: list[str] = []
        self._others: list[Part] = []

    def add(self, delta: Mapping[str, Any]) -> None:
        kind = text_of(delta.get("type"))
        if kind == "citations_delta":
            self._citations.append(citation(object_of(delta.get("citation"))))
        elif kind not in DELTAS:
            self._others.append(Part(kind or "?", unknown(delta)))
        elif name := DELTAS[kind]:
            self._pieces.append(text_of(delta.get(name)))

    def parts(self) -> Iterator[Part]:
        for part in parts([self._start]):
            begun = "" if part.text == "{}" else part.text  # the input of a call begins as an empty object
            text = begun + "".join(self._pieces)
            text = _pretty(text) if part.kind.endswith("tool_use") else text
            yield part._replace(text="\n".join([*([text] if text else []), *self._citations]))
        yield from self._others


def _error(error: Mapping[str, Any]) -> Turn:
    text = ": ".join(filter(None, (text_of(error.get("type")), text_of(error.get("message")))))
    return Turn("error", (Part("text", text or "an error without words"),))


def _pretty(text: str) -> str:
    """A call's input as it came, or with its lines apart if it is whole."""
    parsed = parse_json(text.encode("utf-8", "replace"))
    return text if parsed is None else as_json(parsed)
