"""What an account may be called: 1 to 100 letters of one script, digits, spaces and `-_@.+`. Pure.

Letters of two scripts in one name are refused: a Cyrillic `а` in `max-1` is a name that nobody can type. Which scripts
go together, and which are in use today, is from Unicode (UTS 39, section 5.1; UAX 31, table 5).
"""

import unicodedata
from functools import partial

from ccflare_core.text import composed

LONGEST = 100
RULE = f"1 to {LONGEST} letters of one script, digits, spaces or -_@.+ and no space at its ends"

_SIGNS = frozenset("0123456789 -_@.+")
_WRITINGS = (
    *({"CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}, {"CJK", "HANGUL"}, {"CJK", "BOPOMOFO"}),
    *({"LATIN"}, {"GREEK"}, {"CYRILLIC"}, {"ARMENIAN"}, {"GEORGIAN"}, {"HEBREW"}, {"ARABIC"}, {"THAANA"}),
    *({"ETHIOPIC"}, {"DEVANAGARI"}, {"BENGALI"}, {"GURMUKHI"}, {"GUJARATI"}, {"ORIYA"}, {"TAMIL"}, {"TELUGU"}),
    *({"KANNADA"}, {"MALAYALAM"}, {"SINHALA"}, {"TIBETAN"}, {"MYANMAR"}, {"KHMER"}, {"THAI"}, {"LAO"}),
)
_ACCENT = "COMBINING"
"""How the name of a mark begins that is of no script. On a letter it is a part of it."""
_SPLIT = frozenset("\u0e33\u0eb3")
"""Vowels of Thai and Lao, which are in daily use although they are made of two."""


def valid_name(name: str) -> bool:
    """Whether an account may be called this. Names are compared in their composed form (NFC), and stored in it."""
    if not 0 < len(name) <= LONGEST or name != name.strip() or name != composed(name):
        return False
    letters = [char for char in name if char not in _SIGNS]
    return all(map(_is_letter, letters)) and _is_one_script(letters) and not _is_mark(name[0])


def nearest_name(text: str) -> str:
    """A valid name that is like the text; "unnamed" if that has no letter of use."""
    plain = "".join(char if char in _SIGNS or _is_letter(char) else "-" for char in composed(text))[:LONGEST].strip()
    if valid_name(plain):
        return plain
    plain = "".join(char if char.isascii() else "-" for char in plain)
    return plain if any(char.isalnum() for char in plain) and valid_name(plain) else "unnamed"


def _is_letter(char: str) -> bool:
    # Forms made for compatibility look like other letters: the full-width ｍ, the ligature ﬁ.
    is_plain = unicodedata.normalize("NFKC", char) == char or char in _SPLIT
    return unicodedata.category(char)[0] in "LM" and is_plain


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _is_one_script(letters: list[str]) -> bool:
    scripts = {_script(char) for char in letters} - {_ACCENT}
    return not scripts or any(map(partial(set.issubset, scripts), _WRITINGS))


def _script(char: str) -> str:
    """The first word of its name, which is its script; the standard library has no better source."""
    return unicodedata.name(char, "").partition(" ")[0]
