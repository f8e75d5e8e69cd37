"""What a table is written on: how wide it is, whether it takes colours, and which characters it has."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from ccflare_cli.cells import MARK, fold

_ASCII = str.maketrans(
    {
        MARK: "...",
        **dict(zip("–—−·»«„“”’│─", '---.><"""\'|-', strict=True)),
        **dict(zip("█░▁▂▃▄▅▆▇", "#._.-=+*%", strict=True)),
        "→": "->",
        "≥": ">=",
        "≤": "<=",
    }
)
"""What we write beyond ASCII, and what stands for it where it cannot be written."""

_NEEDED = "…–█░▁→·"


class Tone(StrEnum):
    """What a colour tells, by its code."""

    GOOD = "32"
    CARE = "33"
    BAD = "31"
    TITLE = "1"


@dataclass(frozen=True, slots=True)
class Page:
    """A place to write on. Without a width, lines are as long as they get."""

    width: int | None = None
    has_colours: bool = False
    is_ascii: bool = False

    @property
    def mark(self) -> str:
        """What stands where something was cut."""
        return self.plain(MARK)

    def plain(self, text: str) -> str:
        """The text in characters that there are here, as far as it is ours."""
        return text.translate(_ASCII) if self.is_ascii else text

    def folded(self, text: str) -> str:
        """A message in lines that break between words, where the page has an edge.

        What is indented is to be copied, and stays as it is.
        """
        if self.width is None:
            return text
        lines = text.splitlines()
        return "\n".join(each for line in lines for each in ([line] if line[:1] == " " else fold(line, self.width)))

    def tinted(self, text: str, tone: Tone | None) -> str:
        """The text in its colour, if there are any."""
        return f"\x1b[{tone}m{text}\x1b[0m" if tone and text and self.has_colours else text


WHOLE = Page()
"""For what goes on to a file or another program: everything, in one line a row."""


def page_of(stream: TextIO, environ: Mapping[str, str], *, wide: bool = False) -> Page:
    """The page that a stream is. A terminal has a width, unless `wide` is asked for."""
    is_ascii = not _can_write(stream, _NEEDED)
    if not stream.isatty():
        return Page(is_ascii=is_ascii)
    has_colours = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Page(None if wide else _columns(stream, environ), has_colours, is_ascii)


def _columns(stream: TextIO, environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # it only says that it is one
        return shutil.get_terminal_size().columns


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
