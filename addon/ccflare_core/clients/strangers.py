"""Connections on which nobody has been identified yet: how many an address may have, and for how long. Pure.

A connection is a stranger's until a request on it is identified (`Decision.is_identified`): TLS, a Claude Code that
connects ahead of time and wrong keys included. This machine's programs and trusted proxies are no strangers, whatever
they ask for. A trusted proxy's connection counts for the client that it names as long as the last request on it was
that client's and was not identified.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ccflare_core.clients.rate_limits import Buckets
from ccflare_core.http.addresses import NOBODY, THIS_MACHINE, Address, Networks, source_of

PATIENCE_SECONDS = 5.0
"""How long a stranger's connection is kept: two or three round trips of TLS and a head take less on any network."""
MOST_OF_ADDRESS = 32
"""How many of them an address may have at most, a house or an office with many clients too: each is one of them for
the moment until its first request is here."""
PART_OF_ALL = 8
"""No address has more than this part of all connections that there may be: an eighth."""
PART_OF_STRANGERS = 2
"""And all addresses together have no more than half of them: the others are for who has been identified, and for this
machine's programs."""
LINES_PER_MINUTE = 6
"""How many lines in the log an address with strangers may cause: enough to find out about a wrong certificate."""


def share_of(connections: int) -> int:
    """How many connections of strangers an address may have, if there may be so many in all."""
    return max(1, min(MOST_OF_ADDRESS, connections // PART_OF_ALL))


def room_for_all(connections: int) -> int:
    """How many connections of strangers there may be, from wherever, if there may be so many in all."""
    return max(1, connections // PART_OF_STRANGERS)


class _Held(NamedTuple):
    source: str
    since: float
    is_direct: bool
    """Whether it comes straight from there: then it has to be identified in time."""


class Strangers:
    """See the module. Connections are named by mitmproxy's ids of them."""

    def __init__(
        self,
        share: Callable[[], int] = lambda: MOST_OF_ADDRESS,
        trusted: Callable[[], Networks] = lambda: NOBODY,
        clock: Callable[[], float] = time.monotonic,
        room: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self._share = share
        self._room = room
        self._trusted = trusted
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._of_source: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._expelled: set[str] = set()
        self._lines = Buckets()

    @property
    def count(self) -> int:
        """How many connections are strangers'."""
        return len(self._held)

    # Connections

    def arrives(self, connection: str, peer: Address | None) -> str | None:
        """A new connection: why it is one too many; None if it is not."""
        if self._is_exempt(peer):
            return None
        if not self.has_room(peer):
            return "this address has too many connections without a valid client key"
        if self.count >= self._room():
            return "there are too many connections without a valid client key"
        self._hold(connection, source_of(peer), is_direct=True)
        return None

    def leaves(self, connection: str) -> None:
        """The connection is closed."""
        self._release(connection)
        self._refused.discard(connection)
        self._expelled.discard(connection)

    def has_room(self, address: Address | None) -> bool:
        """Whether this address may have one more stranger's connection."""
        return self._is_exempt(address) or self._of_source[source_of(address)] < self._share()

    # Requests

    def identified(self, connection: str) -> None:
        """A request on it was identified: it counts no longer, and stays."""
        self._release(connection)
        self._refused.discard(connection)

    def asks(self, connection: str, peer: Address | None, client: Address | None) -> None:
        """A request on it was not identified; the `client` is the `peer`, or whom that one names."""
        if self._is_exempt(peer):
            self._release(connection)
            if not self._is_exempt(client):
                self._hold(connection, source_of(client), is_direct=False)

    def refused(self, connection: str, peer: Address | None) -> None:
        """Such a request was refused: the connection is to end with it, but not that of a proxy for many clients."""
        if not self._trusted().have(peer):
            self._refused.add(connection)

    def expel(self, connection: str) -> None:
        """The connection is one too many, and is to end whatever goes on in it."""
        self._expelled.add(connection)

    # For the reaper

    def is_refused(self, connection: str) -> bool:
        """Whether it is to end as soon as no request is open on it."""
        return connection in self._refused

    def is_overdue(self, connection: str) -> bool:
        """Whether it is to end at once."""
        held = self._held.get(connection)
        is_late = held is not None and held.is_direct and self._clock() - held.since >= PATIENCE_SECONDS
        return is_late or connection in self._expelled

    # For the log

    def may_tell(self, address: Address | None) -> bool:
        """Whether there may be one more line in the log about connections from this address."""
        source, now = source_of(address), self._clock()
        if not self._of_source[source]:
            return True
        if self._lines.wait(source, LINES_PER_MINUTE, now):
            return False
        self._lines.take(source, LINES_PER_MINUTE, now)
        return True

    # Pieces

    def _is_exempt(self, address: Address | None) -> bool:
        return THIS_MACHINE.have(address) or self._trusted().have(address)

    def _hold(self, connection: str, source: str, *, is_direct: bool) -> None:
        self._held[connection] = _Held(source, self._clock(), is_direct)
        self._of_source[source] += 1

    def _release(self, connection: str) -> None:
        if (held := self._held.pop(connection, None)) is None:
            return
        self._of_source[held.source] -= 1
        if not self._of_source[held.source]:
            del self._of_source[held.source]
