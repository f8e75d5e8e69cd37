"""What is stored of the accounts' limits: cooldowns, and the readings of windows. The ledger writes both."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import peewee

from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Scope
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import CooldownRow, WindowRow
from ccflare_core.store.context import StoreContext
from ccflare_core.store.ledger import clear_cooldown
from ccflare_core.text import to_seconds

_COOLDOWN = (
    CooldownRow.account_id,
    CooldownRow.scope,
    CooldownRow.name,
    CooldownRow.until,
    CooldownRow.reason,
    CooldownRow.source,
    CooldownRow.failures,
)


class Reading(NamedTuple):
    """A row of `windows`. Of two the one that was written later has the higher id."""

    id: int
    account_id: str
    at_ms: int
    window: Window


class Limits:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction

    def cooldowns(self) -> list[Cooldown]:
        """Every stored cooldown, also those whose time is over. One that is as at the last call is the same object."""
        with as_store_errors():
            rows: Any = CooldownRow.select(*_COOLDOWN).tuples().bind(self._database)
            return [_cooldown(*row) for row in rows]

    def clear_cooldown(self, account_id: str, part: Part) -> None:
        """Delete one, if it is there."""
        with self._transaction():
            clear_cooldown(self._database, account_id, part)

    def latest_windows(self) -> dict[str, tuple[Window, ...]]:
        """The last reading of each window, by account id."""
        with as_store_errors():
            return {account_id: windows for account_id in self._read_ids() if (windows := self._latest(account_id))}

    def readings_after(self, id: int) -> list[Reading]:
        """Those that were written since the one with this id, in the order in which they were."""
        with as_store_errors():
            rows = WindowRow.select().where(WindowRow.id > id).order_by(WindowRow.id).bind(self._database)
            return [Reading(row.id, row.account_id, row.at, _window(row)) for row in rows]

    def newest_reading(self) -> int:
        """The id of the one that was written last; 0 if there is none."""
        with as_store_errors():
            return WindowRow.select(peewee.fn.MAX(WindowRow.id)).bind(self._database).scalar() or 0

    def _read_ids(self) -> Iterator[str]:
        """The accounts that have readings, from step to step through the index: all readings are too many to group."""
        found: str | None = self._first(WindowRow.account_id)
        while found is not None:
            yield found
            found = self._first(WindowRow.account_id, WindowRow.account_id > found)

    def _latest(self, account_id: str) -> tuple[Window, ...]:
        """The last reading of each window of the account."""
        windows, is_its = [], WindowRow.account_id == account_id
        name: str | None = self._first(WindowRow.name, is_its)
        while name is not None:
            newest = WindowRow.select().where(is_its & (WindowRow.name == name))
            row = newest.order_by(WindowRow.at.desc(), WindowRow.id.desc()).limit(1).bind(self._database)[0]
            windows.append(_window(row))
            name = self._first(WindowRow.name, is_its & (WindowRow.name > name))
        return tuple(windows)

    def _first(self, column: Any, condition: Any = None) -> Any:
        """The lowest value of a column of `windows`; None if there is none."""
        query = WindowRow.select(peewee.fn.MIN(column))
        return (query if condition is None else query.where(condition)).bind(self._database).scalar()


def _window(row: WindowRow) -> Window:
    return Window(row.name, row.status, row.utilization, to_seconds(row.resets_at))


@lru_cache(maxsize=20_000)  # every proxy reads all of them whenever any account reaches a limit
def _cooldown(account_id: str, scope: str, name: str, until: int, reason: str, source: str, failures: int) -> Cooldown:
    return Cooldown(account_id, Part(Scope(scope), name), until / 1000, reason, source, failures)
