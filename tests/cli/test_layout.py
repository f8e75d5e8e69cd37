"""Columns that give way, the least important ones first."""

from collections.abc import Sequence

from ccflare_cli.cells import clipped, shortened, width, wrapped
from ccflare_cli.layout import Column, Grid, lay_out
from ccflare_cli.page import Page, Tone

Row = tuple[str, ...]


def column(at: int, heading: str, **options: object) -> Column[Row]:
    return Column(heading, lambda row: row[at], **options)  # type: ignore[arg-type]


def laid_out(columns: Sequence[Column[Row]], *rows: Row, page: Page) -> Grid:
    return lay_out(columns, rows, page, str)


def lines(columns: Sequence[Column[Row]], row: Row, to: int | None) -> list[str]:
    return laid_out(columns, row, page=Page(to)).lines


def test_what_fits_stays_as_it_is() -> None:
    columns = (column(0, "Last used", way=shortened(4)), column(1, "State", rank=1, brief=lambda row: "-"))

    assert lines(columns, ("max-1", "serving"), 18) == lines(columns, ("max-1", "serving"), None)
    assert lines(columns, ("max-1", "serving"), None) == [
        "Last used  State",
        "---------  -------",
        "max-1      serving",
    ]


def test_headings_break_before_anything_is_lost() -> None:
    assert lines((column(0, "Last used"), column(1, "Kind", right=True)), ("12:00", "x"), 11) == [
        "Last",
        "used   Kind",
        "-----  ----",
        "12:00     x",
    ]


def test_brief_forms_come_before_narrow_ones() -> None:
    columns = (column(0, "Name", way=shortened(5)), column(1, "Full", brief=lambda row: "50 %"))

    assert lines(columns, ("claude-max", "█████░░░░░ 50 %"), 16)[-1] == "claude-max  50 %"


def test_columns_go_beneath_others() -> None:
    columns = (column(0, "Check"), column(1, "Found", way=wrapped(8)), column(2, "Remedy", under="Found"))

    grid = laid_out(columns, ("a", "a hole", "mend it"), ("b", "fine", ""), page=Page(16))

    assert grid.lines == [
        "       Found",
        "Check  Remedy",
        "-----  -------",
        "a      a hole",
        "       mend it",
        "b      fine",
    ]
    assert grid.left_out == []


def test_the_least_important_are_left_out_and_named() -> None:
    columns = (column(0, "Name"), column(1, "New", rank=2), column(2, "Read", rank=2), column(3, "Out", rank=1))

    grid = laid_out(columns, ("max-1", "123456", "123456", "12"), page=Page(16))

    assert grid.lines[-1] == "max-1  12"
    assert grid.left_out == ["New", "Read"]


def test_the_widest_gives_first_and_none_below_its_least() -> None:
    columns = (column(0, "Name", way=shortened(8)), column(1, "Message", way=clipped(7)), column(2, "Id"))

    (line,) = lines(columns, ("a" * 10, "b" * 50, "c" * 6), 30)[2:]
    (narrow,) = lines(columns, ("a" * 10, "b" * 50, "c" * 6), 10)[2:]

    assert line == f"{'a' * 10}  {'b' * 9}…  {'c' * 6}"
    assert [len(part) for part in narrow.split("  ")] == [8, 7, 6]


def test_wide_characters_take_two_columns() -> None:
    columns = (column(0, "Name", way=shortened(8)), column(1, "Kind"))

    grid = laid_out(columns, ("店舗管理システム", "x"), ("shop", "y"), page=Page(17))

    assert grid.lines[2:] == ["店舗管…テム  x", "shop         y"]
    assert [width(line) for line in grid.lines[2:]] == [14, 14]


def test_colours_take_no_room() -> None:
    columns = (column(0, "State", tone=lambda row: Tone.BAD), column(1, "Kind"))

    assert laid_out(columns, ("ill", "x"), page=Page(80, has_colours=True)).lines[-1] == "\x1b[31mill\x1b[0m    x"


def test_ascii_forms_are_measured_as_they_are_written() -> None:
    columns = (column(0, "Name", way=shortened(7)), column(1, "Used"))

    text = laid_out(columns, ("claude-max-1", "██░░ → –"), page=Page(18, is_ascii=True)).lines[-1]

    assert text == "cl...-1  ##.. -> -"
