"""Which account holds which session: the least recently used go first, unused ones after a while. Pure.

A session keeps its account on every proxy of the database, and after a restart. So a pin tells when the database is to
be told of it (store/affinity.py), and takes up what another proxy has told.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ccflare_core.anthropic.request import Facts

NOTE_SECONDS = 600.0
"""How old what is noted of a session may be before its next use is noted, where sessions last for long."""
_NOTE_SHARE = 10
"""Otherwise it is that part of the time that they last."""


class Held(NamedTuple):
    """That an account holds a session, which is named as `session_key` names it."""

    session: str
    account_id: str
    served_at: float
    """Epoch seconds of the proxy that has served it."""


@lru_cache(maxsize=10_000)
def session_key(session_id: str) -> str:
    """What stands for a session where it is remembered: whoever reads the database learns no session's id by it."""
    return hashlib.sha256(b"ccflare session\0" + session_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def key_of(facts: Facts) -> str:
    """What a request is held to one account by: its session, else its client's address."""
    return session_key(facts.session_id) if facts.session_id else facts.client


@dataclass(slots=True)
class _Pin:
    account_id: str
    until: float
    noted: str = ""
    """The account that the database has for the session; "" is none."""
    noted_at: float = 0.0


class Pins:
    """The pins of one proxy, `most` at once. Times are monotonic seconds; `seconds` is how long an unused one lasts."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._note_seconds = min(NOTE_SECONDS, seconds / _NOTE_SHARE)
        self._pins: OrderedDict[str, _Pin] = OrderedDict()

    def get(self, session: str, now: float) -> str | None:
        """The account's id; None if nothing holds it or it was not used for too long."""
        pin = self._pins.get(session)
        return pin.account_id if pin is not None and now < pin.until else None

    def put(self, session: str, account_id: str, now: float) -> None:
        """Pin a session and count this as a use. The session "" is nobody's."""
        if session:
            self._pin(session, account_id, now + self._seconds)

    def serve(self, session: str, account_id: str, now: float) -> bool:
        """Pin a session to the account that has served it; whether the database is to be told."""
        if not session:
            return False
        pin = self._pin(session, account_id, now + self._seconds)
        if pin.noted == account_id and now - pin.noted_at < self._note_seconds:
            return False
        pin.noted, pin.noted_at = account_id, now
        return True

    def adopt(self, session: str, account_id: str, age: float, now: float) -> None:
        """Take up what the database has: the last one that has served a session holds it, whichever proxy that was."""
        if (left := self._seconds - age) > 0:
            pin = self._pin(session, account_id, now + left)
            pin.noted, pin.noted_at = account_id, now - age

    def _pin(self, session: str, account_id: str, until: float) -> _Pin:
        pin = self._pins.get(session)
        if pin is not None:
            pin.account_id, pin.until = account_id, until
            self._pins.move_to_end(session)
            return pin
        pin = self._pins[session] = _Pin(account_id, until)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
        return pin
