"""Which run does what one proxy of all on the database is to do, see writer/duty.py."""

from typing import Any

from peewee import JOIN

from ccflare_core.accounts.probes import Claim
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import DutyRow, RunRow
from ccflare_core.store.context import StoreContext
from ccflare_core.store.leases import is_row, take_lease


class StoredDuties:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction

    def take(self, name: str, owner: str, abandoned: str = "") -> Claim:
        """Take the duty of this name for the run `owner`, or have it for another while, if it is free.

        `abandoned` is the term of one that the run has watched for long enough to end it. Raises StoreError.
        """
        key: dict[Any, object] = {DutyRow.name: name}
        if (theirs := self._of_another(name, owner, abandoned)) is not None:
            return Claim(False, theirs)
        with self._transaction():
            is_mine = take_lease(self._database, DutyRow, key, owner, abandoned)
            return Claim(is_mine, DutyRow.select(DutyRow.term).where(is_row(key)).bind(self._database).get().term)

    def _of_another(self, name: str, owner: str, abandoned: str) -> str | None:
        """The term of another run that has it and goes on. Asked without the lock, which others may hold."""
        is_free = (DutyRow.owner == owner) | (DutyRow.term == abandoned) | RunRow.ended_at.is_null(False)
        on = RunRow.id == DutyRow.owner
        query: Any = DutyRow.select(DutyRow.term).join(RunRow, JOIN.LEFT_OUTER, on=on).where(DutyRow.name == name)
        with as_store_errors():
            rows = query.where(~is_free | RunRow.id.is_null() & (DutyRow.term != abandoned)).bind(self._database)
            return next((term for (term,) in rows.tuples()), None)
