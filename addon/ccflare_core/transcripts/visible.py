"""Text with every character shown that would steer a terminal, turn the reading direction or not be seen. Pure.

What a model or a tool wrote is read here by a person, who has to see what a model was given to read.
"""

import re
from typing import Final

_UNSEEN: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and line end
    "\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line and paragraph ends, directions
    "\u2800\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff"  # halves of characters, which nothing could write
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and selectors, in which a text can be hidden
    "]"
)
"""Unicode's control and format characters, and what it says may be ignored. Not U+FE00 to FE0F: they choose an emoji's
look, and stand in every other one."""

_DELETE, _SPACE = 0x7F, 0x20


def visible(text: str) -> str:
    """The text with `^[` for such a character of ASCII and `<U+202E>` for another one; CR LF is a line end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text  # most of what is said in English, and ten times as quick
    return _UNSEEN.sub(_name, text)


def _name(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < _SPACE or code == _DELETE:
        return f"^{chr(code ^ 0x40)}"
    return f"<U+{code:04X}>"
