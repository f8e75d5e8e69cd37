"""Which account holds which session, for all proxies on the database and for the next run of each.

A session's row is one, written by the ledger: the last proxy that has served the session has the last word. Each reads
what has changed since its last look, and so waits for nothing when a session comes that it has not served itself.

Rows are numbered as they are written. A row of no session keeps the last number while others are deleted, so that none
is given twice: who has seen the first one would not look at the second.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from peewee import Database, fn

from ccflare_core.accounts.affinity import Held
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import SessionAccountRow
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

MOST = 100_000
"""How many sessions are remembered."""
_BATCH = 500
_NO_SESSION = ""
_IS_SESSION = SessionAccountRow.session != _NO_SESSION
_HELD = SessionAccountRow.select(
    SessionAccountRow.session, SessionAccountRow.account_id, SessionAccountRow.served_at
).where(_IS_SESSION)


class StoredAffinity:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext, most: int = MOST) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._most = most
        self._newest: int | None = None
        self._own: set[tuple[str, str, int]] = set()

    def newest(self, most: int) -> list[Held]:
        """The sessions that were served last, up to so many, the last one at the end."""
        return self._held(_HELD.order_by(SessionAccountRow.number.desc()).limit(most))[::-1]

    def wrote(self, served: Iterable[Held]) -> None:
        """This store has committed these: its proxy is ahead of them."""
        self._own.update((each.session, each.account_id, to_ms(each.served_at)) for each in served)

    def look(self) -> list[Held]:
        """What others have written since the last call; nothing at the first, see `newest`. Raises StoreError."""
        before, newest = self._newest, _last_number(self._database)
        found: list[Held] = []
        if before is not None and before < newest:
            is_new = (SessionAccountRow.number > before) & (SessionAccountRow.number <= newest)
            rows = self._rows(_HELD.where(is_new).order_by(SessionAccountRow.number))
            found = [_held(*row) for row in rows if row not in self._own]
        self._newest = newest  # not before all of it was read
        self._own.clear()
        return found

    # Its end

    def purge(self, before: float) -> Iterator[int]:
        """Delete, in small batches, what was not served since, and what is too much; yields each batch's number.

        In the order in which it was written, which is nearly that of age.
        """
        counted = SessionAccountRow.select(fn.COUNT(SessionAccountRow.session)).where(_IS_SESSION)
        excess = int(self._rows(counted)[0][0]) - self._most
        columns = SessionAccountRow.select(SessionAccountRow.session, SessionAccountRow.served_at).where(_IS_SESSION)
        while rows := self._rows(columns.order_by(SessionAccountRow.number).limit(_BATCH)):
            over = [session for at, (session, served_at) in enumerate(rows) if at < excess or served_at < to_ms(before)]
            if not over:
                return
            with self._transaction():
                delete_served(self._database, SessionAccountRow.session.in_(over))
            excess -= len(over)
            yield len(over)

    def _held(self, query: Any) -> list[Held]:
        return [_held(*row) for row in self._rows(query)]

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        with as_store_errors():
            return [tuple(row) for row in query.bind(self._database).tuples()]


def _held(session: str, account_id: str, served_at: int) -> Held:
    return Held(session, account_id, served_at / 1000)


def write_served(database: Database, served: Sequence[Held]) -> None:
    """Put down which account has served which session last, in the transaction that is open."""
    if not served:
        return
    number = _last_number(database) + 1  # who writes has the lock: a higher one is a later one
    last = {each.session: each for each in served}
    rows = [(session, each.account_id, to_ms(each.served_at), number) for session, each in last.items()]
    told = [SessionAccountRow.account_id, SessionAccountRow.served_at, SessionAccountRow.number]
    for at in range(0, len(rows), _BATCH):
        insert = SessionAccountRow.insert_many(rows[at : at + _BATCH], fields=[SessionAccountRow.session, *told])
        insert.on_conflict(conflict_target=[SessionAccountRow.session], preserve=told).execute(database)


def delete_served(database: Database, which: Any) -> None:
    """Forget the sessions of these rows, in the transaction that is open, and keep the last number."""
    mark = {"session": _NO_SESSION, "account_id": "", "served_at": 0, "number": _last_number(database)}
    told = [SessionAccountRow.number]
    insert = SessionAccountRow.insert(mark).on_conflict(conflict_target=[SessionAccountRow.session], preserve=told)
    insert.execute(database)
    SessionAccountRow.delete().where(which & _IS_SESSION).execute(database)


def _last_number(database: Database) -> int:
    with as_store_errors():
        return int(SessionAccountRow.select(fn.MAX(SessionAccountRow.number)).bind(database).scalar() or 0)
