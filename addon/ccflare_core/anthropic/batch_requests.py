"""What the requests of a batch may take, read from its body one request at a time. Pure.

A batch may have 100,000 requests, and its body hundreds of megabytes. So the body comes in pieces, no more than one
request is parsed at once, and what is in between is only walked over; it is meant for a thread of its own. A body that
two parsers could read differently is not read at all: a limit depends on it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from ccflare_core.anthropic.demands import efforts_named
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.prompt_size import estimated_tokens
from ccflare_core.anthropic.request import MOST_OUTPUT, models_named, unambiguous
from ccflare_core.anthropic.usage import Usage
from ccflare_core.errors import CCFlareError
from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.json_members import STRING

DECODED_LIMIT: Final = 64 * 1024 * 1024
REQUEST_BYTES: Final = 32 * 1024 * 1024
"""Of one request; the API takes no larger one."""
REQUEST_MARKS: Final = 1_000_000
"""Values in one request, roughly: parsed, they are some hundred megabytes."""

PIECE_BYTES: Final = 128 * 1024

_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(STRING, re.DOTALL)
_SCALAR = re.compile(rb'[^"{}\[\],:\s]++')
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + STRING + rb'[^"{}\[\]]*+)*+', re.DOTALL)
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")

_NO_READING = "its body is not one JSON document with one reading"


class Unreadable(CCFlareError):
    """Why it cannot be told what a batch asks for, as the rest of a sentence."""


class BatchSize(NamedTuple):
    """What a batch may take at most, as far as that can be told before."""

    requests: int
    tokens: int
    dollars: Decimal
    """For a model without a known price, that of the dearest one that there is."""
    models: frozenset[str]
    """All that it names."""
    efforts: frozenset[str] | None = frozenset()
    """Those of all its requests; None if one of them is none that there is."""


def weigh(body: bytes | Iterable[bytes], content_encoding: str, prices: PriceList) -> BatchSize:
    """The prompts and the `max_tokens` of all requests of a batch together. Raises Unreadable."""
    requests = tokens = 0
    dollars = Decimal()
    models: set[str] = set()
    efforts: set[str] | None = set()
    for text in requests_of(body, content_encoding):
        params = _params(text)
        models |= _models(params)
        found = efforts_named(params)
        efforts = None if efforts is None or found is None else efforts.union(found)
        usage = _most(params, text)
        requests += 1
        tokens += sum((usage.input_tokens or 0, usage.output_tokens or 0, usage.cache_creation_input_tokens or 0))
        dollars += prices.at_most(params["model"], usage, in_batch=True)
    known = None if efforts is None else frozenset(efforts)
    return BatchSize(requests, tokens, dollars, frozenset(models), known)


def _decoded(body: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    decoder = Decoder(content_encoding, limit=DECODED_LIMIT)
    if decoder.coding == "identity":
        yield from body
        return
    for piece in body:
        yield from decoder.pieces(piece)
        if decoder.trouble is not None:
            break
    if decoder.trouble is not None:
        raise Unreadable(f"its body is {decoder.trouble}: send it without a content coding")


def _slices(body: bytes) -> Iterator[bytes]:
    return (body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES))


def _params(text: bytes) -> dict[str, Any]:
    """The parameters of one request of a batch."""
    if len(text) > REQUEST_BYTES or sum(text.count(mark) for mark in (b"{", b"[", b",")) > REQUEST_MARKS:
        raise Unreadable("one of its requests is too large to be read")
    try:
        params = json.loads(text, object_pairs_hook=unambiguous)["params"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise Unreadable(_NO_READING) from error
    if not isinstance(params, dict):
        raise Unreadable(_NO_READING)
    return params


def _models(params: dict[str, Any]) -> set[str]:
    if (named := models_named(params)) is None or "model" not in params:
        raise Unreadable("one of its requests does not say which model it is for")
    return set(named)


def _most(params: dict[str, Any], text: bytes) -> Usage:
    """What a request may use: its prompt, written to the cache if it may be, and as long an answer as it wants."""
    most = params.get("max_tokens")
    output = most if type(most) is int and most >= 0 else MOST_OUTPUT
    geo = params.get("inference_geo")
    usage = Usage(
        input_tokens=estimated_tokens(text, REQUEST_BYTES),
        output_tokens=output,
        speed="fast" if params.get("speed") == "fast" else None,
        inference_geo=geo if isinstance(geo, str) else None,
    )
    if b"cache_control" not in text:
        return usage
    prompt = usage.input_tokens
    return replace(usage, input_tokens=0, cache_creation_input_tokens=prompt, cache_creation_1h_input_tokens=prompt)


def requests_of(body: bytes | Iterable[bytes], content_encoding: str = "") -> Iterator[bytes]:
    """Each element of the document's list `requests`, of a body as a whole or in pieces. Raises Unreadable."""
    pieces = _slices(body) if isinstance(body, bytes) else body
    walker = _Walker(_decoded(pieces, content_encoding))
    has_requests = False
    for name in walker.members():
        if name != "requests":
            walker.value()
        elif has_requests:
            raise Unreadable(_NO_READING)
        else:
            has_requests = True
            yield from walker.elements()
    walker.end()


