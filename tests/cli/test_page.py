"""What a terminal tells about itself, and what is made of it."""

import io

import pytest

from ccflare_cli.page import WHOLE, Page, Tone, page_of
from desk import Terminal
from screen import screen


def test_a_terminals_width_is_its_own_unless_it_is_told() -> None:
    with screen(61) as shown:
        assert page_of(shown.stream, {}).width == 61
        assert page_of(shown.stream, {"COLUMNS": "72"}).width == 72
        assert page_of(shown.stream, {"COLUMNS": "wide"}).width == 61


def test_what_is_piped_or_asked_for_in_full_has_no_edge() -> None:
    with screen(61) as shown:
        assert page_of(shown.stream, {}, wide=True).width is None
    assert page_of(io.StringIO(), {"COLUMNS": "72"}) == WHOLE


@pytest.mark.parametrize(
    ("environ", "has_colours"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_allow_them(environ: dict[str, str], has_colours: bool) -> None:
    assert page_of(Terminal(), environ).has_colours is has_colours
    assert not page_of(io.StringIO(), environ).has_colours


def test_an_encoding_without_our_characters_gets_ascii_forms() -> None:
    with screen(80, encoding="latin-1") as shown:
        page = page_of(shown.stream, {})

    assert page.is_ascii
    assert page.plain("max-1 – ██░░ → 12 … ▁█ 店") == "max-1 - ##.. -> 12 ... _# 店"
    assert Page().plain("–") == "–"


def test_tones_are_colours_where_there_are_any() -> None:
    assert Page(has_colours=True).tinted("fail", Tone.BAD) == "\x1b[31mfail\x1b[0m"
    assert Page().tinted("fail", Tone.BAD) == Page(has_colours=True).tinted("fail", None) == "fail"


def test_a_message_breaks_between_words_and_leaves_what_is_to_be_copied() -> None:
    text = "To use it, with the key in place:\n  curl http://127.0.0.1:8080/v1/models --header KEY"
    assert Page(24).folded(text).splitlines() == ["To use it, with the key", "in place:", text.splitlines()[1]]
