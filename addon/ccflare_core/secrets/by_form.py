"""Finds secrets that their form gives away, and passwords in the places where a command or a file has them.

What all of them have is a long run of letters, digits, `_` and `-`. Such runs are few in what people and programs
write, so only around them is looked for anything else.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby

from ccflare_core.secrets.formats import AWS_ID, RULES, Rule
from ccflare_core.secrets.spans import Budget, Span

_SHORTEST = 18
_IN_RUN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
# To find a long needle of one letter takes two nanoseconds a byte or less, since what is too short is jumped over; an
# expression that begins with a class takes thirty. Hence the search in a copy with one letter for the whole class.
_CLASSES = bytes(0x61 if byte in _IN_RUN else 0x20 for byte in range(256))
_NEEDLE = b"a" * _SHORTEST
_SPACE, _QUOTE = 0x20, 0x22
_DIGIT = re.compile(rb"[0-9]")

_FAR = 64
"""How deep in a run a literal is looked for."""
_MIDDLE = 26
_BLOB_START = 128
_BACK = {
    ord("/"): _BLOB_START,
    ord("+"): _BLOB_START,
    ord("."): _MIDDLE,
    ord("~"): _MIDDLE,
    ord(":"): _MIDDLE,
    ord("$"): _MIDDLE,
}
_IN_BLOB = (b"+", b"/")
_BLOB = re.compile(rb"[A-Za-z0-9+/]{200}")
_BLOB_REST = re.compile(rb"[A-Za-z0-9+/]*+")
_LONGEST = 700
"""Of a secret with its literal in the middle."""

_AWS_SECRET = re.compile(rb"(?<![\w+/])[A-Za-z0-9+/]{40}(?![\w+/=])")
_AWS_NEAR = 160
"""How far behind a key's id its secret half is looked for, in bytes."""

_LEFT = 200
"""How far back it is looked for what a run stands behind, in bytes."""
_BREAK = rb"(?:^|[\s\"'=]|\\[nrt])"
_AFTER_COLON = re.compile(
    # curl -u user:secret, wget --user=…; ~/.pgpass (https://www.postgresql.org/docs/current/libpq-pgpass.html)
    rb"(?:\s(?:-u|--user|--proxy-user)[\s=]{1,3}[\\\"']{0,8}[\w.@+-]{1,64}"
    rb"|" + _BREAK + rb"[\w.*-]{1,100}:(?:\d{1,5}|\*):[\w.*-]{1,64}:[\w.*@-]{1,64}):\Z"
)
_JWK_MEMBER = re.compile(rb"\\*\"(?:d|p|q|dp|dq|qi|k)\\*\"\s{0,8}:\s{0,8}\\*\"\Z")
_JWK_PLAIN = tuple(b'"%s":"' % name for name in (b"d", b"p", b"q", b"dp", b"dq", b"qi", b"k"))
_JWK_NEAR = 4096
_REST = re.compile(rb"[^\s\"'\\<>]{0,512}+")
_CREDENTIAL = re.compile(rb"[\w.~+/=-]{16,}+")


def _expression(words: Iterable[str]) -> str:
    """What finds any of the words, the longest first, letter by letter: a plain list takes three times as long."""
    branches = []
    for first, group in groupby(sorted(words, reverse=True), key=lambda word: word[:1]):
        rest = {word[1:] for word in group}
        branches.append(re.escape(first) + (f"(?:{_expression(rest)})" if rest != {""} else ""))
    return "|".join(branches)


_LITERALS = {literal for rule in RULES for literal in rule.literals}
_INNER = {"sk-ant-", "ccf_", *(literal for rule in RULES for literal in rule.literals if rule.back)}
"""Those that are looked for within words too: the keys that pass through here, and what has its literal inside."""
_GLUE = b"\\%["
"""What begins an escape in JSON, in a URL, in a terminal. That ends with letters or digits which are none of a word."""
_GUARDS = b': \t"'
# Of a literal also the rules for what it begins with: what is no `sk-ant-…` may still be an `sk-…`.
_RULES = {
    literal.encode(): [rule for rule in RULES for known in rule.literals if literal.startswith(known)]
    for literal in _LITERALS
}


@cache
def _literal() -> re.Pattern[bytes]:
    """Any of the literals."""
    return re.compile(_expression(_LITERALS).encode())


@cache
def _bordered() -> re.Pattern[bytes]:
    """One at the beginning of a word, or one that may stand within."""
    return re.compile(f"(?<![A-Za-z0-9])(?:{_expression(_LITERALS)})|{_expression(_INNER)}".encode())


@cache
def _id() -> re.Pattern[bytes]:
    """An id of the API's: it is its two words, and a literal could begin neither of them, nor stand within."""
    return re.compile(f"(?:toolu|srvtoolu|msg|req)_(?!{_expression(_LITERALS)})[A-Za-z0-9]++\\Z".encode())


