"""Numbers in words, and one table in four formats."""

import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_cli import output
from ccflare_cli.output import Column, Table, render
from ccflare_cli.page import Page
from history import NOON, at_local

Pair = tuple[str, int]


def table(*rows: Pair, key: str = "things", **options: object) -> Table[Pair]:
    return Table(
        key=key,
        title="Things",
        rows=rows,
        fields=(("name", lambda row: row[0]), ("number", lambda row: row[1])),
        columns=(
            Column("Name", lambda row: row[0]),
            Column("Number", lambda row: output.count(row[1]), right=True),
        ),
        **options,  # type: ignore[arg-type]
    )


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, "–"),
            (0, "0 ms"),
            (-3, "0 ms"),
            (0.0032, "3 ms"),
            (0.9996, "1.0 s"),
            (4.21, "4.2 s"),
            (95.2, "95.2 s"),
            (99.96, "1 min 40 s"),
            (120, "2 min"),
            (4320, "1 h 12 min"),
            (7200, "2 h"),
            (3600 * 76.5, "3 d 4 h"),
        ],
    )
    def test_duration(self, seconds: float | None, text: str) -> None:
        assert output.duration(seconds) == text

    @pytest.mark.parametrize(
        ("usd", "unknown", "text"),
        [
            (0.0, 0, "$0.00"),
            (0.01234, 0, "$0.0123"),
            (0.99996, 0, "$1.00"),
            (1234.5, 0, "$1,234.50"),
            (1.23, 4, "$1.23 + ?"),
            (0.0, 4, "?"),
            (None, 0, "?"),
        ],
    )
    def test_money_never_shows_an_unknown_cost_as_nothing(self, usd: float | None, unknown: int, text: str) -> None:
        assert output.money(usd, unknown) == text

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (None, "–"),
            (0, "0"),
            (1204, "1,204"),
            (99_999, "99,999"),
            (123_456, "123k"),
            (999_900, "1.00M"),
            (15_640_000, "15.64M"),
            (2_000_000_000, "2.00G"),
        ],
    )
    def test_count(self, number: int | None, text: str) -> None:
        assert output.count(number) == text

    @pytest.mark.parametrize(
        ("fraction", "text"),
        [(None, "–"), (0, "0 %"), (0.29, "29 %"), (0.9931, "99.3 %"), (0.99999, "99.9 %"), (1, "100 %")],
    )
    def test_percent_is_a_hundred_only_if_nothing_is_missing(self, fraction: float | None, text: str) -> None:
        assert output.percent(fraction) == text

    @pytest.mark.parametrize(("fraction", "filled"), [(0, 0), (0.001, 1), (0.5, 5), (0.999, 9), (1, 10), (1.02, 10)])
    def test_bar_is_full_only_for_everything(self, fraction: float, filled: int) -> None:
        assert output.bar(fraction) == "█" * filled + "░" * (10 - filled)

    @pytest.mark.parametrize(
        ("at", "text"),
        [
            (at_local(24, 14, 20), "14:20"),
            (at_local(23, 9, 5), "Mon 09:05"),
            (at_local(1, 14, 20), "2026-11-01 14:20"),
            (None, "–"),
        ],
    )
    def test_moment_is_as_short_as_it_is_clear(self, at: float | None, text: str) -> None:
        assert output.moment(at, NOON) == text

    @given(st.text(), st.integers(2, 20))
    def test_clip_keeps_to_its_width(self, text: str, width: int) -> None:
        assert 1 <= len(output.clip(text, width)) <= width

    @given(st.text())
    def test_printable_leaves_nothing_that_steers_a_terminal(self, text: str) -> None:
        safe = output.printable(text)

        assert safe.isprintable()
        assert len(safe) == len(text)


class TestRender:
    def test_table_has_no_wider_columns_than_it_needs(self) -> None:
        assert render([table(("a", 1), ("bee", 1204))], "table").splitlines() == [
            "Things",
            "Name  Number",
            "----  ------",
            "a          1",
            "bee    1,204",
        ]

    def test_numbers_in_names_stay_as_they_are(self) -> None:
        assert "007.10" in render([table(("007.10", 1))], "table")

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        text = render([table(("\x1b[2Jgone\nnext", 1))], "table")

        assert "\x1b" not in text
        assert "?[2Jgone?next" in text

    def test_markdown_cells_cannot_end_themselves(self) -> None:
        text = render([table(("a|b", 1))], "markdown")

        assert text.startswith("### Things\n\n| Name")
        assert "a\\|b" in text

    def test_json_has_raw_values(self) -> None:
        assert json.loads(render([table(("a", 1204))], "json")) == [{"name": "a", "number": 1204}]

    def test_json_of_several_tables_is_an_object(self) -> None:
        text = render([table(("a", 1), key="one", upright=True), table(("b", 2), key="two")], "json")

        assert json.loads(text) == {"one": {"name": "a", "number": 1}, "two": [{"name": "b", "number": 2}]}

    def test_csv_is_read_back_the_same(self) -> None:
        text = render([table(('a "quoted", name', 1204)), table(("left out", 1))], "csv")

        assert [*csv.DictReader(io.StringIO(text))] == [{"name": 'a "quoted", name', "number": "1204"}]

    def test_no_rows_give_a_sentence_to_people_and_a_header_to_programs(self) -> None:
        nothing = table(empty="Nothing yet.")

        assert render([nothing], "table") == "Things\nNothing yet."
        assert render([nothing], "csv") == "name,number"
        assert render([nothing], "json") == "[]"

    def test_upright_shows_a_line_for_each_column(self) -> None:
        assert render([table(("a", 1204), upright=True)], "table") == "Things\nName    a\nNumber  1,204"


@pytest.mark.parametrize(("width", "legends"), [(80, "Name is who. Number is how many."), (9, "Name is who.")])
def test_a_legend_is_shown_with_its_column_alone(width: int, legends: str) -> None:
    number = Column[Pair]("Number", lambda row: str(row[1]), rank=1, legend="Number is how many.")
    columns = (Column[Pair]("Name", lambda row: row[0], legend="Name is who."), number)
    shown = render([replace(table(("ann", 1)), columns=columns)], "table", Page(width))

    assert legends in " ".join(shown.split())
    assert ("how many" in shown) is (width == 80)
