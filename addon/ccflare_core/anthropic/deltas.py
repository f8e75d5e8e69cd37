"""How much a stream had said before it broke off: the only measure of its output while no count has come. Pure.

Two measures are taken. What a person reads, text and thinking, is what Claude Code itself puts down for a stream that
was cut. What was paid for is more: a tool's input, citations, and thinking that is not shown, of which there is
nothing but the time that it took.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from ccflare_core.http.sse import BLANK, parse_event

CHARACTERS_PER_TOKEN = 3
TOKENS_PER_SECOND = 50
"""Of thinking that is not shown: one in 20 ms."""

_MARK: Final = b'"content_block_delta"'
_USUAL = re.compile(
    rb'"type":"content_block_delta","index":(\d{1,9}),"delta":\{"type":"(\w{1,40})","\w{1,40}":"([^"\\]*+(?:\\.[^"\\]*+)*+)"\}',
    re.DOTALL,
)
"""As the API writes them; where one is written otherwise, all events of its portion are parsed."""

_READ: Final = {"text_delta", "thinking_delta"}
_THINKING: Final = {"thinking", "redacted_thinking"}


class Weight:
    """What the deltas of one stream come to. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._read = 0
        self._all = 0
        self._hidden = 0.0
        self._begun: dict[object, float] = {}
        """When the blocks of thinking began of which nothing was shown."""

    @property
    def output_tokens(self) -> int:
        """What Claude Code counts: text and thinking, a third of their characters."""
        return round(self._read / CHARACTERS_PER_TOKEN)

    @property
    def passed_tokens(self) -> int:
        """What has come by now: also a tool's input and citations, which Claude Code leaves out."""
        return round(self._all / CHARACTERS_PER_TOKEN)

    def most(self, at: float) -> int:
        """The tokens of everything that came, and of the thinking behind it up to `at`."""
        hidden = self._hidden + sum(at - begun for begun in self._begun.values())
        return round(self._all / CHARACTERS_PER_TOKEN + hidden * TOKENS_PER_SECOND)

    def begin(self, event: dict[str, Any], at: float) -> None:
        """A `content_block_start`."""
        block = event.get("content_block")
        if isinstance(block, dict) and block.get("type") in _THINKING:
            self._begun[_index(event)] = at

    def end(self, event: dict[str, Any], at: float) -> None:
        """A `content_block_stop`."""
        begun = self._begun.pop(_index(event), None)
        self._hidden += 0 if begun is None else at - begun

    def add(self, events: bytes) -> None:
        """Weigh the deltas among these whole events."""
        number = events.count(_MARK)
        if not number:
            return
        usual = _USUAL.findall(events)
        if len(usual) == number:
            self._add_usual(usual)
            return
        for event in _parsed(events):
            delta = event.get("delta")
            if event.get("type") == "content_block_delta" and isinstance(delta, dict):
                self._weigh(_index(event), str(delta.get("type")), _characters(delta))

    def _add_usual(self, deltas: list[tuple[bytes, bytes, bytes]]) -> None:
        """Index, kind and text of each. Texts are counted together, which takes a quarter of the time."""
        texts: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for index, kind, inside in deltas:
            texts[kind].append(inside)
            if self._begun and inside and kind == b"thinking_delta":
                self._begun.pop(int(index), None)
        for kind, pieces in texts.items():
            self._weigh(None, kind.decode(), _length(b"".join(pieces)))

    def _weigh(self, index: object, kind: str, characters: int) -> None:
        self._all += characters
        if kind in _READ:
            self._read += characters
        if kind == "thinking_delta" and characters:
            self._begun.pop(index, None)


def _index(event: dict[str, Any]) -> object:
    index = event.get("index")
    return index if isinstance(index, int) else None


def _parsed(events: bytes) -> Iterator[dict[str, Any]]:
    for event in events.split(BLANK):
        if _MARK in event and (parsed := parse_event(event)) is not None:
            yield parsed


def _characters(delta: dict[str, Any]) -> int:
    """Those of every text in a delta, but not of the words that say what it is."""
    try:
        return _said(delta)
    except RecursionError:
        return 0


def _said(value: object, name: str = "") -> int:
    if isinstance(value, str):
        return 0 if name == "type" else _units(value)
    if isinstance(value, dict):
        return sum(_said(each, key) for key, each in value.items())
    return sum(_said(each) for each in value) if isinstance(value, list) else 0


def _length(inside: bytes) -> int:
    """The characters of a JSON string with this between its quotes."""
    if b"\\" not in inside and inside.isascii():
        return len(inside)
    try:
        return _units(json.loads(b'"%s"' % inside))
    except ValueError:
        return len(inside)


def _units(text: str) -> int:
    """Characters as JavaScript counts them, in which Claude Code is written: those beyond U+FFFF are two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
