"""The stored notices of what is unusual: each is told once, by whichever proxy on the database comes first."""

from typing import Any

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import NoticeRow
from ccflare_core.reports.anomalies import Cause, Notice
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_HOUR, _DAY = 3_600.0, 86_400.0
_QUIET_SECONDS = {Cause.DAILY_VOLUME: _DAY}
"""For how long the same cause is not told again of the same client key or account; an hour for the others."""


class Notices:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._record = context.record

    def keep(self, notice: Notice) -> bool:
        """Store it with an entry in the audit log, unless its like was told already; whether it is to be told."""
        if self._was_told(notice):
            return False  # asked without the lock, which others may hold
        with self._transaction():
            if self._was_told(notice):
                return False
            NoticeRow.insert({**notice._asdict(), "at": to_ms(notice.at)}).execute(self._database)
            self._record(f"anomaly.{notice.cause}", notice.name, what=notice.what)
        return True

    def since(self, moment: float) -> list[Notice]:
        """Those from this moment on, the oldest first."""
        query = NoticeRow.select().where(NoticeRow.at >= to_ms(moment)).order_by(NoticeRow.at, NoticeRow.cause)
        with as_store_errors():
            return [_notice(row) for row in query.bind(self._database)]

    def purge(self, before: float) -> int:
        """Delete those from before this moment; how many."""
        with self._transaction():
            return int(NoticeRow.delete().where(NoticeRow.at < to_ms(before)).execute(self._database))

    def _was_told(self, notice: Notice) -> bool:
        is_like_it: Any = (NoticeRow.cause == notice.cause) & (NoticeRow.subject == notice.subject)
        quiet = to_ms(notice.at - _QUIET_SECONDS.get(notice.cause, _HOUR))
        with as_store_errors():
            return bool(NoticeRow.select().where(is_like_it & (NoticeRow.at > quiet)).bind(self._database).exists())


def _notice(row: NoticeRow) -> Notice:
    return Notice(Cause(row.cause), row.subject, row.name, row.at / 1000, row.what)
