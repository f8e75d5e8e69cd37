"""Who asks: a client's key, or the lack of one, is looked up and gives a principal with permissions, or none. Pure.

A key is 192 random bits, so nothing slower than one HMAC has to stand between a guess and a look-up. A right one
passes, however often others at the same address have failed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ccflare_core.clients.keys import ClientKey, Permission
from ccflare_core.clients.throttle import Throttle

KEYLESS = frozenset({Permission.API_REQUEST, Permission.DASHBOARD_VIEW, Permission.SESSION_VIEW})
"""What a caller of this machine may do without a key, where that is allowed: use the accounts and see figures.

What was said, and changes, are for who shows a key or the owner's link: all users of a machine are on its loopback.
"""


class Why(StrEnum):
    """Why a key, or none, gives no principal: for the audit log and the log, never for the client."""

    MISSING = "no key"
    UNKNOWN = "an unknown key"
    EXPIRED = "an expired key"
    REVOKED = "a revoked key"


@dataclass(frozen=True, slots=True)
class Principal:
    """A client that may call, and what for. Without a key it is a program on this machine."""

    key: ClientKey | None
    permissions: frozenset[Permission]
    proof: str | None = field(default=None, repr=False, compare=False)
    """The secret that was presented."""
    run: str = ""
    """The run of a client that it says it is in, known or not."""

    def may(self, permission: Permission) -> bool:
        """Whether it has this permission."""
        return permission in self.permissions


LOCAL = Principal(None, KEYLESS)
OWNER = Principal(None, frozenset(Permission) - {Permission.API_REQUEST})
"""Who has shown a link that only the owner can have got, or has logged in to mitmweb: all of our pages, no requests."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a look-up has found: a principal, or why there is none."""

    principal: Principal | None
    why: Why | None = None
    key: ClientKey | None = None
    """The key that was presented, if there is such a key, valid or not."""
    is_outdated: bool = field(default=False, compare=False)
    """Whether its digest should be made anew, with the newest pepper."""

    @property
    def actor(self) -> str:
        """The client's name in the audit log; "" without a key."""
        return f"client:{self.key.name}" if self.key else ""


class Digest(NamedTuple):
    """Whose key a digest stands for, and until when (epoch seconds) if it has a successor or is temporary."""

    key: str
    until: float | None = None
    run: str = ""
    """The run that it is the temporary key of."""


class Found(NamedTuple):
    """A key that was looked up by its secret."""

    key: ClientKey
    until: float | None
    is_current: bool
    """Whether its digest was made with the newest pepper."""
    run: str = ""
    """The run that it is the temporary key of."""


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
    temporary: Mapping[str, ClientKey] = field(default_factory=dict)
    """What the temporary keys of runs stand for, by the run's id."""
    denied: int = 0
    """How many keys there are or were whose rows somebody else has changed: nobody is let in by them."""
    sign: Callable[[bytes, str], bytes] | None = field(default=None, repr=False, compare=False)
    """Signs what is given to browsers, under one of the data keys: all proxies on the database can check it."""

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made. A key that is over counts: the last one's end must not let everybody in."""
        return bool(self.keys) or self.denied > 0

    def find(self, secret: str) -> Found | None:
        """The key with this secret, whatever its state; always after the same work."""
        found: Found | None = None
        for number, pepper in enumerate(self.peppers):
            if (stored := self.digests.get(self.digest(secret, pepper))) is not None:
                key = self.temporary[stored.run] if stored.run else self.keys[stored.key]
                found = Found(key, stored.until, number == 0, stored.run)
        return found

    def digest_of(self, secret: str) -> bytes | None:
        """The digest that the key with this secret is recognised by; None if there is none."""
        return next((made for pepper in self.peppers if (made := self.digest(secret, pepper)) in self.digests), None)

    def owner_of(self, digest: bytes) -> Found | None:
        """The key that is recognised by this digest, whatever its state."""
        if (stored := self.digests.get(digest)) is None:
            return None
        key = self.temporary[stored.run] if stored.run else self.keys[stored.key]
        return Found(key, stored.until, True, stored.run)


