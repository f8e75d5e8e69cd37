"""Who owns what: learned from answers, found in memory or in the database without waiting for it. Does no I/O.

`Ownership` is shared by all exchanges. What follows from an owner for a request is binding.py's.

Whoever has an id of another kind (`Kind.MESSAGE` of a thread's last message, `Kind.REQUEST` of a cached request) gets
its owner so, in the step of an exchange, which is asked again and again while it waits:

    search = ownership.search((Id(Kind.REQUEST, "req_…"),))     # once
    if not search.is_done():
        return Wait(LOOK_SECONDS)
    owner = search.found.get(id)                                # None: nobody knows it; search.failed: nobody can say
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.owners import NOBODY, Holding, Owner, Owners, holdings
from ccflare_core.anthropic import ids
from ccflare_core.anthropic.ids import Id, Kind, Named
from ccflare_core.anthropic.routes import COUNT_TOKENS, MESSAGES
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.records import IdForgotten, IdMade, IdUsed, Record
from ccflare_core.exchange.steps import Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.text import to_ms

logger = logging.getLogger("ccflare")

AGAIN_SECONDS: Final = 0.5
"""After this time what was not found is looked for once more: another proxy writes what it has made within it."""
LOOKS: Final = 2
PATIENCE_SECONDS: Final = 5.0
"""For how long a database that does not answer is waited for."""
RECENT_SECONDS: Final = 10.0
"""For how long what was made here may not be in the database yet."""


class Pending[T](Protocol):
    """What the database will answer."""

    def done(self) -> bool: ...
    def result(self) -> T: ...


class OwnerStore(Protocol):
    """The database, asked without waiting for it."""

    def find(self, wanted: Sequence[Id]) -> Pending[Mapping[Id, Owner]]: ...
    def holdings(self, kind: Kind) -> Pending[Sequence[Holding]]: ...


class Known[T]:
    """An answer that is there."""

    def __init__(self, value: T) -> None:
        self._value = value

    def done(self) -> bool:
        return True

    def result(self) -> T:
        return self._value


class NoStore:
    """For those who have no database: it knows nothing."""

    def find(self, wanted: Sequence[Id]) -> Pending[Mapping[Id, Owner]]:
        return Known({})

    def holdings(self, kind: Kind) -> Pending[Sequence[Holding]]:
        return Known(())


class Query[T]:
    """A question to the database. It is over when it is answered, and at last after PATIENCE_SECONDS."""

    def __init__(self, pending: Pending[T], clock: Callable[[], float]) -> None:
        self._pending = pending
        self._clock = clock
        self._until = clock() + PATIENCE_SECONDS

    def is_done(self) -> bool:
        """Whether it is over; if not, ask again in LOOK_SECONDS."""
        return self._pending.done() or self._clock() >= self._until

    def answer(self) -> T | None:
        """The answer; None: there is none, since the database cannot be used."""
        if not self._pending.done():
            return None
        try:
            return self._pending.result()
        except CCFlareError:
            return None


class Search:
    """A look for the owners of some ids, in memory and then in the database. Ask `is_done` until it is."""

    def __init__(self, wanted: Sequence[Id], ownership: "Ownership") -> None:
        self.found: dict[Id, Owner] = {}
        self.failed = False
        """Whether the database could not be asked."""
        self._wanted = wanted
        self._ownership = ownership
        self._query: Query[Mapping[Id, Owner]] | None = None
        self._looks = 0
        self._next_at = float("-inf")

    def is_done(self) -> bool:
        """Whether it is over; if not, ask again in LOOK_SECONDS."""
        if self._query is not None:
            if not self._query.is_done():
                return False
            self._take(self._query.answer())
            self._query = None
        missing, now = self._missing(), self._ownership.clock()
        if not missing or self.failed or self._looks == LOOKS:
            return True
        if now >= self._next_at:
            self._looks += 1
            self._next_at = now + AGAIN_SECONDS
            self._query = Query(self._ownership.store.find(missing), self._ownership.clock)
        return False

    def _missing(self) -> list[Id]:
        for each in self._wanted:
            if each not in self.found and (owner := self._ownership.find(each)) is not None:
                self.found[each] = owner
        return [each for each in self._wanted if each not in self.found]

    def _take(self, answer: Mapping[Id, Owner] | None) -> None:
        self.failed = answer is None
        for each, owner in (answer or {}).items():
            self._ownership.owners.learn(each, owner)
            self.found[each] = owner


def _drop(record: Record) -> None:
    pass


class Ownership:
    """What is known of who made what. `clock` is monotonic, `wall` epoch seconds."""

    def __init__(
        self,
        store: OwnerStore | None = None,
        put: Callable[[Record], object] = _drop,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        """`put` takes what the database is to remember."""
        self.store = store or NoStore()
        self.owners = Owners()
        self.clock = clock
        self._present: frozenset[str] = frozenset()
        self._put = put
        self._wall = wall

    def search(self, wanted: Sequence[Id]) -> Search:
        """A look for the owners of these."""
        return Search(wanted, self)

    def find(self, id: Id) -> Owner | None:
        """Who made this, as far as it is in memory."""
        return self.owners.find(id, self._wall())

    def holdings(self, kind: Kind) -> Query[Sequence[Holding]]:
        """What each account has of one kind, as the database knows it."""
        return Query(self.store.holdings(kind), self.clock)

    def recent(self, kind: Kind) -> list[Holding]:
        """What was made of this kind so lately that the database may not know it."""
        since = self._wall() - RECENT_SECONDS
        return holdings(owner for owner in self.owners.of_kind(kind) if owner.made_at >= since)

    def keep(self, accounts: Iterable[Account]) -> None:
        """These are the accounts that there are: what others have made is out of reach."""
        present = frozenset(account.id for account in accounts)
        if self._present - present:
            self.owners.keep(present)
        self._present = present

    # What an exchange teaches

    def ended(self, story: Story, named: Named) -> None:
        """Learn from an exchange that is over: what its answer hands out, what it has used, what it has deleted.

        Never raises: a mistake here must not cost an answer.
        """
        try:
            self._learn_from(story, named)
        except Exception:
            logger.exception("What %s has made could not be noted", story.id)

    def _learn_from(self, story: Story, named: Named) -> None:
        if (lease := story.lease) is None or story.ticket is not Ticket.LEASE or not 200 <= (story.status or 0) < 300:
            return
        now = self._wall()
        for each in named.ids:
            if self.owners.use(each, now):
                self._put(IdUsed(each.kind, each.text, to_ms(now)))
        owner = Owner(lease.account.id, self._client(story, named), now, now)
        for each in handed_out(story, named):
            self._learn(each, owner)
        for each in proven(story, named):
            self._learn(each, owner._replace(client=NOBODY))
        if (gone := ids.deletes(story.opening.method, story.opening.path)) is not None:
            self.owners.forget(gone)
            self._put(IdForgotten(gone.kind, gone.text))

    def _learn(self, id: Id, owner: Owner) -> None:
        if self.owners.learn(id, owner):
            self._put(IdMade(id.kind, id.text, owner.account_id, owner.client, to_ms(owner.made_at)))

    def _client(self, story: Story, named: Named) -> str:
        """For whom the answer's ids are: who asked for them to be made, or whose the thing is that tells them."""
        if story.opening.method == "POST":
            return story.opening.client_key or NOBODY
        owner = self.owners.find(named.ids[0]) if named.ids and named.listed is None else None
        return owner.client if owner else NOBODY


def handed_out(story: Story, named: Named) -> Iterator[Id]:
    """The ids that the answer of an exchange hands out."""
    opening, reading = story.opening, story.reading
    kinds = ids.hands_out(opening.method, opening.path)
    is_about_one = bool(named.ids) and named.listed is None and kinds <= {named.ids[0].kind}
    for each in reading.handed_out if reading else ():
        if each.kind in kinds and (not is_about_one or each in named.ids):
            yield each
    if (opening.method, opening.path) == ("POST", MESSAGES):
        if story.upstream_request_id:
            yield Id(Kind.REQUEST, story.upstream_request_id)
        if named.thread and reading and reading.message_id:
            yield Id(Kind.MESSAGE, reading.message_id)


def proven(story: Story, named: Named) -> tuple[Id, ...]:
    """What its account must have, since it has used it. Of most of it that is known already."""
    return named.ids if story.opening.path in (MESSAGES, COUNT_TOKENS) else ()
