"""Text on a terminal: how wide it is there, and how it is made to fit.

Widths are columns of the terminal: a character of Chinese, Japanese or Korean takes two, a combining accent none.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

MARK = "…"
"""Stands where something was cut. A terminal without it gets three dots, so whatever cuts is told what to put."""

_WORD = re.compile(r"(?:\d\S* (?=%|[A-Za-z]{1,3}\b))?\S+\s*|\s+")
"""What no line breaks in, with the blanks behind it: a number stays with its unit."""
_JOINT = re.compile(r"[^/,;:=._-]*[/,;:=._-]+")
"""A piece of a long word, up to where one would break it: paths, addresses, ids."""

Fit = Callable[[str, int, str], list[str]]
"""Makes a text fit: itself, the width, the mark of a cut; the lines of it."""


def width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, to: int, mark: str = MARK) -> list[str]:
    """One line, cut at its end."""
    return [text if width(text) <= to else _head(text, to - width(mark)).rstrip() + mark]


def shorten(text: str, to: int, mark: str = MARK) -> list[str]:
    """One line without its middle: the ends of names and ids tell them apart."""
    if width(text) <= to:
        return [text]
    room = max(0, to - width(mark))
    tail = _head(text[::-1], room // 2)[::-1]
    return [_head(text, room - width(tail)) + mark + tail]


def wrap(text: str, to: int, mark: str = MARK, *, most: int | None = None) -> list[str]:
    """Lines that break between words, or where a word is too long for a line; at most so many of them."""
    lines = [""]
    for word in _WORD.findall(text):
        for piece in _pieces(word, to):
            if width(lines[-1] + piece.rstrip()) <= to:
                lines[-1] += piece
            else:
                lines.append(piece)
    lines = [line.rstrip() for line in lines]
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], *cut(f"{lines[most - 1]} {lines[most]}", to, mark)]
    return lines


def fold(text: str, to: int) -> list[str]:
    """Lines that break between words alone: what is longer than a line, such as a path, can still be copied."""
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1].strip() and width(lines[-1] + word.rstrip()) > to:
            lines.append(word)
        else:
            lines[-1] += word
    return [line.rstrip() for line in lines]


def _pieces(word: str, to: int) -> list[str]:
    """The word, in as many pieces as it takes for each to fit."""
    if width(word.rstrip()) <= to:
        return [word]
    pieces = []
    for joint in [*_JOINT.findall(word), _JOINT.sub("", word)]:
        while width(joint.rstrip()) > to:
            head = _head(joint, to) or joint[0]
            pieces.append(head)
            joint = joint[len(head) :]
        pieces.append(joint)
    return pieces


def _head(text: str, to: int) -> str:
    """As much of the beginning as fits."""
    taken = 0
    for at, char in enumerate(text):
        taken += _width(char)
        if taken > to:
            return text[:at]
    return text


class Way(NamedTuple):
    """How a column gives way where there is not enough room for it, and down to which width."""

    least: int
    fit: Fit


def wrapped(least: int, most: int | None = None) -> Way:
    """Over several lines, at most so many."""
    return Way(least, partial(wrap, most=most))


def shortened(least: int) -> Way:
    """In the middle."""
    return Way(least, shorten)


def clipped(least: int) -> Way:
    """At the end."""
    return Way(least, cut)
