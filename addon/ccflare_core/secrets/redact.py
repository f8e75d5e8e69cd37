"""Finds secrets in bytes and blanks them. Pure, and linear in the length of what it reads, whatever that holds.

Bodies are searched as they are on the wire, JSON's escapes included: nothing is parsed and written anew, so what
is not blanked stays byte for byte. A secret is known by its form (`by_form.py`, with the vendors' in `formats.py`), or
by the name that it stands behind (`by_name.py`).
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ccflare_core.http.headers import Header
from ccflare_core.secrets import by_form, by_name
from ccflare_core.secrets.escapes import unescaped
from ccflare_core.secrets.spans import MOST_CANDIDATES, Budget, Redacted, Span, TooMuch, blank

__all__ = (
    "HIDDEN",
    "MOST_CANDIDATES",
    "Redacted",
    "Span",
    "TooMuch",
    "blank",
    "find",
    "headers",
    "holds_secret",
    "is_secret",
    "label",
    "redact",
    "text",
)

HIDDEN = b"[redacted]"
_SECRET_HEADER = re.compile(
    rb"(?:.*-)?(?:authorization|auth|cookie2?|api-?key|key|token|secret|password|passwd|credentials?|otp|jwt(?:-.*)?)"
)
"""What ends so carries a credential: ours, the API's, or that of a gateway which a client is to go through."""
_NO_SECRETS = frozenset({b"idempotency-key", b"x-idempotency-key", b"sec-websocket-key"})

_URL_PASSWORD = re.compile(rb"://[^\s:/?#@\"'\\]{0,256}+:([^\s/@\"'\\]{1,256}+)@")
_PEM = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(rb"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(rb"(?:[\w+/=:,.>|#*\s\x80-\xff]|\\{1,8}+[nrt/]|-(?!-))*+")
_PEM_LINE = re.compile(rb"(?<=[\"'])[A-Za-z0-9+/]{16,}+={0,2}(?=[\\\"'])")
_PEM_LEAST = 24
"""Of a body, in bytes: what is shorter is a word on keys, and no key."""
_PEM_BYTES = 32 * 1024


def redact(data: bytes) -> Redacted:
    """`data` with every secret in it replaced by a word like `[redacted:jwt]`. Raises TooMuch."""
    return blank(data, find(data))


def text(value: str) -> str:
    """The same for a message. What cannot be searched is left out whole."""
    try:
        return redact(value.encode("utf-8", "surrogatepass")).data.decode("utf-8", "surrogatepass")
    except TooMuch:
        return HIDDEN.decode()


@lru_cache(1024)
def label(value: str) -> str:
    """The same for a short text in clear in rows and in the log, which comes again: a path, a model's name."""
    return text(value)


def holds_secret(value: str) -> bool:
    """Whether there is a secret in a text, or may be."""
    return text(value) != value


def headers(fields: Iterable[Header]) -> tuple[Header, ...]:
    """Header fields with the values of those that carry credentials blanked."""
    return tuple([(name, HIDDEN if is_secret(name) else value) for name, value in fields])


@lru_cache(512)
def is_secret(name: bytes) -> bool:
    """Whether a header field of this name carries a credential, also if it is spelt as some servers read it."""
    plain = name.strip().lower().replace(b"_", b"-")
    return _SECRET_HEADER.fullmatch(plain) is not None and plain not in _NO_SECRETS


def find(data: bytes) -> list[Span]:
    """Where the secrets are. Spans may overlap. Raises TooMuch."""
    view, offsets = unescaped(data)
    found = search(view, Budget())
    return [Span(offsets(start), offsets(end), label) for start, end, label in found] if offsets else found


def search(view: bytes, budget: Budget, start: int = 0, end: int | None = None) -> list[Span]:
    """The same in bytes whose escapes are undone; from `start` to `end` only what begins there. Raises TooMuch."""
    end = len(view) if end is None else end
    return [
        *by_form.find(view, budget, start, end),
        *by_name.find(view, budget, start, end),
        *_url_passwords(view, start, end),
        *_private_keys(view, budget, start, end),
    ]


def _url_passwords(view: bytes, start: int, end: int) -> Iterator[Span]:
    position = view.find(b"://", start, end)
    while position >= 0:
        if match := _URL_PASSWORD.match(view, position):
            yield Span(*match.span(1), "password")
        position = view.find(b"://", match.end() if match else position + 3, end)


def _private_keys(view: bytes, budget: Budget, low: int, high: int) -> Iterator[Span]:
    """PEM blocks; of one that is cut, all that can belong to it."""
    if view.find(b"PRIVATE KEY", low, high) < 0:
        return
    position = low
    while begin := _PEM.search(view, position, high):
        budget.spend_pem()
        body = _PEM_BODY.match(view, begin.end())
        position = body.end() if body else begin.end()
        if position - begin.end() < _PEM_LEAST:
            position = begin.end()
            yield from _lines_of_key(view, position)
        elif end := _PEM_END.match(view, position):
            position = end.end()
            yield Span(begin.start(), position, "private-key")
        else:
            yield Span(begin.start(), position, "private-key")
            yield from _lines_of_key(view, position)


def _lines_of_key(view: bytes, start: int) -> Iterator[Span]:
    """Those of a key that code has in a string each."""
    if end := _PEM_END.search(view, start, start + _PEM_BYTES):
        for line in _PEM_LINE.finditer(view, start, end.start()):
            yield Span(*line.span(), "private-key")
