"""Where client keys stand in a request's header fields, and the fields without them. Pure."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from ccflare_core.clients.client_runs import PREFIX as RUN
from ccflare_core.clients.keys import is_key
from ccflare_core.http.headers import Header

TAKEN = b"(client key)"
"""Stands in a header in the place of the key, which goes no further: neither upstream nor into anything that shows."""

_CREDENTIAL_FIELDS = frozenset({b"x-api-key", b"authorization", b"proxy-authorization"})
_LIKE_A_KEY = re.compile(rb"ccf_[A-Za-z0-9_-]{8}")
_WHOLE_KEY = re.compile(rb"ccf_[A-Za-z0-9_-]{22,}")


def take_keys(fields: Sequence[Header]) -> tuple[list[str], tuple[Header, ...]]:
    """The different client keys in a request's headers, and the headers without them.

    `proxy-authorization` is for us and goes; where a key stood in another credential header, `TAKEN` stands then. A
    credential that is no client key is the client's own and stays.
    """
    presented: dict[str, None] = {}
    kept: list[Header | None] = list(fields)
    for place, lower in _places(tuple([name for name, _ in fields])):
        name, value = fields[place]
        words = _credentials(value)
        presented |= dict.fromkeys(text for word in words if is_key(text := word.decode("latin-1")))
        if lower == b"proxy-authorization":
            kept[place] = None
        elif any(_LIKE_A_KEY.search(word) for word in words):
            kept[place] = (name, TAKEN)
    return list(presented), tuple([field for field in kept if field is not None])


@lru_cache(512)
def _places(names: tuple[bytes, ...]) -> list[tuple[int, bytes]]:
    """Where credentials stand among fields of these names. A client sends the same ones with every request."""
    lower = (name.strip().lower() for name in names)
    return [(place, name) for place, name in enumerate(lower) if name in _CREDENTIAL_FIELDS]


def may_hold_key(parts: Iterable[bytes]) -> bool:
    """Whether one of these could have a client key in it: what a look at all of them together tells."""
    joined = b"\n".join(parts)
    return b"%" in joined or b"ccf_" in joined


def run_label(fields: Iterable[Header]) -> str:
    """The run that a client says it is in, as the user of the proxy's address; "" if it says none.

    Whatever begins like a run's id is one, known or not. Two different ones are an unknown one.
    """
    found: dict[str, None] = {}
    for name, value in fields:
        if name.strip().lower() == b"proxy-authorization":
            words = (word.decode("latin-1") for word in _credentials(value))
            found |= dict.fromkeys(word for word in words if word.startswith(RUN))
    return next(iter(found)) if len(found) == 1 else RUN if found else ""


def misplaced_key(parts: Iterable[tuple[str, bytes]]) -> str:
    """The name of the first part with a client key in it, percent-encoded or not; "" if none has one."""
    return next((name for name, value in parts if _WHOLE_KEY.search(_plain(value))), "")


def without_keys(value: bytes) -> bytes:
    """A part of a request without the client keys that it holds."""
    plain = _plain(value)
    return _WHOLE_KEY.sub(TAKEN, plain) if _WHOLE_KEY.search(plain) else value


def _plain(value: bytes) -> bytes:
    return unquote_to_bytes(value) if b"%" in value else value


def _credentials(value: bytes) -> list[bytes]:
    """What a credential header can mean: its value, or what follows its scheme; of Basic both halves."""
    scheme, _, rest = value.strip().partition(b" ")
    match scheme.lower(), rest.strip():
        case (b"basic", encoded):
            return [encoded, *_decoded(encoded).partition(b":")]
        case (b"bearer", token):
            return [token]
        case _:
            return [value.strip()]


def _decoded(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""


def without_taken(fields: Sequence[Header]) -> tuple[Header, ...]:
    """The headers to send upstream with the client's own credential, if it has one: no trace of its key."""
    return tuple((name, value) for name, value in fields if value != TAKEN)


def has_credential(fields: Sequence[Header]) -> bool:
    """Whether the client has a credential of its own, beside its key."""
    places = _places(tuple([name for name, _ in fields]))
    return not {fields[place][1] for place, name in places if name != b"proxy-authorization"} <= {TAKEN}