def identify(ring: KeyRing, presented: Sequence[str], now: float, *, is_local: bool, open_loopback: bool) -> Identity:
    """Who presents these keys at `now` (epoch seconds). Two different ones are none: nobody could say which counts."""
    secret = presented[0] if len(presented) == 1 else ""
    found = ring.find(secret)
    if found is not None:
        return _judge(found, secret, now)
    if not presented and is_local and (not ring.has_keys or open_loopback):
        return Identity(LOCAL)
    return Identity(None, Why.UNKNOWN if presented else Why.MISSING)


def recall(ring: KeyRing, principal: Principal, now: float, *, open_loopback: bool) -> Identity:
    """Who that is by now, by the secret that was presented then: another one of the same key does not count for it."""
    presented = () if principal.proof is None else (principal.proof,)
    identity = identify(ring, presented, now, is_local=principal.key is None, open_loopback=open_loopback)
    if identity.principal is None and principal.key is not None:
        return Identity(None, Why.EXPIRED, principal.key)
    return identity


def recall_digest(ring: KeyRing, digest: bytes, now: float) -> Identity:
    """Who has shown the key that is recognised by this digest, by now."""
    found = ring.owner_of(digest)
    return Identity(None, Why.EXPIRED) if found is None else _judge(found, None, now)


def _judge(found: Found, secret: str | None, now: float) -> Identity:
    key = found.key
    if key.revoked_at is not None:
        return Identity(None, Why.REVOKED, key)
    if not key.is_valid(now) or (found.until is not None and found.until <= now):
        return Identity(None, Why.EXPIRED, key)
    principal = Principal(key, key.role.permissions, secret, found.run)
    return Identity(principal, key=key, is_outdated=not found.is_current)


class Authenticator:
    """Holds the client keys and the failures to present one. Until it has been told of the keys it raises."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        open_loopback: Callable[[], bool] = lambda: False,
        outdated: Callable[[str, str], None] = lambda key, secret: None,
        report: Callable[[str, Identity, int], None] = lambda source, identity, number: None,
    ) -> None:
        """`outdated` gets a key's id and secret if its digest should be made anew.

        `report` gets the source, the last identity that was none, and the number of failures since the last report; of
        a burst it gets the first at once and then one an hour.
        """
        self.throttle = Throttle()
        self._wall = wall
        self._open_loopback = open_loopback
        self._outdated = outdated
        self._report = report
        self._ring: KeyRing | None = None
        self._renewing: set[str] = set()

    def replace(self, ring: KeyRing) -> None:
        """Take these keys for the old ones."""
        self._ring = ring
        self._renewing.clear()

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""
        if self._ring is None:
            raise RuntimeError("the client keys are not known yet")
        return self._ring

    @property
    def open_loopback(self) -> bool:
        """Whether programs on this machine need no key even though there are some."""
        return self._open_loopback()

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made."""
        return self.ring.has_keys

    def recall(self, principal: Principal) -> Identity:
        """Who that is by now; see the function."""
        return recall(self.ring, principal, self._wall(), open_loopback=self.open_loopback)

    def renew(self, identity: Identity) -> None:
        """Have the digest of this client's key made anew, once, if it should be."""
        principal = identity.principal
        if not identity.is_outdated or principal is None or principal.key is None or principal.proof is None:
            return
        if principal.key.id not in self._renewing:
            self._renewing.add(principal.key.id)
            self._outdated(principal.key.id, principal.proof)

    def count_failure(self, source: str, identity: Identity, now: float) -> None:
        """Count a request from this address that was turned away for its key. `now` is in monotonic seconds."""
        if number := self.throttle.count(source, now):
            self._report(source, identity, number)
