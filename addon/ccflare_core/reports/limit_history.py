"""How full the accounts' limit windows were along time, and how that goes on."""

from collections import defaultdict
from functools import partial
from typing import NamedTuple

from ccflare_core.reports.forecast import LOOK_BACK_SECONDS, Forecast, Reading, forecast
from ccflare_core.reports.tally import Query
from ccflare_core.reports.traffic import By, Period, label, stretches
from ccflare_core.text import to_ms


class WindowPast(NamedTuple):
    """A window of an account: the highest utilization of each local step of time that has readings, by its label."""

    account: str
    name: str
    peaks: dict[str, float]
    forecast: Forecast | None


class LimitHistory:
    """The readings of one database. It remembers nothing."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def windows(self, period: Period, by: By, now: float) -> list[WindowPast]:
        """Every window of every account that is there, by the account's name."""
        found = []
        for account_id, account in self._query("SELECT id, name FROM accounts ORDER BY name", ()):
            for name in self._names(account_id):
                peaks = self._peaks(account_id, name, period, by)
                found.append(WindowPast(account, name, peaks, self.expected(account_id, name, now)))
        return found

    def forecasts(self, now: float) -> dict[tuple[str, str], Forecast]:
        """What is to be expected of each window that was ever read, by the account's name and its own."""
        found = {}
        for account_id, account in self._query("SELECT id, name FROM accounts ORDER BY name", ()):
            for name in self._names(account_id):
                if expected := self.expected(account_id, name, now):
                    found[account, name] = expected
        return found

    def expected(self, account_id: str, name: str, now: float) -> Forecast | None:
        """What is to be expected of one window; None if it was never read."""
        return forecast(self._readings(account_id, name, now), now, partial(self._turns, account_id))

    def _turns(self, account_id: str, since: float, until: float) -> int:
        sql = """SELECT COUNT(*) FROM requests
                 WHERE account_used = ? AND timestamp >= ? AND timestamp < ? AND output_tokens > 0"""
        return int(next(iter(self._query(sql, (account_id, *Period(since, until).bounds_ms()))))[0])

    def _names(self, account_id: str) -> list[str]:
        """The account's windows, each found by one step in the index, however many readings there are."""
        sql = "SELECT name FROM windows WHERE account_id = ? AND name > ? ORDER BY name LIMIT 1"
        names = [""]
        while found := [*self._query(sql, (account_id, names[-1]))]:
            names.append(found[0][0])
        return names[1:]

    def _peaks(self, account_id: str, name: str, period: Period, by: By) -> dict[str, float]:
        peaks: dict[str, float] = defaultdict(float)
        for part, ahead in stretches(self._recorded(account_id, name, period)):
            sql = f"""SELECT (at + {ahead * 1000}) / {by.seconds * 1000}, MAX(utilization) FROM windows
                      WHERE account_id = ? AND name = ? AND at >= ? AND at < ? AND utilization IS NOT NULL
                      GROUP BY 1 ORDER BY 1"""  # noqa: S608
            for number, peak in self._query(sql, (account_id, name, *part.bounds_ms())):
                key = label(number, by)
                peaks[key] = max(peak, peaks[key])
        return dict(peaks)

    def _recorded(self, account_id: str, name: str, period: Period) -> Period:
        sql = "SELECT MIN(at) FROM windows WHERE account_id = ? AND name = ? AND at >= ?"
        first = next(iter(self._query(sql, (account_id, name, period.bounds_ms()[0]))))[0]
        return period._replace(since=first / 1000 if first else period.until)

    def _readings(self, account_id: str, name: str, now: float) -> list[Reading]:
        """Those that a forecast takes, oldest first; at least the last one."""
        sql = """SELECT at / 1000.0, utilization, resets_at / 1000.0 FROM windows
                 WHERE account_id = ? AND name = ? AND at <= ? AND utilization IS NOT NULL
                 ORDER BY at DESC, id DESC LIMIT ?"""
        found = [Reading(*row) for row in self._query(sql, (account_id, name, to_ms(now), 500))]
        return [reading for reading in found if reading.at >= now - LOOK_BACK_SECONDS or reading is found[0]][::-1]
