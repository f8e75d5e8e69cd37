"""What cannot be seen is named, and everything else stays as it is."""

import sys
import unicodedata

import pytest

from ccflare_core.transcripts.visible import visible

SEEN = {"\t", "\n"}
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nand more", "plain\ttext\nand more"),
        ("\x1b[31mred\x07", "^[[31mred^G"),
        ("\x7f\x9b", "^?<U+009B>"),
        ("a\r\nb\rc", "a\nb^Mc"),
        ("ab\u202edc\u2066", "ab<U+202E>dc<U+2066>"),
        ("no\u200bthing", "no<U+200B>thing"),
        ("tag\U000e0041", "tag<U+E0041>"),
        ("half \ud83d", "half <U+D83D>"),
        ("汉字 ü 🎉 ❤️ ‘x’", "汉字 ü 🎉 ❤️ ‘x’"),
    ],
)
def test_what_steers_or_hides_is_named(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_control_or_format_character_is_left() -> None:
    everything = map(chr, range(sys.maxunicode + 1))
    left = [char for char in everything if unicodedata.category(char) in UNSEEN and visible(char) == char]
    assert set(left) == SEEN
