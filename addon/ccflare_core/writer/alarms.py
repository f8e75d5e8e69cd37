"""Looks what a person should hear of at once, and says each once: the writer's side of alerts."""

from collections.abc import Callable, Iterable, Iterator

from ccflare_core.reports.alerts import (
    ERROR_SECONDS,
    Alert,
    Condition,
    State,
    none_available,
    of_accounts,
    of_errors,
    of_forecasts,
    of_windows,
)
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.store.alerts import HOUR
from ccflare_core.store.store import Store
from ccflare_core.text import to_ms

_ERRORS = """
    SELECT COUNT(*), SUM(CASE WHEN outcome NOT IN ('ok', 'client_abort') THEN 1 ELSE 0 END)
    FROM requests WHERE timestamp >= ? AND outcome IS NOT NULL"""


class Alarms:
    """The alerts of one proxy; those that others on the database have told are not among them."""

    def __init__(
        self,
        wall: Callable[[], float],
        hold_seconds: Callable[[], float],
        looks: Callable[[], bool] = lambda: True,
    ) -> None:
        """`wall` gives epoch seconds; for `hold_seconds` requests wait for an account before that is worth telling.

        One of all proxies `looks` at what the database has.
        """
        self._looks = looks
        self._wall = wall
        self._hold_seconds = hold_seconds
        self._none_since: float | None = None
        self._alone: dict[tuple[str, str], float] = {}

    def step(self, store: Store, local: Iterable[Condition]) -> list[Alert]:
        """What is to be told; `local` are the conditions that only this proxy sees. StoreError."""
        return store.alerts.take([*local, *(self._stored(store) if self._looks() else ())])

    def alone(self, local: Iterable[Condition]) -> list[Alert]:
        """What is to be told while the database cannot say what was told already: each once an hour."""
        now = self._wall()
        due = [each for each in local if now - self._alone.get((each.cause, each.subject), 0.0) >= HOUR]
        self._alone |= {(each.cause, each.subject): now for each in due}
        return [Alert(State.BEGINS, each.cause, each.name, now, each.what) for each in due]

    def _stored(self, store: Store) -> Iterator[Condition]:
        now, accounts = self._wall(), store.accounts.all()
        yield from of_accounts(accounts)
        windows, history = store.limits.latest_windows(), LimitHistory(store.query)
        yield from of_windows(accounts, windows, now)
        yield from of_forecasts(accounts, windows, lambda id, name: history.expected(id, name, now), now)
        yield from of_errors(*(number or 0 for number in store.query(_ERRORS, (to_ms(now - ERROR_SECONDS),))[0]))
        none = none_available(accounts, store.limits.cooldowns(), now)
        if none is None:
            self._none_since = None
            return
        self._none_since = now if self._none_since is None else self._none_since
        if now - self._none_since >= self._hold_seconds():
            yield none
