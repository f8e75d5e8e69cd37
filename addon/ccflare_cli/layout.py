"""Columns that give way until a table fits: what matters least gives first, and nothing is left out before it must.

In this order, and no further than it takes: headings break between their words; columns take their brief form; columns
go beneath others; the least important ones are left out; what can wrap or be shortened does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from ccflare_cli.cells import Way, width, wrap
from ccflare_cli.page import Page, Tone

_GAP = "  "


class Column[Row](NamedTuple):
    """What people see of a row under one heading, and how that gives way on a narrow page."""

    heading: str
    show: Callable[[Row], str]
    right: bool = False
    rank: int = 0
    """0: always shown. Of the others the highest are the first to be left out, equal ones together."""
    way: Way | None = None
    """None: never narrower than it is."""
    brief: Callable[[Row], str] | None = None
    """What will do where room is scarce."""
    under: str = ""
    """The heading of the column beneath which it goes where room is scarce."""
    tone: Callable[[Row], Tone | None] | None = None
    legend: str = ""
    """A sentence about it that stands beneath the table, unless the column is left out."""


class Grid(NamedTuple):
    """A table's lines, and the headings of what is not in them."""

    lines: list[str]
    left_out: list[str]


class _Piece(NamedTuple):
    """A line of a cell, in its colour."""

    text: str
    tone: Tone | None = None


@dataclass(frozen=True)
class _Layer:
    """A column's cells, one a row."""

    column: Column[Any]
    cells: list[str]
    tones: list[Tone | None]
    breaks_heading: bool = False

    @cached_property
    def width(self) -> int:
        """What it takes if nothing of it gives way."""
        return max([self._heading, *map(width, self.cells)])

    @cached_property
    def least(self) -> int:
        """How narrow it can be."""
        way = self.column.way
        return self.width if way is None else min(self.width, max(way.least, self._heading))

    @property
    def _heading(self) -> int:
        words = self.column.heading.split() if self.breaks_heading else [self.column.heading]
        return max(map(width, words), default=0)

    def pieces(self, row: int, to: int, mark: str) -> list[_Piece]:
        """A cell in this width."""
        way, cell = self.column.way, self.cells[row]
        lines = [cell] if way is None else way.fit(cell, to, mark)
        return [_Piece(line, self.tones[row]) for line in lines]


@dataclass(frozen=True)
class _Track:
    """A column of the page: one of the table's, with others beneath it or not."""

    layers: tuple[_Layer, ...]

    @property
    def column(self) -> Column[Any]:
        return self.layers[0].column

    @cached_property
    def width(self) -> int:
        """What it takes if nothing of it gives way."""
        return max(layer.width for layer in self.layers)

    @cached_property
    def least(self) -> int:
        """How narrow it can be."""
        return max(layer.least for layer in self.layers)

    def head(self, to: int) -> list[_Piece]:
        """Its headings in this width."""
        return [_Piece(line) for layer in self.layers for line in wrap(layer.column.heading, max(to, 1))]

    def cell(self, row: int, to: int, mark: str) -> list[_Piece]:
        """Its cells of a row in this width. Beneath others nothing takes no line."""
        first, *below = self.layers
        pieces = first.pieces(row, to, mark)
        return pieces + [piece for layer in below if layer.cells[row] for piece in layer.pieces(row, to, mark)]


Cells = Callable[[Callable[[Any], str]], list[str]]


