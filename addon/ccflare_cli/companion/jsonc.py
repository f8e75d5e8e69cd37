"""JSON with comments, and where in the text each value stands. Pure.

A path leads through objects by names, and by an Element to the object of that "name" in an array, whose "value" it
means: so VS Code keeps variables. All raise ValueError for a text that is no such JSON, with the line.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple


class Element(str):
    """A step to the object of this name in an array."""

    __slots__ = ()


type Path = Sequence[str]

MISSING: Final = object()
"""What is at a path that leads nowhere."""

_DEPTH = 100
_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_DECODER = json.JSONDecoder()


class Child(NamedTuple):
    """A member of an object or an element of an array."""

    name: str | None
    start: int
    node: "Node"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands."""

    start: int
    end: int
    value: object
    children: tuple[Child, ...] = ()

    def child(self, step: str) -> Child | None:
        """Where a step leads from here. Raises ValueError if this is nothing that such a step can leave."""
        wanted, kind = (list, "an array") if isinstance(step, Element) else (dict, "an object")
        if not isinstance(self.value, wanted):
            raise ValueError(f"what should hold {step} is not {kind}")
        return next((each for each in self.children if each.name == step), None)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> Node | None:
        self._skip()
        if self._at == len(self._text):
            return None
        node = self._node(0)
        self._skip()
        if self._at != len(self._text):
            raise self._wrong()
        return node

    def _node(self, depth: int) -> Node:
        if depth > _DEPTH:
            raise self._wrong()
        if self._peek() == "{":
            return self._container("}", depth, is_object=True)
        if self._peek() == "[":
            return self._container("]", depth, is_object=False)
        start = self._at
        value = self._scalar()
        return Node(start, self._at, value)

    def _scalar(self) -> object:
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
        except (ValueError, RecursionError):
            raise self._wrong() from None
        return value

    def _container(self, closing: str, depth: int, *, is_object: bool) -> Node:
        start, children = self._at, list[Child]()
        self._at += 1
        self._skip()
        while self._peek() != closing:
            children.append(self._child(depth, is_object=is_object))
            self._skip()
            if self._peek() == ",":
                self._at += 1
                self._skip()
            elif self._peek() != closing:
                raise self._wrong()
        self._at += 1
        values = [each.node.value for each in children]
        if not is_object:
            return Node(start, self._at, values, tuple(children))
        names = [each.name or "" for each in children]
        if len(set(names)) < len(names):
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
        return Node(start, self._at, dict(zip(names, values, strict=True)), tuple(children))

    def _child(self, depth: int, *, is_object: bool) -> Child:
        start = self._at
        if not is_object:
            node = self._node(depth + 1)
            name = node.value.get("name") if isinstance(node.value, dict) else None
            return Child(name if isinstance(name, str) else None, start, node)
        name = self._scalar() if self._peek() == '"' else None
        self._skip()
        if not isinstance(name, str) or self._peek() != ":":
            raise self._wrong()
        self._at += 1
        self._skip()
        return Child(name, start, self._node(depth + 1))

    def _skip(self) -> None:
        self._at = after_blank(self._text, self._at)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _wrong(self) -> ValueError:
        return ValueError(f"line {self._text.count(chr(10), 0, self._at) + 1} is not JSON")


def after_blank(text: str, at: int) -> int:
    """Where blanks and comments end that begin there."""
    found = _BLANK.match(text, at)
    return found.end() if found else at


def parse(text: str) -> Node | None:
    """What the text holds; None for nothing but blanks and comments."""
    return _Reader(text).document()


def value_at(text: str, path: Path) -> object:
    """The value that a path leads to, or MISSING."""
    node = parse(text)
    for step in path:
        child = node.child(step) if node else None
        if child is None:
            return MISSING
        node = child.node
    if node is None:
        return MISSING
    return (
        node.value.get("value")
        if path and isinstance(path[-1], Element) and isinstance(node.value, dict)
        else node.value
    )
