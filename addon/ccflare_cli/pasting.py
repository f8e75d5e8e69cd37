"""A secret as it is pasted, without what came along: quotes, the name of a variable, line ends. Pure."""

import re

_ASSIGNMENT = re.compile(r"(?:export\s+|set\s+|\$env:)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*(?=[^\s=])", re.IGNORECASE)
"""As in a shell's profile or an .env file. What has nothing after it but `=` is the end of some base64."""
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")
_AROUND = " \t\r\n\ufeff"
"""Windows begins a text with U+FEFF (a byte order mark) and ends its lines with \\r\\n."""


def unwrapped(text: str) -> str:
    """The secret in `export NAME="secret"`, or in a part of that; any other text as it is, without blanks around."""
    before = ""
    while text != before:
        before = text
        text = _unquoted(text.strip(_AROUND))
        if assignment := _ASSIGNMENT.match(text):
            text = text[assignment.end() :]
    return text


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] + text[-1] in _QUOTES
    return text[1:-1] if is_quoted else text