class _Walker:
    """Goes over a JSON text value by value, as it comes. All of it raises Unreadable where there is no JSON.

    What is behind is dropped between two values, so that there is never more of the text than one value and a piece.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._text = b""
        self._at = 0

    def members(self) -> Iterator[str]:
        """The names in an object; it is the caller's to go over the value behind each."""
        self._expect(b"{")
        if self._takes(b"}"):
            return
        while True:
            name = self._string()
            self._expect(b":")
            yield name
            if self._takes(b"}"):
                return
            self._expect(b",")

    def elements(self) -> Iterator[bytes]:
        """The values in a list."""
        self._expect(b"[")
        if self._takes(b"]"):
            return
        while True:
            yield self.value()
            if self._takes(b"]"):
                return
            self._expect(b",")

    def value(self) -> bytes:
        """A whole value, not looked into."""
        begin = self._skip_space()
        mark = self._text[begin : begin + 1]
        self._at = self._behind_brackets(begin) if mark in _OPENING else self._behind_plain(begin)
        return self._text[begin : self._at]

    def end(self) -> None:
        """There is no more."""
        if self._skip_space() != len(self._text):
            raise Unreadable(_NO_READING)

    def _more(self) -> bool:
        """Whether there was more of the text, which is in reach now."""
        if len(self._text) - self._at > 2 * REQUEST_BYTES:
            raise Unreadable("one of its requests is too large to be read")
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._text += piece
        return True

    def _behind_plain(self, begin: int) -> int:
        """The place behind a string or another value without brackets."""
        while True:
            found = _STRING.match(self._text, begin) or _SCALAR.match(self._text, begin)
            if found is not None and (found.end() < len(self._text) or self._text[found.end() - 1 :] == b'"'):
                return found.end()
            if not self._more():
                if found is None:
                    raise Unreadable(_NO_READING)
                return found.end()

    def _behind_brackets(self, at: int) -> int:
        """The place behind the bracket that closes the one here; whether they are of a kind, a parser tells."""
        depth = 0
        while True:
            mark = self._text[at : at + 1]
            if mark in _OPENING:
                depth += 1
            elif mark in _CLOSING:
                depth -= 1
            elif self._more():  # the text ends here, or within a string that begins here
                at = self._to_bracket(at)
                continue
            else:
                raise Unreadable(_NO_READING)
            if depth == 0:
                return at + 1
            at = self._to_bracket(at + 1)

    def _to_bracket(self, at: int) -> int:
        found = _TO_BRACKET.match(self._text, at)
        return found.end() if found else len(self._text)

    def _string(self) -> str:
        begin = self._skip_space()
        while (found := _STRING.match(self._text, begin)) is None and self._more():
            pass
        try:
            name: str = json.loads(found[0]) if found else ""
        except ValueError as error:
            raise Unreadable(_NO_READING) from error
        if found is None:
            raise Unreadable(_NO_READING)
        self._at = found.end()
        return name

    def _expect(self, mark: bytes) -> None:
        if not self._takes(mark):
            raise Unreadable(_NO_READING)

    def _takes(self, mark: bytes) -> bool:
        at = self._skip_space()
        if self._text[at : at + 1] != mark:
            return False
        self._at = at + 1
        return True

    def _skip_space(self) -> int:
        """The place of what comes next, with what is behind dropped if that is much."""
        if self._at > PIECE_BYTES:
            self._text, self._at = self._text[self._at :], 0
        while True:
            if found := _SPACE.match(self._text, self._at):
                self._at = found.end()
            if self._at < len(self._text) or not self._more():
                return self._at
