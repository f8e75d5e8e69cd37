"""The stored state of alerts, by which each is told once over all proxies on a database and over restarts."""

from collections.abc import Iterable, Sequence
from typing import Any

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import AlertRow
from ccflare_core.reports.alerts import Alert, Condition, State, is_of_clients, summary
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

HOUR = 3_600.0
MOST_AN_HOUR, OF_CLIENTS = 10, 5
"""How many are told one by one within an hour, and how many of them may be about what clients have done.

So clients, who can bring about as much as they like, never leave an account that needs a login without room.
"""
GONE_SECONDS = 150.0
"""How long no proxy has seen a condition that is over: proxies do not look at the same moment."""
_TOUCH_SECONDS = 45.0
_SUMMARY = "summary"


class Alerts:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._now = context.now

    def take(self, conditions: Iterable[Condition]) -> list[Alert]:
        """What is to be told now that these hold: what begins and what is over. None of it is given twice."""
        now, held = self._now(), {(each.cause, each.subject): each for each in conditions}
        if not self._is_work(self._rows(), held, now):
            return []  # asked without the lock, which others may hold
        with self._transaction():
            rows = self._rows()
            over = self._end(rows, held, now)
            fresh = [each for key, each in held.items() if self._note(rows.get(key), each, now)]
            return [*over, *self._tell(rows, fresh, now)]

    def _rows(self) -> dict[tuple[str, str], AlertRow]:
        with as_store_errors():
            return {(row.cause, row.subject): row for row in AlertRow.select().bind(self._database)}

    def _is_work(
        self, rows: dict[tuple[str, str], AlertRow], held: dict[tuple[str, str], Condition], now: float
    ) -> bool:
        touched = to_ms(now - _TOUCH_SECONDS)
        is_old = [key not in rows or not rows[key].is_open or rows[key].seen_at <= touched for key in held]
        return any(is_old) or any(self._is_gone(row, held, now) for row in rows.values())

    def _is_gone(self, row: AlertRow, held: dict[tuple[str, str], Condition], now: float) -> bool:
        is_unseen = (row.cause, row.subject) not in held and row.seen_at <= to_ms(now - GONE_SECONDS)
        return row.is_open and is_unseen

    def _end(
        self, rows: dict[tuple[str, str], AlertRow], held: dict[tuple[str, str], Condition], now: float
    ) -> list[Alert]:
        """Close what is over; an alert for each of which the beginning was told."""
        gone = [row for row in rows.values() if self._is_gone(row, held, now)]
        for row in gone:
            self._write(row.cause, row.subject, is_open=False, is_told=False)
        return [
            Alert(State.OVER, row.cause, row.name, now, row.what, (row.seen_at - row.began_at) / 1000)
            for row in gone
            if row.is_told
        ]

    def _note(self, row: AlertRow | None, condition: Condition, now: float) -> bool:
        """Write down that it holds; whether it is to be told."""
        new = {"name": condition.name, "what": condition.what, "seen_at": to_ms(now), "is_open": condition.lasts}
        if row is None:
            row_of = {"cause": condition.cause, "subject": condition.subject, "began_at": to_ms(now), "is_told": False}
            AlertRow.insert({**row_of, **new, "told_at": 0}).execute(self._database)
            return True
        new |= {} if row.is_open else {"began_at": to_ms(now)}
        self._write(condition.cause, condition.subject, **new)
        return not row.is_told and row.told_at <= to_ms(now - HOUR)

    def _tell(self, rows: dict[tuple[str, str], AlertRow], fresh: list[Condition], now: float) -> list[Alert]:
        """One alert each, as far as there is room in this hour, and one for all others."""
        lately = [key for key, row in rows.items() if row.told_at > to_ms(now - HOUR)]
        single, others = _as_room(fresh, [cause for cause, _ in lately if cause != _SUMMARY])
        for each in single:
            self._write(each.cause, each.subject, is_told=each.lasts, told_at=to_ms(now))
        told = [Alert(State.BEGINS, each.cause, each.name, now, each.what) for each in single]
        if others and (_SUMMARY, "") not in lately:
            told.append(summary(others, now))
            itself = Condition(_SUMMARY, "", "", "", lasts=False)
            self._note(rows.get((_SUMMARY, "")), itself, now)
            for each in (*others, itself):  # what lasts for another hour is told by itself then
                self._write(each.cause, each.subject, told_at=to_ms(now))
        return told

    def _write(self, cause: str, subject: str, **changed: Any) -> None:
        is_it = (AlertRow.cause == cause) & (AlertRow.subject == subject)
        AlertRow.update(changed).where(is_it).execute(self._database)


def _as_room(fresh: Iterable[Condition], lately: Sequence[str]) -> tuple[list[Condition], list[Condition]]:
    """Those that there is room for, after others with these causes within the last hour, and the rest."""
    single: list[Condition] = []
    others: list[Condition] = []
    of_clients = sum(map(is_of_clients, lately))
    room = MOST_AN_HOUR - (len(lately) - of_clients) - min(of_clients, OF_CLIENTS)
    for each in sorted(fresh, key=lambda each: is_of_clients(each.cause)):
        is_clients = is_of_clients(each.cause)
        has_room = len(single) < room and not (is_clients and of_clients >= OF_CLIENTS)
        (single if has_room else others).append(each)
        of_clients += is_clients
    return single, others
