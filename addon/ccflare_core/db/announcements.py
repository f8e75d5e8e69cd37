"""How a transaction tells other proxies on the same PostgreSQL server that they should look, by NOTIFY.

What is announced is which kinds of things have changed and by whose connection; what they are, each reads for itself.
So it is small whatever is stored, and everybody who can log in to the server may hear it.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from ccflare_core.config.location import Server


class Kind(StrEnum):
    """What a proxy reads anew together."""

    ACCESS = "access"
    ACCOUNTS = "accounts"
    KEYS = "keys"
    LIMITS = "limits"
    SESSIONS = "sessions"
    SHARES = "shares"


KINDS: Final = {
    "accounts": Kind.ACCOUNTS,
    "blocked_addresses": Kind.ACCESS,
    "client_keys": Kind.ACCESS,
    "client_runs": Kind.ACCESS,
    "data_keys": Kind.KEYS,
    "ended_sessions": Kind.ACCESS,
    "limit_shares": Kind.SHARES,
    "scope_cooldowns": Kind.LIMITS,
    "second_factor": Kind.ACCESS,
    "session_accounts": Kind.SESSIONS,
    "windows": Kind.LIMITS,
}
"""What a change of a table's rows is a change of. Records that nobody waits for are none."""

ANYTHING: Final = frozenset({"anything"})
"""What may have changed while nobody listened."""
NOTHING: Final[frozenset[str]] = frozenset()
"""What is written changes nothing that anybody looks for."""

_TEST = "test"
_WRITES = re.compile(r'(?:INSERT INTO|UPDATE|DELETE FROM) "(\w+)"', re.ASCII)


class Channel(NamedTuple):
    """Where the changes of one database are announced, and by whom here."""

    name: str
    origin: str
    """A random name of this connection, which knows its own changes."""

    @classmethod
    def of(cls, database_id: str, origin: str) -> "Channel":
        """That of the database with this id: the schemas of one server's database share all channels."""
        return cls(f"ccflare_{database_id}", origin)

    def text(self, kinds: Iterable[str]) -> str:
        """What to announce after changes of these kinds."""
        return f"{self.origin} {','.join(sorted(kinds))}"

    @property
    def test(self) -> str:
        """What to announce to find out whether announcements arrive."""
        return self.text([_TEST])

    def news(self, text: str) -> frozenset[str]:
        """The kinds of which another connection has announced a change; none if it is one's own, or a test.

        Another version may have kinds that are unknown here.
        """
        origin, _, kinds = text.partition(" ")
        return frozenset() if origin == self.origin else frozenset(kinds.split(",")) - {_TEST}


def polled(why: str) -> str:
    """What is the matter where changes are not announced, in a sentence."""
    return f"changes by other proxies arrive by the poll, within a second: {why}"


def unheard(server: Server) -> str:
    """Why they are not, where one can listen and hears nothing."""
    return (
        f"nothing that is announced comes through {server}; "
        "set ccflare_notify_database to the server itself, not to a pooler such as PgBouncer"
    )


def kind_changed(sql: str) -> Kind | None:
    """What a statement of ours changes that others look for; None if nothing."""
    found = _WRITES.match(sql)
    return KINDS.get(found[1]) if found else None
