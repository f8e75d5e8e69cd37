"""Remembers what ended badly, so that what its client asks next goes to another account once. Pure.

A client that leaves a silent upstream may have lost interest or its patience, and says neither. If the same session
sends the same request again within a few seconds, it was its patience: then the upstream is to blame, and another
account is worth a try. Nobody rests, as silence says nothing about an account's limits.

After an answer that broke off in the middle a client may wait for its user, for longer than the account rests for it.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from ccflare_core.anthropic.request import Facts
from ccflare_core.exchange.steps import Opening

AGAIN_SECONDS: Final = 5.0
"""For how long a repeat tells that the client had not given up on its question."""
SILENT_SECONDS: Final = 0.25
"""From how long on a stream is silent: one that flows has something more often than that."""
BROKEN_SECONDS: Final = 3600.0
"""For how long a session keeps off the account that has broken its last answer off."""
_MOST: Final = 256
_MOST_BROKEN: Final = 4096


class SameRequest(NamedTuple):
    """What makes two requests the same: of the body its length, and what Python's own hash makes of it."""

    client_key: str | None
    session: str
    target: tuple[str, str, str]
    size: int
    content: int

    @classmethod
    def of(cls, opening: Opening, facts: Facts, body: bytes) -> "SameRequest":
        """What this request is known by."""
        target = (opening.method, opening.path, opening.query)
        return cls(opening.client_key, facts.affinity, target, len(body), hash(body))


class Departure(NamedTuple):
    """One that ended without an answer."""

    exchange_id: str
    account_id: str
    at: float
    """Monotonic seconds."""
    silence: float
    """For how long the upstream had sent nothing."""
    is_blamed: bool
    """Whether the upstream was blamed for it at once."""


class Departures:
    """See the module. The oldest go first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str | None, str], dict[SameRequest, Departure]] = OrderedDict()
        self._broken: OrderedDict[tuple[str | None, str, str], tuple[str, float]] = OrderedDict()

    def note(self, asked: SameRequest, departure: Departure) -> None:
        """Remember this one."""
        session = asked[:2]
        self._sessions.setdefault(session, {})[asked] = departure
        self._sessions.move_to_end(session)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)

    def take(self, opening: Opening, facts: Facts, body: bytes, now: float) -> Departure | None:
        """The departure that this request repeats, once. Only where there is one its body is looked at."""
        session = (opening.client_key, facts.affinity)
        if not (known := self._sessions.get(session)):
            return None
        found = known.pop(SameRequest.of(opening, facts, body), None)
        fresh = {asked: each for asked, each in known.items() if now - each.at <= AGAIN_SECONDS}
        if fresh:
            self._sessions[session] = fresh
        else:
            del self._sessions[session]
        return found if found and now - found.at <= AGAIN_SECONDS else None

    def broke_off(self, opening: Opening, facts: Facts, account_id: str, now: float) -> None:
        """The account has broken this session's answer off; a session's models are apart, as its title's is."""
        self._broken[_conversation(opening, facts)] = (account_id, now)
        if len(self._broken) > _MOST_BROKEN:
            self._broken.popitem(last=False)

    def served(self, opening: Opening, facts: Facts) -> None:
        """This session has had a whole answer since."""
        self._broken.pop(_conversation(opening, facts), None)

    def avoided(self, opening: Opening, facts: Facts, now: float) -> str | None:
        """The account that has broken off the last answer of this session."""
        account_id, at = self._broken.get(_conversation(opening, facts), (None, 0.0))
        return account_id if now - at <= BROKEN_SECONDS else None


def _conversation(opening: Opening, facts: Facts) -> tuple[str | None, str, str]:
    return (opening.client_key, facts.affinity, facts.family)
