"""Text that is made to fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from ccflare_cli.cells import cut, fold, shorten, width, wrap

WORDS = st.text(st.sampled_from("ab cd-/.é店舗 ｱ👍12%"), max_size=60)


@pytest.mark.parametrize("text", ["", "max-1", "claude é", "cafe\u0301", "店舗管理", "한국어", "👍 ok", "██░░ …–→"])
def test_widths_are_those_of_a_terminal(text: str) -> None:
    assert width(text) == wcswidth(text)


@given(WORDS, st.integers(4, 30))
def test_nothing_is_wider_than_it_may_be(text: str, to: int) -> None:
    for line in (*cut(text, to), *shorten(text, to), *wrap(text, to)):
        assert width(line) <= to


@given(WORDS, st.integers(4, 30))
def test_wrapped_text_loses_blanks_alone(text: str, to: int) -> None:
    assert "".join("".join(wrap(text, to)).split()) == "".join(text.split())


def test_ids_keep_both_ends() -> None:
    assert shorten("4f1c0a3e-1111-4222-8333-0000000000ab", 13) == ["4f1c0a…0000ab"]
    assert shorten("4f1c0a3e-1111-4222-8333-0000000000ab", 13, "...") == ["4f1c0...000ab"]
    assert shorten("max-1", 13) == ["max-1"]


def test_lines_break_between_words_and_long_words_behind_their_joints() -> None:
    assert wrap("cooling until 12:59: 5h window spent", 20) == ["cooling until 12:59:", "5h window spent"]
    assert wrap("see /v1/messages/batches now", 14) == ["see /v1/", "messages/", "batches now"]


def test_a_number_stays_with_its_unit() -> None:
    assert wrap("valid for 7 h, 21 % used", 11) == ["valid for", "7 h, 21 %", "used"]


def test_what_has_too_many_lines_ends_with_a_mark() -> None:
    assert wrap("one two three four", 9, most=2) == ["one two", "three fo…"]
    assert wrap("one two", 9, most=2) == ["one two"]


def test_a_message_breaks_between_words_and_leaves_long_ones_whole() -> None:
    assert fold("  see /a/long/path/of/a/file now", 14) == ["  see", "/a/long/path/of/a/file", "now"]
    assert fold("one two three", 7) == ["one two", "three"]
    assert fold("", 7) == [""]
