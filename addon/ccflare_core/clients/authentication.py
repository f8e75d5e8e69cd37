"""Who may call: a client's key or its absence -> a principal with permissions, or a refusal. Pure.

A key is 192 random bits, so nothing slower than one HMAC has to stand between a guess and a look-up, and whoever
presents a right one passes, however often others at his address have failed.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ccflare_core.anthropic import answers
from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.keys import ClientKey, Permission, is_key
from ccflare_core.clients.throttle import Throttle
from ccflare_core.http.headers import Header

KEYLESS = frozenset({Permission.API_REQUEST, Permission.DASHBOARD_VIEW, Permission.LOGS_VIEW})
"""What a caller of this machine may do without a key, where that is allowed: use the accounts and look, not change."""

TAKEN = b"(client key)"
"""Stands in a header in the place of the key, which goes no further: neither upstream nor into anything that shows."""

_LIKE_A_KEY = re.compile(rb"ccf_[A-Za-z0-9_-]{8}")


class Why(StrEnum):
    """Why somebody was refused: for the log, never for himself."""

    MISSING = "no key"
    UNKNOWN = "an unknown key"
    EXPIRED = "an expired key"
    REVOKED = "a revoked key"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may call, and what for. Without a key it is somebody on this machine."""

    key: ClientKey | None
    permissions: frozenset[Permission]
    proof: str | None = field(default=None, repr=False, compare=False)
    """The secret that was presented."""

    def may(self, permission: Permission) -> bool:
        """Whether he has this permission."""
        return permission in self.permissions


@dataclass(frozen=True, slots=True)
class Denied:
    """Somebody who may not."""

    why: Why
    key: ClientKey | None = None
    """The key that is over, for the log."""


LOCAL = Principal(None, KEYLESS)


class Digest(NamedTuple):
    """Whose key a digest stands for, and until when (epoch seconds) if it has a successor."""

    key: str
    until: float | None = None


class Found(NamedTuple):
    """A key that was looked up by its secret."""

    key: ClientKey
    until: float | None
    is_current: bool
    """Whether its digest was made with the newest pepper."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All client keys as they are stored: no secret can be read from it, but each can be recognised.

    `peppers` names the data keys under which the digests were made, the newest of all first. `digest` gives what is
    stored for a secret under one of them.
    """

    digest: Callable[[str, str], bytes] = field(repr=False, compare=False)
    peppers: tuple[str, ...]
    keys: Mapping[str, ClientKey] = field(default_factory=dict)
    digests: Mapping[bytes, Digest] = field(default_factory=dict, repr=False)

    def find(self, secret: str) -> Found | None:
        """The key with this secret, whatever its state; always after the same work."""
        found: Found | None = None
        for number, pepper in enumerate(self.peppers):
            if (stored := self.digests.get(self.digest(secret, pepper))) is not None:
                found = Found(self.keys[stored.key], stored.until, number == 0)
        return found


