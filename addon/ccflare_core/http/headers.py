"""Rules for header fields: which heads are refused, and which fields are not forwarded. Pure.

Whatever is not named here passes as it came, in its order and its spelling.
"""

import itertools
import re
from collections.abc import Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from ccflare_core.http.rejection import Rejection

Header = tuple[bytes, bytes]
"""A field's name and value, as they came."""

HEAD_BYTES = 64 * 1024
"""What the header fields of a message may have together."""
HEAD_FIELDS = 200
"""How many there may be. A genuine client sends about 25."""
TARGET_BYTES = 16 * 1024
"""What the target of a request may have."""

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}")
_VERSIONS = {b"h2": (b"HTTP/2.0",), b"h3": (b"HTTP/3",)}
_HTTP1 = (b"HTTP/1.0", b"HTTP/1.1")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")


class Line(NamedTuple):
    """The first line of a request, or what HTTP/2 has in its place; `protocol` is what TLS has agreed on, if it has."""

    method: bytes
    target: bytes
    version: bytes = _HTTP1[1]
    protocol: bytes | None = None


def refuse_request(line: Line, fields: Sequence[Header]) -> Rejection | None:
    """Why a request with this head goes no further; None if it may."""
    joined = _joined(fields)
    if problem := _oversize(fields, joined):
        return Rejection(431, f"The request's {problem}.")
    if len(line.target) > TARGET_BYTES:
        return Rejection(414, f"The request's target is larger than {TARGET_BYTES} bytes.")
    if _METHOD.fullmatch(line.method) is None or _TARGET.fullmatch(line.target) is None:
        return Rejection(400, "The request's first line has characters that do not belong there.")
    if line.version not in _VERSIONS.get(line.protocol or b"", _HTTP1):
        return Rejection(400, "The request is of a version of HTTP that its connection does not speak.")
    if _is_split(joined):
        return Rejection(400, "A header field of the request has a line break or a NUL inside.")
    names = _names(fields)
    if _hosts(names) > 1:
        return Rejection(400, "The request names its host more than once.")
    if not {fields[at][1].strip().lower() for at in _codings(names)} <= {b"chunked"}:
        # Who skips the coding reads another body than who undoes it, and we only pass it on (RFC 9112, 6.1).
        return Rejection(400, "The request's body is in a transfer coding other than chunked.")
    return None


def unfit_answer(fields: Sequence[Header]) -> str | None:
    """Why an upstream's answer with these fields cannot be passed on, in a few words; None if it can."""
    joined = _joined(fields)
    if problem := _oversize(fields, joined):
        return f"the answer's {problem}"
    return "the answer's header has a line break or a NUL inside a field" if _is_split(joined) else None


def _oversize(fields: Sequence[Header], joined: bytes) -> str | None:
    if len(fields) > HEAD_FIELDS:
        return f"header has more than {HEAD_FIELDS} fields"
    return f"header fields are larger than {HEAD_BYTES} bytes" if len(joined) > HEAD_BYTES else None


def _joined(fields: Sequence[Header]) -> bytes:
    return b"".join(itertools.chain.from_iterable(fields))


def _is_split(joined: bytes) -> bool:
    """Whether a line was folded, or means to be two lines to somebody else."""
    return b"\r" in joined or b"\n" in joined or b"\0" in joined


def _names(fields: Sequence[Header]) -> tuple[bytes, ...]:
    return next(zip(*fields, strict=True), ())


@lru_cache(512)
def _hosts(names: tuple[bytes, ...]) -> int:
    return sum(name.lower() == b"host" for name in names)


@lru_cache(512)
def _codings(names: tuple[bytes, ...]) -> tuple[int, ...]:
    """The places of the fields that name a transfer coding."""
    return tuple(at for at, name in enumerate(names) if name.lower() == b"transfer-encoding")


# What a field is about, by its name.
_CONNECTION = 1
_UPGRADE = 2
_LOCAL = 4  # one connection, or a program and this proxy; never the next connection (RFC 9110, 7.6.1)
_CLIENT = 8  # the client, its organization, its other logins or its way here, or another method and path than
#              those that were looked at: nothing for an account's upstream
_ACCOUNT = 16  # the account's organization, or a way past this proxy: nothing for the client

