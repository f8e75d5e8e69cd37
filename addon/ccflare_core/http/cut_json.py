"""The value of a JSON text that may have been cut off: all that had come of it. Pure, and never raises."""

from __future__ import annotations

import re
from typing import Any, Final

from ccflare_core.http.json_members import IN_STRING, STRING
from ccflare_core.http.sse import parse_json

DEPTH = 500
"""Of brackets. What is nested more deeply is no body of the API's."""

_BETWEEN: Final = rb'[^"{}\[\]]++|' + STRING
_FLAT: Final = rb"[{\[](?:" + _BETWEEN + rb")*+[}\]]"
"""An object or a list with none in it, passed over in one step: there may be a hundred thousand of them."""
_BRACKET: Final = re.compile(rb"(?:" + _BETWEEN + rb"|" + _FLAT + rb")*+([{}\[\]])", re.DOTALL)
_TOKEN: Final = re.compile(_FLAT + b'|"' + IN_STRING + b'("?)|[,:]', re.DOTALL)
_HALF_ESCAPE: Final = re.compile(rb"\\u[0-9a-fA-F]{0,3}$")
_CLOSING: Final = {b"{": b"}", b"[": b"]"}


def parse_cut(text: bytes) -> Any:
    """The value, with a text that broke off as far as it goes, and without a number or a name that did.

    None if it is no JSON at all.
    """
    whole = parse_json(text)
    return whole if whole is not None else _mended(text)


def _mended(text: bytes) -> Any:
    """The value up to the last place where it can be ended, with all that is open there closed."""
    closers: list[bytes] = []
    at, last = 0, b":"  # what stands before the first value, in this respect
    while found := _BRACKET.match(text, at):
        at, last = found.end(), found[1]
        if last in _CLOSING:
            closers.append(_CLOSING[last])
        elif not closers or closers.pop() != last:
            return None
        if len(closers) > DEPTH:
            return None
    end, quote = _end_of_last_value(text, at, last, in_object=closers[-1:] == [b"}"])
    closed = quote + b"".join(reversed(closers))
    value = parse_json(text[:end] + closed)
    return value if value is not None else parse_json(_HALF_ESCAPE.sub(b"", text[:end]) + closed)


def _end_of_last_value(text: bytes, at: int, last: bytes, *, in_object: bool) -> tuple[int, bytes]:
    """Behind the last bracket, at `at`: where the text can be ended, and the quote that it then lacks."""
    end, quote = at, b""
    for token in _TOKEN.finditer(text, at):
        mark = text[token.start() : token.start() + 1]
        if mark == b",":
            end, quote = token.start(), b""
        elif mark != b":" and not (mark == b'"' and in_object and last != b":"):  # which would be a name
            end, quote = token.end(), b"" if token[1] or mark != b'"' else b'"'
        last = mark
    return end, quote
