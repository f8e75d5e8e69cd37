"""Finds secrets in bytes and blanks them. Pure, and linear in the length of what it reads, whatever that holds.

Bodies are searched as they are on the wire, JSON's escapes included: nothing is parsed and written anew, so what
is not blanked stays byte for byte. Most rules start with a literal, which is looked for before their expression
is; that is what makes 1 MB a matter of ten milliseconds.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ccflare_core.http.headers import Header

HIDDEN = b"[redacted]"
SECRET_HEADERS = frozenset(
    (
        *(b"authorization", b"x-api-key", b"cookie", b"set-cookie", b"proxy-authorization", b"x-goog-api-key"),
        *(b"api-key", b"x-ccflare-otp"),
    )
)

MOST_CANDIDATES = 50_000
"""How many places may look like the beginning of a secret. A body with more is hostile, or no text."""


class TooMuch(Exception):
    """The input looks like secrets in too many places to be searched in bounded time."""


class Span(NamedTuple):
    """Where a secret lies. An empty label is the rest of one that began elsewhere; "number" keeps JSON valid."""

    start: int
    end: int
    label: str


class Redacted(NamedTuple):
    """The input with its secrets blanked, and how many they were."""

    data: bytes
    secrets: int


class Rule(NamedTuple):
    """What a kind of secret looks like: a literal that it has, and an expression whose last group is the secret."""

    label: str
    literal: bytes
    pattern: re.Pattern[bytes]


# fmt: off
_RULES = tuple(Rule(label, literal, re.compile(pattern)) for label, literal, pattern in (
    ("anthropic-key", b"sk-ant-", rb"sk-ant-[\w-]{8,}+"),
    ("client-key", b"ccf_", rb"ccf_[\w-]{16,}+"),
    ("openai-key", b"sk-", rb"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9]{20}[\w-]*+"),
    ("github-token", b"gh", rb"gh[pousr]_[A-Za-z0-9]{20,}+"),
    ("github-token", b"github_pat_", rb"github_pat_\w{20,}+"),
    ("gitlab-token", b"glpat-", rb"glpat-[\w-]{16,}+"),
    ("slack-token", b"xox", rb"xox[abeoprs]-[\w-]{10,}+"),
    ("google-key", b"AIza", rb"AIza[\w-]{35}"),
    ("stripe-key", b"k_live_", rb"k_live_[A-Za-z0-9]{16,}+"),
    ("password", b"://", rb"://[^\s:/?#@\"'\\]{0,256}+:([^\s/@\"'\\]{1,256}+)@"),
))
# fmt: on
_BEARER = Rule("bearer-token", b"bearer", re.compile(rb"bearer(?:\s|\\[nrt]){1,4}+([\w.~+/=-]{16,}+)"))
_JWT = re.compile(rb"eyJ[\w-]*+(\.[\w-]++(?:\.[\w-]++){1,3}+)?")

_AWS_ID = re.compile(rb"A[KS]IA[A-Z0-9]{16}")
_AWS_SECRET = re.compile(rb"(?<![\w+/])[A-Za-z0-9+/]{40}(?![\w+/=])")
_AWS_NEAR = 160
"""How far behind a key's id its secret half is looked for, in bytes."""

_PEM = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(rb"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(rb"(?:[\w+/=:,.>|\s\x80-\xff]|\\{1,8}+[nrt/]|-(?!-))*+")
_PEM_BYTES = 32 * 1024
_MOST_PEMS = 1000

# A key that ends like this guards its value, whatever stands before: `db_password`, `slackBotToken`.
_ENDINGS = tuple(
    f"{stem}{word}".encode()
    for stems, words in (
        (("",), ("token", "secret", "password", "passwd", "passphrase", "authorization", "cookie")),
        (
            ("api", "private", "secret", "access", "signing", "encryption", "master", "account"),
            ("_key", "-key", "key"),
        ),
    )
    for stem in stems
    for word in words
)
_KEYED = tuple(
    (word, re.compile(word + rb"([a-z0-9_]{0,32}+)(\\*+[\"']|)\s{0,8}+([:=])\s{0,8}+"))
    for word in (b"token", b"secret", b"pass", b"key", b"authorization", b"cookie")
)
_LONGEST_STEM = 16
_QUOTE = re.compile(rb'(\\*+)"')
_APOSTROPHES = re.compile(rb"'([^'\"\r\n\\]{1,512})'")
_NUMBER = re.compile(rb"-?\d[\d.eE+-]{0,40}+")
_BETWEEN = re.compile(rb"\s{0,64}+,?\s{0,64}+")
_BARE = re.compile(rb"[^\s\"'\\`;,)<$][^\s\"'\\`;,)]{5,}+")
_SCHEME = re.compile(rb"(?:basic|bearer|digest|token|negotiate)\s{1,4}+([^\s\"'\\,]{4,}+)")
_COOKIES = re.compile(rb"([^\s=;:\"'\\]{1,128}+=[^\r\n\"'\\]++)")
_HEADER_VALUE = re.compile(rb"([^\s\"'\\]{8,}+)")

# Ways to write a plain character in JSON, at any depth of JSON within JSON.
_HAS_ESCAPE = re.compile(rb"\\u00[2-7]")
_ESCAPE = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|/)")


