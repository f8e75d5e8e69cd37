"""Sessions of browsers: a cookie that stands for a client key that was shown, or for a link of the owner's. Pure.

They are kept in memory, so a restart ends them. A browser sends a cookie of one port of this machine to all the others
too, SameSite=Strict or not: so the cookie has the port in its name, goes no further than here, opens our pages alone,
and a change takes the session's token beside it.
"""

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ccflare_core.clients.authentication import OWNER, Identity, KeyRing, Principal, recall
from ccflare_core.http.headers import Header

IDLE_SECONDS = 3600.0
"""After so long without a request a session is over."""
LONGEST_SECONDS = 12 * 3600.0
"""A session is over by then in any case."""
MOST = 256
"""Sessions at once; then who has most of them loses the one that was used longest ago."""
COOKIE = b"ccflare_session_"
"""What the names of our cookies begin with, before the port."""
PATH = "/ccflare/"


@dataclass(frozen=True, slots=True)
class Session:
    """Who has logged in, and the token that a change has to bring."""

    principal: Principal
    token: str = field(repr=False)
    begun_at: float


class Begun(NamedTuple):
    """A new session, and the cookie's value, which is kept nowhere."""

    session: Session
    cookie: str

    def __repr__(self) -> str:
        return f"Begun({self.session})"


@dataclass(slots=True)
class _Entry:
    session: Session
    used_at: float

    def is_over(self, now: float) -> bool:
        return now - self.used_at >= IDLE_SECONDS or now - self.session.begun_at >= LONGEST_SECONDS


class Sessions:
    """All sessions of one proxy, by their cookies' digests. Times are monotonic seconds."""

    def __init__(self, new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(32), most: int = MOST) -> None:
        self._new_secret = new_secret
        self._most = most
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def begin(self, principal: Principal, now: float) -> Begun:
        """A session for who has just shown a valid key or link."""
        cookie, session = self._new_secret(), Session(principal, self._new_secret(), now)
        self._entries[_digest(cookie)] = _Entry(session, now)
        while len(self._entries) > self._most:
            self._give_way()
        return Begun(session, cookie)

    def _give_way(self) -> None:
        """End one session of who has most of them: nobody's logins end the sessions of others."""
        whose = [_whose(entry.session) for entry in self._entries.values()]
        ((most, _),) = Counter(whose).most_common(1)
        del self._entries[list(self._entries)[whose.index(most)]]

    def find(self, cookies: Sequence[str], now: float) -> Session | None:
        """The session that one of these cookies stands for, if it is not over."""
        for cookie in cookies:
            entry = self._entries.get(_digest(cookie))
            if entry is not None and not entry.is_over(now):
                return entry.session
        return None

    def is_on(self, session: Session, now: float) -> bool:
        """Whether it is not over yet."""
        return any(entry.session is session and not entry.is_over(now) for entry in self._entries.values())

    def used(self, session: Session, now: float) -> None:
        """Note that it was used: its idle time begins anew."""
        for digest, entry in list(self._entries.items()):
            if entry.is_over(now):
                del self._entries[digest]
            elif entry.session is session:
                entry.used_at = now
                self._entries.move_to_end(digest)

    def end(self, session: Session) -> None:
        """Log out."""
        self._entries = OrderedDict((d, entry) for d, entry in self._entries.items() if entry.session is not session)


def identity_of(session: Session, ring: KeyRing, now: float) -> Identity:
    """Who that is by now: a session ends with the key that was shown for it. `now` is in epoch seconds."""
    if session.principal.key is None:
        return Identity(OWNER)
    return recall(ring, session.principal, now, open_loopback=False)


def take_cookies(fields: Sequence[Header], port: int) -> tuple[tuple[str, ...], tuple[Header, ...]]:
    """The values of our cookie for this port, and the header fields without any cookie of ours, of whichever port."""
    if COOKIE not in b"\n".join([value for _, value in fields]):
        return (), tuple(fields)
    found: list[str] = []
    kept: list[Header] = []
    for name, value in fields:
        if name.strip().lower() == b"cookie" and COOKIE in value:
            pairs = [pair.strip() for pair in value.split(b";")]
            own = [pair.partition(b"=") for pair in pairs if pair.startswith(COOKIE)]
            found += [each.decode("latin-1") for key, _, each in own if key == _name(port)]
            if not (others := [pair for pair in pairs if pair and not pair.startswith(COOKIE)]):
                continue
            value = b"; ".join(others)
        kept.append((name, value))
    return tuple(found), tuple(kept)


def cookie_of(value: str, port: int, *, tls: bool) -> Header:
    """The header field that gives a browser this session; without a value the one that takes it away."""
    age = "" if value else "; Max-Age=0"
    secure = "; Secure" if tls else ""
    text = f"{_name(port).decode()}={value}; Path={PATH}; HttpOnly; SameSite=Strict{secure}{age}"
    return (b"set-cookie", text.encode())


def _whose(session: Session) -> str:
    """The id of the client key; "" for the owner's."""
    key = session.principal.key
    return key.id if key is not None else ""


def _name(port: int) -> bytes:
    return COOKIE + b"%d" % port


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("latin-1", "replace")).digest()