class Guard:
    """Knows the client keys and decides. Until it has been told of them it raises, so nobody passes."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        open_loopback: Callable[[], bool] = lambda: False,
        outdated: Callable[[str, str], None] = lambda key, secret: None,
        report: Callable[[str, Denied, int], None] = lambda source, denied, number: None,
    ) -> None:
        """`outdated` gets a key's id and secret if its digest should be made anew.

        `report` gets the source, the last refusal and the number of refusals since the last report; of a burst it gets
        the first at once and then one an hour.
        """
        self._wall = wall
        self._open_loopback = open_loopback
        self._outdated = outdated
        self._report = report
        self._throttle = Throttle(clock)
        self._ring: KeyRing | None = None
        self._renewing: set[str] = set()

    def replace(self, ring: KeyRing) -> None:
        """Take these keys for the old ones."""
        self._ring = ring
        self._renewing.clear()

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made. One that is over counts: the last one's end must not open the door."""
        return bool(self._known.keys)

    @property
    def _known(self) -> KeyRing:
        if self._ring is None:
            raise RuntimeError("the client keys are not known yet")
        return self._ring

    def identify(self, presented: Sequence[str], *, is_local: bool) -> Principal | Denied:
        """Who presents these keys. Two different ones are none, since nobody could say which counts."""
        ring = self._known
        secret = presented[0] if len(presented) == 1 else ""
        found = ring.find(secret)
        if found is not None:
            return self._judge(found, secret)
        if not presented and is_local and (not ring.keys or self._open_loopback()):
            return LOCAL
        return Denied(Why.UNKNOWN if presented else Why.MISSING)

    def recall(self, who: Principal) -> Principal | Denied:
        """Who that is by now, by what he presented then: another secret of the same key does not count for it."""
        now = self.identify(() if who.proof is None else (who.proof,), is_local=who.key is None)
        return Denied(Why.EXPIRED, who.key) if isinstance(now, Denied) and who.key is not None else now

    def _judge(self, found: Found, secret: str) -> Principal | Denied:
        key, now = found.key, self._wall()
        if key.revoked_at is not None:
            return Denied(Why.REVOKED, key)
        if not key.is_valid(now) or (found.until is not None and found.until <= now):
            return Denied(Why.EXPIRED, key)
        if not found.is_current and key.id not in self._renewing:
            self._renewing.add(key.id)
            self._outdated(key.id, secret)
        return _with(key, secret)

    def refuse(self, denied: Denied, source: str, *, is_tunnel: bool = False) -> Answer:
        """What to tell somebody at this address who was denied: the same whatever the reason.

        Too many refusals and he is told to wait. `is_tunnel` is for the answer to a CONNECT.
        """
        failure = self._throttle.failed(source)
        if failure.to_report:
            self._report(source, denied, failure.to_report)
        if failure.wait:
            return slow_down(failure.wait)
        return PROXY_KEY_REQUIRED if is_tunnel else KEY_REQUIRED


def _with(key: ClientKey, secret: str) -> Principal:
    return Principal(key, key.role.permissions, secret)


def _challenge(status: int, name: bytes, scheme: bytes, message: str) -> Answer:
    # Final, since no key becomes right by waiting: Claude Code would try a wrong one 11 times in 179 s (measured).
    answer = answers.error(status, message, is_final=True)
    return answer._replace(headers=(*answer.headers, (name, scheme + b' realm="ccflare"')))


KEY_REQUIRED = _challenge(
    401,
    b"www-authenticate",
    b"Bearer",
    "A valid client key of this proxy is required, in x-api-key or as a bearer token.",
)
PROXY_KEY_REQUIRED = _challenge(
    407,
    b"proxy-authenticate",
    b"Basic",
    "A valid client key of this proxy is required, as the password of the proxy's address.",
)
TUNNEL_OVER = answers.error(403, "The client key that this connection was opened with is no longer valid.")


def slow_down(seconds: int) -> Answer:
    """For who has failed too often: a person may try again after that time, a program not by itself."""
    message = "Too many requests without a valid client key; wait before the next one."
    return answers.error(429, message, retry_after=seconds, is_final=True)


def forbidden(permission: Permission) -> Answer:
    """For somebody who is known, but may not do this."""
    return answers.error(403, f"This needs the permission {permission}.")


def take_keys(fields: Sequence[Header]) -> tuple[list[str], tuple[Header, ...]]:
    """The different client keys in a request's headers, and the headers without them.

    `proxy-authorization` is for us and goes; where a key stood in another credential header, `TAKEN` stands then. A
    credential that is no client key is the client's own and stays.
    """
    presented: dict[str, None] = {}
    kept: list[Header] = []
    for name, value in fields:
        lower = name.strip().lower()
        if lower in (b"x-api-key", b"authorization", b"proxy-authorization"):
            words = _credentials(value)
            presented |= dict.fromkeys(text for word in words if is_key(text := word.decode("latin-1")))
            if lower == b"proxy-authorization":
                continue
            if any(_LIKE_A_KEY.search(word) for word in words):
                value = TAKEN
        kept.append((name, value))
    return list(presented), tuple(kept)


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
    return any(name.strip().lower() in (b"x-api-key", b"authorization") and value != TAKEN for name, value in fields)