_MARKS = {
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"keep-alive": _LOCAL,
    b"http2-settings": _LOCAL,
    b"cookie": _CLIENT,
    b"forwarded": _CLIENT,
    b"via": _CLIENT,
    b"x-real-ip": _CLIENT,
    b"x-method-override": _CLIENT,
    b"te": _CLIENT,
    b"trailer": _CLIENT,
    b"set-cookie": _ACCOUNT,
    b"set-cookie2": _ACCOUNT,
    b"anthropic-organization-id": _ACCOUNT,
    b"anthropic-workspace-id": _CLIENT | _ACCOUNT,  # either way it is a workspace that the other side does not have
    b"anthropic-user-profile-id": _CLIENT,
    b"alt-svc": _ACCOUNT,
}
_PREFIXES = {
    b"proxy-": _LOCAL,
    b"x-ccflare-": _LOCAL,
    b"x-forwarded-": _CLIENT,
    b"x-http-method": _CLIENT,
    b"x-original-": _CLIENT,
    b"x-rewrite-": _CLIENT,
}

_KEEP = frozenset({b"keep-alive"})
# The end of a client's connection is none of the upstream's, which other requests may follow.
_PERSISTENCE = _KEEP | {b"close"}
# Without these a message is read differently by who gets it, so naming them in Connection removes nothing.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})


def toward_upstream(fields: Sequence[Header], *, leased: bool) -> tuple[Header, ...]:
    """What of a client's fields goes on; with `leased`, to an account that is not the client's own."""
    return _passing(fields, _LOCAL | _UPGRADE | _CLIENT if leased else _LOCAL, _KEEP)


def toward_client(fields: Sequence[Header], *, leased: bool) -> tuple[Header, ...]:
    """What of an upstream's fields goes on; with `leased`, of an account that is not the client's own."""
    return _passing(fields, _LOCAL | _UPGRADE | _ACCOUNT if leased else _LOCAL, _PERSISTENCE)


class _Plan(NamedTuple):
    """What becomes of fields with certain names."""

    passes: tuple[bool, ...]
    connections: tuple[int, ...]
    """The places of those that pass."""
    upgrades: bool
    """Whether one that passes is an Upgrade."""


@lru_cache(512)
def _plan(names: tuple[bytes, ...], dropped: int) -> _Plan:
    """Made once for a client or an upstream: they send the same names with every message."""
    marks = [_mark(name.lower()) for name in names]
    kept = [(place, mark) for place, mark in enumerate(marks) if not mark & dropped]
    return _Plan(
        passes=tuple(not mark & dropped for mark in marks),
        connections=tuple(place for place, mark in kept if mark & _CONNECTION),
        upgrades=any(mark & _UPGRADE for _, mark in kept),
    )


def _mark(name: bytes) -> int:
    name = name.replace(b"_", b"-")  # the same to servers that make variables of fields
    return _MARKS.get(name, 0) | sum(mark for prefix, mark in _PREFIXES.items() if name.startswith(prefix))


def _passing(fields: Sequence[Header], dropped: int, persistence: Set[bytes]) -> tuple[Header, ...]:
    plan = _plan(_names(fields), dropped)
    passing = tuple(itertools.compress(fields, plan.passes))
    is_plain = {fields[place][1].lower() for place in plan.connections} <= persistence
    return passing if is_plain and not plan.upgrades else _without_named(passing, persistence)


def _without_named(fields: Sequence[Header], persistence: Set[bytes]) -> tuple[Header, ...]:
    """The fields without those that Connection names. An upgrade is left only if it is to a WebSocket.

    Of what Connection says of the connection itself, `persistence` is left.
    """
    connections = [_tokens(value) for name, value in fields if name.lower() == b"connection"]
    upgrades = {value.lower() for name, value in fields if name.lower() == b"upgrade"}
    named = {token for tokens in connections for token in tokens}
    is_websocket = b"upgrade" in named and upgrades == {b"websocket"}
    allowed = persistence | {b"upgrade"} if is_websocket else persistence
    dropped = (named | {b"upgrade"}) - allowed - _FRAMING
    kept: list[Header] = []
    for name, value in fields:
        if name.lower() == b"connection":
            tokens = _tokens(value)
            left = [token for token in tokens if token in allowed]
            kept += [(name, value if left == tokens else b", ".join(left))] if left else []
        elif name.lower() not in dropped:
            kept.append((name, value))
    return tuple(kept)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]