def lay_out[Row](columns: Sequence[Column[Row]], rows: Sequence[Row], page: Page, safe: Callable[[str], str]) -> Grid:
    """The table with its headings. `safe` makes a text one that can be printed."""

    def cells(show: Callable[[Row], str]) -> list[str]:
        return [page.plain(safe(show(row))) for row in rows]

    def tones(column: Column[Row]) -> list[Tone | None]:
        return [column.tone(row) if column.tone else None for row in rows]

    tracks = [_Track((_Layer(column, cells(column.show), tones(column)),)) for column in columns]
    left_out: list[str] = []
    if page.width is not None and not _fits(tracks, page.width):
        tracks, left_out = _narrowed(tracks, page.width, cells)
    widths = _widths(tracks, page.width)
    lines = _head(tracks, widths, page)
    for row in range(len(rows)):
        pieces = [track.cell(row, to, page.mark) for track, to in zip(tracks, widths, strict=True)]
        lines += _row(tracks, pieces, widths, page)
    return Grid(lines, left_out)


# What gives way


def _narrowed(tracks: list[_Track], room: int, cells: Cells) -> tuple[list[_Track], list[str]]:
    """What is shown of the columns in that room, and the headings of those that had to be left out."""
    tracks = [_Track((replace(track.layers[0], breaks_heading=True),)) for track in tracks]
    for track in _by_rank(tracks):
        if track.column.brief and not _fits(tracks, room):
            briefer = _Track((replace(track.layers[0], cells=cells(track.column.brief)),))
            tracks = [briefer if each is track else each for each in tracks]
    for track in _by_rank(tracks):
        if track.column.under and not _fits(tracks, room):
            tracks = _beneath(tracks, track)
    left_out: list[_Track] = []
    while _total(each.least for each in tracks) > room and (rank := max(each.column.rank for each in tracks)):
        left_out += [each for each in tracks if each.column.rank == rank]
        tracks = [each for each in tracks if each.column.rank != rank]
    return tracks, list(dict.fromkeys(layer.column.heading for track in left_out for layer in track.layers))


def _by_rank(tracks: list[_Track]) -> list[_Track]:
    """What gives way first comes first; of equals, what stands further to the right."""
    places = range(len(tracks) - 1, -1, -1)
    return [tracks[at] for at in sorted(places, key=lambda at: -tracks[at].column.rank)]


def _beneath(tracks: list[_Track], track: _Track) -> list[_Track]:
    """The same with this column beneath the one that it names."""
    host = next((each for each in tracks if each.column.heading == track.column.under), None)
    if host is None:
        return tracks
    joined = _Track((*host.layers, *track.layers))
    return [joined if each is host else each for each in tracks if each is not track]


def _fits(tracks: list[_Track], room: int) -> bool:
    return _total(track.width for track in tracks) <= room


def _total(widths: Iterable[int]) -> int:
    found = [*widths]
    return sum(found) + len(_GAP) * (len(found) - 1)


def _widths(tracks: list[_Track], room: int | None) -> list[int]:
    """What each gets: of those that can be narrower, always the widest one gives."""
    widths = [track.width for track in tracks]
    while room is not None and _total(widths) > room:
        spare = [(widths[at], at) for at, track in enumerate(tracks) if widths[at] > track.least]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


# What is written


def _head(tracks: list[_Track], widths: list[int], page: Page) -> list[str]:
    if not any(track.column.heading for track in tracks):
        return []
    heads = [track.head(to) for track, to in zip(tracks, widths, strict=True)]
    height = max(map(len, heads))
    heads = [[_Piece("")] * (height - len(head)) + head for head in heads]
    return [*_row(tracks, heads, widths, page), _GAP.join("-" * each for each in widths)]


def _row(tracks: list[_Track], cells: list[list[_Piece]], widths: list[int], page: Page) -> list[str]:
    """The lines of one row."""
    lines = []
    for number in range(max(map(len, cells))):
        pieces = [cell[number] if number < len(cell) else _Piece("") for cell in cells]
        texts = [_padded(*each, page) for each in zip(tracks, pieces, widths, strict=True)]
        lines.append(_GAP.join(texts).rstrip())
    return lines


def _padded(track: _Track, piece: _Piece, to: int, page: Page) -> str:
    blanks = " " * (to - width(piece.text))
    text = page.tinted(piece.text, piece.tone)
    return blanks + text if track.column.right else text + blanks
