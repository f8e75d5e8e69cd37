"""The value of a JSON text that may have been cut off: all that had come of it. Pure, and never raises."""

from __future__ import annotations

import re
from typing import Any, Final

from ccflare_core.http.json_members import IN_STRING
from ccflare_core.http.sse import parse_json

DEPTH = 500
"""Of brackets. What is nested more deeply is no body of the API's."""

_TOKEN: Final = re.compile(b'"' + IN_STRING + rb'("?)|[{}\[\],:]', re.DOTALL)
_HALF_ESCAPE: Final = re.compile(rb"\\u[0-9a-fA-F]{0,3}$")
_CLOSING: Final = {ord("{"): ord("}"), ord("["): ord("]")}
_COMMA, _COLON, _QUOTE = ord(","), ord(":"), ord('"')


def parse_cut(text: bytes) -> Any:
    """The value, with a text that broke off as far as it goes, and without a number or a name that did.

    None if it is no JSON at all.
    """
    whole = parse_json(text)
    return whole if whole is not None else _mended(text)


def _mended(text: bytes) -> Any:
    """The value up to the last place where it can be ended, with all that is open there closed."""
    end, tail, closers = 0, b"", bytearray()
    last = _COLON  # what stands before the first value, in this respect
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark == _QUOTE:
            is_key = bool(closers) and closers[-1] == _CLOSING[ord("{")] and last != _COLON
            if not is_key:
                end, tail = token.end(), b"" if token[1] else b'"'
        elif mark in _CLOSING:
            closers.append(_CLOSING[mark])
            end = token.end()
        elif mark == _COMMA:
            end = token.start()
        elif mark != _COLON:
            if not closers or closers.pop() != mark:
                return None
            end = token.end()
        last = mark
        if len(closers) > DEPTH:
            return None
    closed = tail + bytes(reversed(closers))
    value = parse_json(text[:end] + closed)
    return value if value is not None else parse_json(_HALF_ESCAPE.sub(b"", text[:end]) + closed)