def find(view: bytes, budget: Budget, low: int, high: int) -> Iterator[Span]:
    """The secrets in `view` whose runs begin from `low` to `high`. Raises TooMuch."""
    classes = view.translate(_CLASSES) + b" "
    done, start = 0, classes.find(_NEEDLE, low)
    names: set[bytes] = set()  # of a stream's events each comes a thousand times
    while 0 <= start < high:
        end = classes.find(b" ", start)
        run = view[start:end]
        if start >= done and run not in names and _is_plain(run):
            names.add(run)
        elif start >= done and run not in names:
            for span in _in_run(view, run, start, done, budget):
                yield span
                done = span.end
            if done <= start and view[end : end + 1] in _IN_BLOB and _BLOB.match(view, start):
                end = _end(_BLOB_REST, view, start)  # a picture, a document
        start = classes.find(_NEEDLE, end)


def _in_run(view: bytes, run: bytes, start: int, done: int, budget: Budget) -> list[Span]:
    """What has a vendor's literal in this run or reaches into it, or what stands in a secret's place."""
    before = view[start - 1] if start else _SPACE
    is_id = before == _QUOTE and _id().match(run) is not None  # in a conversation nearly all are
    is_to_be_read = not is_id and (before in _BACK or _holds_literal(run[:_FAR], before))
    found = list(_around(view, run, start, before, done, budget)) if is_to_be_read else []
    if not found and before in _GUARDS and (guarded := _behind(view, start, before, budget)):
        found.append(guarded)
    return found


def _is_plain(run: bytes) -> bool:
    """Whether it is a name: without a digit, and in one case. A key's id may be in capitals alone."""
    if run.islower():
        return not _DIGIT.search(run)
    return run.isupper() and not run.isalpha() and not _DIGIT.search(run)


@lru_cache(2048)
def _holds_literal(head: bytes, before: int) -> bool:
    """Whether a vendor's literal stands in the beginning of a run. Names and ids come again in body after body."""
    if before in _GLUE:
        return _literal().search(head) is not None
    if head.isalnum() and not _literal().match(head):
        return False  # one word has one beginning
    return _bordered().search(bytes([before]) + head, 1) is not None


def _around(view: bytes, run: bytes, start: int, before: int, done: int, budget: Budget) -> Iterator[Span]:
    """What has a vendor's literal in a run, or reaches into it."""
    back = _BACK.get(before, 0)
    literal = _bordered() if back != _MIDDLE and before not in _GLUE else _literal()
    position, end = max(start - back, done), start + min(len(run), _FAR)
    while found := literal.search(view, position, end):
        budget.spend()
        position = found.start() + 1
        for rule in _RULES[found[0]]:
            if match := _match(rule, view, found.start(), done):
                yield from _spans(rule, view, match)
                position = match.end()
                break


def _match(rule: Rule, view: bytes, literal: int, done: int) -> re.Match[bytes] | None:
    if rule.back:
        return rule.pattern.search(view, max(literal - rule.back, done), literal + _LONGEST)
    return rule.pattern.match(view, literal)


def _spans(rule: Rule, view: bytes, match: re.Match[bytes]) -> Iterator[Span]:
    yield Span(*match.span(), rule.label)
    if rule is AWS_ID and (secret := _AWS_SECRET.search(view, match.end(), match.end() + _AWS_NEAR)):
        yield Span(*secret.span(), "aws-secret")


def _behind(view: bytes, start: int, before: int, budget: Budget) -> Span | None:
    """A run that nothing but its place gives away."""
    left = max(start - _LEFT, 0)
    if before == 0x3A and _AFTER_COLON.search(view, left, start):
        return Span(start, _end(_REST, view, start), "password")
    if before in b" \t" and view[max(start - 12, 0) : start].rstrip().lower().endswith(b"bearer"):
        return Span(start, _end(_CREDENTIAL, view, start), "bearer-token")
    if before == _QUOTE and _is_of_jwk(view, start):
        budget.looks_far = True
        near = view[max(start - _JWK_NEAR, 0) : start + _JWK_NEAR]
        return Span(start, _end(_REST, view, start), "jwk") if b'"kty' in near else None
    return None


def _is_of_jwk(view: bytes, start: int) -> bool:
    """Whether the string that begins there is a member of a key in JSON, by its name."""
    if view.endswith(b'":"', 0, start) and view[max(start - 4, 0)] != 0x5C:  # as nearly all of them stand
        return view.endswith(_JWK_PLAIN, 0, start)
    return _JWK_MEMBER.search(view, max(start - 40, 0), start) is not None


def _end(pattern: re.Pattern[bytes], view: bytes, start: int) -> int:
    match = pattern.match(view, start)
    return match.end() if match else start
