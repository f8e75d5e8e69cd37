"""Which account made what, as far as this process remembers it, and for which client. Pure.

The database remembers more (store/owners.py): who does not find an id here has to look there before it is unknown.
A maker never changes, so nothing here gets out of date but what was deleted by another process; then the account that
made it is asked, and says so.

To ask for the maker of an id, of a message thread's last message or of a cached request, for example:

    owners.find(Id(Kind.MESSAGE, "msg_…"))      # an Owner, or None: not in memory

and, where the database is to be asked too without waiting for it, `exchange/ownership.py`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

from ccflare_core.anthropic.ids import Id, Kind

NOBODY: Final = ""
"""The client of what nobody's request is known to have made: it came from a list, or from before there were keys."""

HOUR, DAY = 3600.0, 86_400.0
LIFETIMES: Final = {
    Kind.BATCH: 30 * DAY,
    Kind.CONTAINER: 30 * DAY,
    Kind.CREDIT: HOUR,
    Kind.MESSAGE: HOUR,
    Kind.REQUEST: HOUR,
}
"""For how many seconds an id is remembered. What is not named here is remembered until it is deleted."""
FROM_LAST_USE: Final = frozenset({Kind.CONTAINER})
"""The kinds whose time begins anew with each use; that of others runs from when they were made."""

_MOST = 20_000
_USE_SECONDS = 600.0
"""How old the last noted use is before the next one is noted."""


class Owner(NamedTuple):
    """Who made something. Times are epoch seconds."""

    account_id: str
    client: str
    """The id of the client key whose request made it, or NOBODY."""
    made_at: float
    used_at: float


class Owners:
    """The owners of the ids that were used last, up to `most` of each kind."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: dict[Kind, OrderedDict[str, Owner]] = {kind: OrderedDict() for kind in Kind}

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def find(self, id: Id, now: float | None = None) -> Owner | None:
        """Who made this; None if that is not in memory, or too long ago at `now` (epoch seconds)."""
        owner = self._known[id.kind].get(id.text)
        return None if owner is None or (now is not None and is_over(id.kind, owner, now)) else owner

    def learn(self, id: Id, owner: Owner) -> bool:
        """Remember who made this. False, and nothing changes, if that is known: its owner stays."""
        known = self._known[id.kind]
        if id.text in known:
            known.move_to_end(id.text)
            return False
        known[id.text] = owner
        if len(known) > self._most:
            known.popitem(last=False)
        return True

    def use(self, id: Id, now: float) -> bool:
        """It is used. Whether that is worth a note in the database, since the last one is some time ago."""
        known = self._known[id.kind]
        if (owner := known.get(id.text)) is None:
            return False
        known.move_to_end(id.text)
        if now - owner.used_at < _USE_SECONDS:
            return False
        known[id.text] = owner._replace(used_at=now)
        return True

    def keep(self, account_ids: Set[str]) -> None:
        """Forget what other accounts than these have made: they are removed."""
        for known in self._known.values():
            for text in [text for text, owner in known.items() if owner.account_id not in account_ids]:
                del known[text]

    def forget(self, id: Id) -> None:
        """It is deleted."""
        self._known[id.kind].pop(id.text, None)

    def of_kind(self, kind: Kind) -> Iterator[Owner]:
        """The owners of everything of this kind that is in memory."""
        return iter(self._known[kind].values())


class Holding(NamedTuple):
    """What an account has made of one kind: for whom, and when last (epoch seconds)."""

    account_id: str
    client: str
    newest: float


def holdings(owners: Iterable[Owner]) -> list[Holding]:
    """The same by account and client."""
    newest: dict[tuple[str, str], float] = {}
    for account_id, client, made_at, _ in owners:
        key = (account_id, client)
        newest[key] = max(made_at, newest.get(key, made_at))
    return [Holding(*key, at) for key, at in newest.items()]


def is_over(kind: Kind, owner: Owner, now: float) -> bool:
    """Whether its time is over."""
    if (seconds := LIFETIMES.get(kind)) is None:
        return False
    return now - (owner.used_at if kind in FROM_LAST_USE else owner.made_at) > seconds
