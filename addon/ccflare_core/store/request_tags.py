"""Writes the tags of requests, and keeps what clients can make of them within bounds: 1,000 different ones a day.

A tag that comes after these is recorded under its name with the value `other`, and one whose name is new too as
`other=other`. A day is one of UTC, and each proxy counts for itself: first what the database has of the day, from then
on what it writes itself.
"""

from collections.abc import Iterable
from typing import Any, Final

from peewee import Database

from ccflare_core.db.models import RequestTagRow
from ccflare_core.db.statements import Insert
from ccflare_core.exchange.records import RequestTagged

MOST_A_DAY: Final = 1000
OTHER: Final = "other"
_DAY_MS = 86_400_000


class RequestTags:
    """Writes within whatever transaction is open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        columns = (RequestTagRow.request, RequestTagRow.name, RequestTagRow.value, RequestTagRow.at)
        self._rows = Insert(database, RequestTagRow, columns, keeps_first=True)
        self._day = -1
        self._known: set[tuple[str, str]] = set()

    def write(self, records: Iterable[RequestTagged]) -> None:
        """Write these. The rows of their requests are there."""
        self._rows.run([(record.request_id, *self._bounded(record), record.at_ms) for record in records])

    def forget(self) -> None:
        """Believe nothing of what was counted since the last commit."""
        self._day = -1

    def _bounded(self, record: RequestTagged) -> tuple[str, str]:
        """The tag, or what is recorded in its place."""
        day, tag = record.at_ms // _DAY_MS, (record.name, record.value)
        if day > self._day:
            self._day, self._known = day, self._of_day(day)
        if tag not in self._known and len(self._known) >= MOST_A_DAY:
            is_known = any(name == record.name for name, _ in self._known)
            return record.name if is_known else OTHER, OTHER
        self._known.add(tag)
        return tag

    def _of_day(self, day: int) -> set[tuple[str, str]]:
        """The different tags of the requests of that day and later."""
        query = RequestTagRow.select(RequestTagRow.name, RequestTagRow.value).distinct()
        rows: Any = query.where(RequestTagRow.at >= day * _DAY_MS).tuples().bind(self._database)
        return set(rows)
