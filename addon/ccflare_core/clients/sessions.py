"""Sessions of browsers: a cookie that stands for a client key that was shown, or for a link of the owner's. Pure.

All that there is to know of a session is in its cookie, which is signed under a data key: so each proxy and worker on
the database takes it, whichever began it, also after a restart. What they tell each other is which ones have ended.
Of a client key the cookie has what the key is recognised by, never the key.

A browser sends a cookie of one port of this machine to all the others too, SameSite=Strict or not: so the cookie has
the port in its name, goes no further than here, opens our pages alone, and a change takes the session's token beside
it.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ccflare_core.clients.authentication import OWNER, Identity, KeyRing, recall_digest
from ccflare_core.http.headers import Header

IDLE_SECONDS = 3600.0
"""After so long without a request a session is over."""
LONGEST_SECONDS = 12 * 3600.0
"""A session is over by then in any case."""
AHEAD_SECONDS = 300.0
"""By so much the clocks of two proxies on one database may differ."""
RENEW_SECONDS = 300.0
"""How old what the cookie says of its last use may become while it is used."""
COOKIE = b"ccflare_session_"
"""What the names of our cookies begin with, before the port."""
PATH = "/ccflare/"
_LONGEST_COOKIE = 1000
_MOST_NOTED = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """Who has logged in, and the token that a change has to bring. Times are epoch seconds."""

    id: str
    key_id: str
    """The data key that signs it."""
    whose: str
    """What the client key is recognised by, in hex; "" is the owner's link."""
    begun_at: float
    used_at: float
    token: str = field(repr=False)

    @property
    def until(self) -> float:
        """When it is over in any case."""
        return self.begun_at + LONGEST_SECONDS

    def is_over(self, now: float) -> bool:
        """Whether it is over by its times, or begins so much later that a clock was wrong: its end would be, too."""
        if max(self.begun_at, self.used_at) - now >= AHEAD_SECONDS:
            return True
        return now >= self.until or now - self.used_at >= IDLE_SECONDS


class Begun(NamedTuple):
    """A new session, and the cookie's value, which is kept nowhere."""

    session: Session
    cookie: str

    def __repr__(self) -> str:
        return f"Begun({self.session})"


type Sign = Callable[[bytes, str], bytes]


def own_signature(secret: bytes) -> Sign:
    """Signs for one process alone."""
    return lambda text, key_id: hmac.digest(secret, text, "sha256")


class Sessions:
    """All sessions, as one proxy takes them. Times are epoch seconds.

    Until it has been told of a ring with a signature, it takes its own alone.
    """

    def __init__(self) -> None:
        self._sign: Sign = own_signature(secrets.token_bytes(32))
        self._key_ids: tuple[str, ...] = ("own",)
        self._ended: set[str] = set()
        self._ended_elsewhere: frozenset[str] = frozenset()
        self._used: dict[str, float] = {}

    def follow(self, ring: KeyRing) -> None:
        """Sign with the newest of these data keys, and take what is signed with any of them."""
        if ring.sign is not None and ring.peppers:
            self._sign, self._key_ids = ring.sign, ring.peppers

    def take_ended(self, ids: Collection[str]) -> None:
        """These have ended, in whichever proxy, and are not over by their times yet."""
        self._ended_elsewhere = frozenset(ids)
        self._ended -= self._ended_elsewhere

    def begin(self, whose: bytes | None, now: float) -> Begun:
        """A session for who has just shown the key that is recognised by `whose`, or a link of the owner's (None)."""
        id_, key_id = secrets.token_urlsafe(16), self._key_ids[0]
        session = Session(id_, key_id, (whose or b"").hex(), now, now, self._token(id_, key_id))
        return Begun(session, self.cookie(session))

    def cookie(self, session: Session) -> str:
        """The cookie's value."""
        told = [session.id, session.whose, round(session.begun_at), round(session.used_at)]
        body = _text(json.dumps(told, separators=(",", ":")).encode())
        return f"{session.key_id}.{body}.{_text(self._mac(session.key_id, body))}"

    def find(self, cookies: Sequence[str], now: float) -> Session | None:
        """The session that one of these cookies stands for, if it is not over."""
        found = (session for cookie in cookies if (session := self._read(cookie)) is not None)
        return next((session for session in found if self.is_on(session, now)), None)

    def _read(self, cookie: str) -> Session | None:
        if len(cookie) > _LONGEST_COOKIE or cookie.count(".") != 2:
            return None
        key_id, body, mac = cookie.split(".")
        if key_id not in self._key_ids or not hmac.compare_digest(_text(self._mac(key_id, body)), _plain(mac)):
            return None
        id_, whose, begun_at, used_at = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return Session(id_, key_id, whose, begun_at, used_at, self._token(id_, key_id))

    def is_on(self, session: Session, now: float) -> bool:
        """Whether it is not over yet."""
        if session.id in self._ended or session.id in self._ended_elsewhere:
            return False
        return not replace(session, used_at=max(session.used_at, self._used.get(session.id, 0.0))).is_over(now)

    def used(self, session: Session, now: float) -> None:
        """Note that it was used: its idle time begins anew."""
        if len(self._used) >= _MOST_NOTED:
            self._used = {id_: at for id_, at in self._used.items() if now - at < IDLE_SECONDS}
        self._used[session.id] = now

    def renewed(self, session: Session, now: float) -> str | None:
        """The cookie's value after it was used, if that has to be told anew: other proxies know of it by that alone."""
        if now - session.used_at < RENEW_SECONDS or session.id in self._ended:
            return None
        return self.cookie(replace(session, used_at=now))

    def end(self, session: Session) -> None:
        """Log out."""
        self._ended.add(session.id)

    def _token(self, id_: str, key_id: str) -> str:
        return _text(self._sign(b"token " + id_.encode(), key_id))

    def _mac(self, key_id: str, body: str) -> bytes:
        return self._sign(b"cookie " + body.encode("ascii", "replace"), key_id)


def identity_of(session: Session, ring: KeyRing, now: float) -> Identity:
    """Who that is by now: a session ends with the key that was shown for it. `now` is in epoch seconds."""
    if not session.whose:
        return Identity(OWNER)
    return recall_digest(ring, bytes.fromhex(session.whose), now)


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


def _name(port: int) -> bytes:
    return COOKIE + b"%d" % port


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _plain(text: str) -> str:
    """The text without what `compare_digest` does not take."""
    return text.encode("ascii", "replace").decode()
