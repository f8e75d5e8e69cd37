"""Rows as people and programs want them: numbers in words, and one table in four formats.

What programs read (JSON, CSV) and what people read (table, Markdown) are kept apart: the first gets whole
numbers, seconds and ISO times under stable names, the second gets `1 h 12 min`, `$0.0123` and bars.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ccflare_cli.cells import shorten, wrap, wrapped
from ccflare_cli.layout import Column as Column
from ccflare_cli.layout import Grid, lay_out
from ccflare_cli.page import WHOLE, Page, Tone
from ccflare_core.reports.fields import named as named
from ccflare_core.reports.fields import record
from ccflare_core.reports.figures import DASH as DASH
from ccflare_core.reports.figures import count as count
from ccflare_core.reports.figures import duration as duration
from ccflare_core.reports.figures import local as local
from ccflare_core.reports.figures import moment as moment
from ccflare_core.reports.figures import money as money
from ccflare_core.reports.figures import percent as percent
from ccflare_core.reports.figures import short_model as short_model
from ccflare_core.text import iso as iso
from ccflare_core.text import some as some

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True, slots=True)
class Table[Row]:
    """Rows with their two faces: `fields` (name, getter) for programs, `columns` for people."""

    key: str
    title: str
    rows: Sequence[Row]
    fields: Sequence[tuple[str, Callable[[Row], object]]]
    columns: Sequence[Column[Row]]
    empty: str = "Nothing to show."
    note: str = ""
    upright: bool = False
    """There is one row, shown as one line for each of its columns."""

    def records(self) -> list[dict[str, object]]:
        """The rows as JSON-ready dicts."""
        return [record(row, self.fields) for row in self.rows]


def render(tables: Sequence[Table[Any]], form: str, page: Page = WHOLE) -> str:
    """All tables as one text in one of FORMATS, without a line end.

    JSON is a list for one table and an object of lists for several. CSV has one header, so it holds the
    first table only. A table of the form "table" fits the page; all others are whole.
    """
    if form == "json":
        records = {table.key: table.records()[0] if table.upright else table.records() for table in tables}
        value = records if len(tables) > 1 else records[tables[0].key]
        return json.dumps(value, indent=2, ensure_ascii=page.is_ascii)
    if form == "csv":
        return _csv(tables[0])
    return "\n\n".join(_markdown(table) if form == "markdown" else _text(table, page) for table in tables)


def _csv(table: Table[Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [name for name, _ in table.fields], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in record.items()} for record in table.records())
    return out.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _text(table: Table[Any], page: Page) -> str:
    grid = _grid(table, page)
    notes = _notes(table, grid.left_out)
    if grid.left_out:
        notes.append(f"Left out for want of room: {', '.join(grid.left_out)}; --wide shows all.")
    title = [page.tinted(line, Tone.TITLE) for line in _lines(table.title, page)]
    return "\n".join([*title, *grid.lines, *(_lines("\n" + "\n".join(notes), page) if notes else ())])


def _notes(table: Table[Any], left_out: Sequence[str] = ()) -> list[str]:
    """What is told beneath a table whose columns are shown but for these."""
    is_list = table.rows and not table.upright
    shown = [column for column in table.columns if column.heading not in left_out] if is_list else []
    legends = "\n".join(column.legend for column in shown if column.legend)
    return [note for note in (legends, table.note) if note]


def _grid(table: Table[Any], page: Page) -> Grid:
    if not table.rows:
        return Grid(_lines(table.empty, page), [])
    if not table.upright:
        return lay_out(table.columns, table.rows, page, printable)
    pairs = [(column.heading, column.show(table.rows[0])) for column in table.columns]
    return lay_out((Column("", itemgetter(0)), Column("", itemgetter(1), way=wrapped(20))), pairs, page, printable)


def _lines(text: str, page: Page) -> list[str]:
    """Text around a table, broken where the page ends."""
    lines = page.plain(text).splitlines()
    return lines if page.width is None else [each for line in lines for each in wrap(line, page.width)]


def _markdown(table: Table[Any]) -> str:
    title = [f"### {table.title}\n"] if table.title else []
    notes = [f"\n{note}" for note in _notes(table)]
    return "\n".join([*title, _github(table) if table.rows else table.empty, *notes])


def _github(table: Table[Any]) -> str:
    headings = [column.heading for column in table.columns]
    align = ["right" if column.right else "left" for column in table.columns]
    cells = [[_escaped(column.show(row)) for column in table.columns] for row in table.rows]
    if table.upright:
        cells, align = [[heading, cell] for heading, cell in zip(headings, cells[0], strict=True)], ["left"] * 2
        headings = ["", ""]
    from tabulate import tabulate  # with what it imports a tenth of a script's start, and few ask for this

    text = tabulate(cells, headings, tablefmt="github", disable_numparse=True, colalign=align, headersalign=align)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace("|", "\\|")


def printable(text: str) -> str:
    """The text without anything that could steer a terminal or break a line: such characters become `?`.

    Names of models, clients and errors come from outside.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def clip(text: str | None, width: int) -> str:
    """At most `width` characters, with `…` where something was cut; a dash for nothing."""
    if not text:
        return DASH
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def short_id(text: str | None) -> str:
    """An id by its two ends, which are enough to find it again; a dash for nothing."""
    return shorten(text, 13)[0] if text else DASH


def bar(fraction: float | None, width: int = 10) -> str:
    """`████████░░`; empty only for nothing, full only for everything."""
    if fraction is None:
        return DASH
    filled = min(max(round(fraction * width), fraction > 0), width if fraction >= 1 else width - 1)
    return "█" * filled + "░" * (width - filled)