def redact(data: bytes) -> Redacted:
    """`data` with every secret in it replaced by a word like `[redacted:jwt]`. Raises TooMuch."""
    return blank(data, find(data))


def text(value: str) -> str:
    """The same for a message. What cannot be searched is left out whole."""
    try:
        return redact(value.encode("utf-8", "surrogatepass")).data.decode("utf-8", "surrogatepass")
    except TooMuch:
        return HIDDEN.decode()


def headers(fields: Iterable[Header]) -> tuple[Header, ...]:
    """Header fields with the values of those that carry credentials blanked."""
    return tuple((name, HIDDEN if is_secret(name) else value) for name, value in fields)


@lru_cache(512)
def is_secret(name: bytes) -> bool:
    """Whether a header field of this name carries a credential, also if it is spelt as some servers read it."""
    return name.strip().lower().replace(b"_", b"-") in SECRET_HEADERS


def blank(data: bytes, spans: Iterable[Span]) -> Redacted:
    """`data` with these spans, which may overlap, replaced. The count is that of the labels that are left."""
    parts: list[bytes] = []
    position = count = 0
    for start, end, label in _merged(spans):
        parts += data[position:start], _word(label)
        position = end
        count += bool(label)
    return Redacted(b"".join((*parts, data[position:])), count) if parts else Redacted(data, 0)


def find(data: bytes) -> list[Span]:
    """Where the secrets are. Spans may overlap. Raises TooMuch."""
    view, offsets = _unescaped(data)
    found = _search(view)
    return [Span(offsets(start), offsets(end), label) for start, end, label in found] if offsets else found


def _search(view: bytes) -> list[Span]:
    lower = view.lower()
    return [
        *(span for rule in _RULES for span in _by_rule(rule, view)),
        *_by_rule(_BEARER, lower),
        *_jwts(view),
        *_private_keys(view),
        *_aws_keys(view),
        *_keyed(view, lower),
    ]


def _by_rule(rule: Rule, view: bytes) -> Iterator[Span]:
    if rule.literal not in view:
        return
    for match in rule.pattern.finditer(view):
        yield Span(*match.span(match.re.groups), rule.label)


def _jwts(view: bytes) -> Iterator[Span]:
    """The expression takes whole runs, signed or not: from each `eyJ` within one anew would be quadratic."""
    if b"eyJ" in view:
        yield from (Span(*match.span(), "jwt") for match in _JWT.finditer(view) if match[1])


def _private_keys(view: bytes) -> Iterator[Span]:
    """PEM blocks; of one that is cut, all that can belong to it."""
    if b"PRIVATE KEY" not in view:
        return
    position = found = 0
    while begin := _PEM.search(view, position):
        if (found := found + 1) > _MOST_PEMS:
            raise TooMuch
        end = _PEM_END.search(view, begin.end(), begin.end() + _PEM_BYTES)
        body = end or _PEM_BODY.match(view, begin.end())
        position = body.end() if body else begin.end()
        yield Span(begin.start(), position, "private-key")


def _aws_keys(view: bytes) -> Iterator[Span]:
    if b"IA" not in view:
        return
    for match in _AWS_ID.finditer(view):
        yield Span(*match.span(), "aws-key-id")
        if secret := _AWS_SECRET.search(view, match.end(), match.end() + _AWS_NEAR):
            yield Span(*secret.span(), "aws-secret")


# Values behind a telling name


def _keyed(view: bytes, lower: bytes) -> Iterator[Span]:
    candidates = 0
    for word, pattern in _KEYED:
        done = 0
        for match in pattern.finditer(lower) if word in lower else ():
            if (candidates := candidates + 1) > MOST_CANDIDATES:
                raise TooMuch
            if match.start() < done:
                continue  # within a value already: to look for its end once more would be quadratic
            name = lower[max(0, match.start() - _LONGEST_STEM) : match.end(1)]
            for span in _guarded(view, lower, match, name):
                done = span.end
                yield span


