"""What all proxies on the database have to know of logins to the dashboard: used links, and sessions that are over."""

from typing import Any

from peewee import Model

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import EndedSessionRow, UsedLinkRow
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_SPARE_SECONDS = 3600.0
"""For how much longer than needed they are kept, as clocks may differ."""


class BrowserSessions:
    """A part of the store: it works through the store's connection, in the store's transactions.

    Times are epoch seconds.
    """

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._now = context.now

    def use_link(self, nonce: str, until: float) -> bool:
        """Note that this link is used, which is over then anyway; False if somebody has used it before."""
        return self._add(UsedLinkRow, nonce=nonce, until=to_ms(until + _SPARE_SECONDS))

    def end(self, session: str, until: float) -> None:
        """Note that this session is over, which it is then anyway."""
        self._add(EndedSessionRow, id=session, until=to_ms(until + _SPARE_SECONDS))

    def ended(self) -> frozenset[str]:
        """The sessions that have been ended, as long as that matters."""
        query: Any = EndedSessionRow.select(EndedSessionRow.id).bind(self._database)
        with as_store_errors():
            return frozenset(id for (id,) in query.tuples())

    def purge(self) -> int:
        """Forget what is over anyway; how much that was."""
        with self._transaction():
            now = to_ms(self._now())
            return sum(
                int(model.delete().where(model.until < now).execute(self._database))
                for model in (UsedLinkRow, EndedSessionRow)
            )

    def _add(self, model: type[Model], **row: object) -> bool:
        """Whether it was not there."""
        with self._transaction():
            return bool(model.insert(row).on_conflict_ignore().as_rowcount().execute(self._database))