def _guarded(view: bytes, lower: bytes, match: re.Match[bytes], name: bytes) -> Iterator[Span]:
    """What the name at `match` guards: strings, a number, or what a shell or a header has behind it."""
    quote, position = match[2], match.end()
    if not name.endswith(_ENDINGS):
        yield from _in_shell(view, match)
    elif value := _APOSTROPHES.match(view, position):
        yield Span(*value.span(1), "secret")
    elif quote.endswith(b'"'):
        yield from _in_json(view, position, quote) if match[3] == b":" else ()
    elif view.startswith(b"\\", position) and (string := _string(view, position)):
        # Escaped: with a bare quotation mark the JSON string would end in which all of this stands.
        yield string
    elif match[3] == b"=":
        yield from _in_shell(view, match)
    elif (expected := _header_value(name)) and (value := expected.match(lower, position)):
        yield Span(*value.span(1), "secret")


def _in_shell(view: bytes, match: re.Match[bytes]) -> Iterator[Span]:
    """The value of a variable, as in a file of environment variables: `API_TOKEN=...`, nothing in between."""
    is_variable = (
        match[0].endswith(b"=") and match.end(1) + 1 == match.end() and view[match.start() : match.end(1)].isupper()
    )
    if is_variable and (value := _BARE.match(view, match.end())):
        yield Span(*value.span(), "secret")


def _header_value(name: bytes) -> re.Pattern[bytes] | None:
    if name.endswith(b"authorization"):
        return _SCHEME
    if name.endswith(b"cookie"):
        return _COOKIES
    return _HEADER_VALUE if name.endswith(b"api-key") else None


def _in_json(view: bytes, position: int, quote: bytes) -> Iterator[Span]:
    """The value of a key in such quotation marks: a string, strings in a list, or a number."""
    if view.startswith(b"[", position):
        position = _after(_BETWEEN, view, position + 1)
        while view.startswith(quote, position) and (string := _string(view, position)):
            yield string
            position = _after(_BETWEEN, view, string.end + len(quote))
    elif view.startswith(quote, position) and (string := _string(view, position)):
        yield string
    elif number := _NUMBER.match(view, position):
        yield Span(*number.span(), "number")


def _after(pattern: re.Pattern[bytes], view: bytes, position: int) -> int:
    match = pattern.match(view, position)
    return match.end() if match else position


def _string(view: bytes, position: int) -> Span | None:
    """The inside of the string that begins here; it may be in a string itself, which escapes its quotation marks."""
    if (opening := _QUOTE.match(view, position)) is None:
        return None
    depth, start = len(opening[1]), opening.end()
    end = view.find(b'"', start)
    while end >= 0:
        escapes = _backslashes(view, start, end)
        if escapes <= depth or (depth == 0 and escapes % 2 == 0):
            return Span(start, end - min(escapes, depth), "secret")
        end = view.find(b'"', end + 1)
    return Span(start, len(view), "secret")


def _backslashes(view: bytes, start: int, end: int) -> int:
    """How many stand directly before `end`."""
    position = end
    while position > start and view[position - 1] == 0x5C:
        position -= 1
    return end - position


# Escapes, overlaps


def _unescaped(data: bytes) -> tuple[bytes, Callable[[int], int] | None]:
    """`data` with its needless escapes undone, and what leads from a place in that to the one in `data`."""
    if b"\\/" not in data and not _HAS_ESCAPE.search(data):
        return data, None
    parts: list[bytes] = []
    places, origins = [0], [0]
    position = length = 0
    for match in _ESCAPE.finditer(data):
        char = bytes([int(match[1], 16)]) if match[1] else b"/"
        start = match.start() - _backslashes(data, position, match.start())
        parts += data[position:start], char
        length += start - position + 1
        position = match.end()
        places += length - 1, length
        origins += start, position
    if not parts:
        return data, None
    return b"".join((*parts, data[position:])), _lookup(places, origins)


def _lookup(places: Sequence[int], origins: Sequence[int]) -> Callable[[int], int]:
    def origin(place: int) -> int:
        index = bisect_right(places, place) - 1
        return origins[index] + place - places[index]

    return origin


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; those that overlap are one, under the first's label or whichever has one."""
    merged: list[Span] = []
    for span in sorted(spans):
        if span.start >= span.end:
            continue
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Span(last.start, max(last.end, span.end), last.label or span.label)
        else:
            merged.append(span)
    return merged


def _word(label: str) -> bytes:
    if label == "number":
        return b"0"
    return b"[redacted:%s]" % label.encode() if label else b""
