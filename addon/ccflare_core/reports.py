"""The questions behind the stats, as read-only queries that give plain values.

Every query is bounded by a period and found through the index on `timestamp`. Rows are added up in the
database, so a million of them cost a scan and no memory. Percentiles come from a histogram, exact to a
millisecond below one second and to one percent above.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ccflare_core.traffic import NOT_MEASURED, By, Keys, Period, Spread, Traffic, ordered, slices, spread

Query = Callable[[str, Sequence[object]], Iterable[Sequence[Any]]]
"""Runs one SELECT, with `?` for each parameter, and gives its rows."""

# The paths that get an account's credential (routes.py), coarser: this runs once a row.
_INFERENCE_PATHS = ("/v1/messages%", "/v1/models%", "/v1/files%", "/v1/complete%", "/v1/skills%")
_INFERENCE = f"({' OR '.join(['path LIKE ?'] * len(_INFERENCE_PATHS))})"
_IN_PERIOD = "timestamp >= ? AND timestamp < ?"

_COLUMN = {
    By.ACCOUNT: "account_used",
    By.MODEL: "model",
    By.SESSION: "session_id",
    By.CLIENT: "client_ip",
}


def _number_of(condition: str) -> str:
    return f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"


def _spent(column: str) -> str:
    # An answer of /v1/messages/count_tokens has input tokens too, but nothing was used: it has no output.
    return f"SUM(CASE WHEN output_tokens IS NOT NULL THEN {column} END)"


_SUMS = {
    "requests": "COUNT(*)",
    "open": _number_of("outcome IS NULL"),
    "ok": _number_of("outcome = 'ok'"),
    "client_aborts": _number_of("outcome = 'client_abort'"),
    "refused": _number_of("outcome = 'refused'"),
    "moved": _number_of("failover_attempts > 0"),
    "failovers": "SUM(failover_attempts)",
    "input_tokens": _spent("input_tokens"),
    "output_tokens": "SUM(output_tokens)",
    "cache_read_tokens": "SUM(cache_read_input_tokens)",
    "cache_creation_tokens": "SUM(cache_creation_input_tokens)",
    "thinking_tokens": "SUM(thinking_tokens)",
    "web_searches": "SUM(web_search_requests)",
    "cost_usd": _spent("cost_usd"),
    # Tokens were used and nobody knows their price. Where there was no usage, nothing was spent.
    "unknown_costs": _number_of("cost_usd IS NULL AND output_tokens > 0"),
}
_SUMMED = ", ".join((*_SUMS.values(), "MIN(timestamp)", "MAX(timestamp)"))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


class Exchange(NamedTuple):
    """One recorded request and its end; `outcome` is None while it is under way. Times in seconds."""

    id: str
    at: float
    account: str | None
    model: str | None
    method: str
    path: str
    status: int | None
    outcome: str | None
    error: str | None
    seconds: float | None
    first_byte_seconds: float | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_creation_tokens: int | None
    cost_usd: float | None
    failovers: int
    session: str | None
    client: str | None
    choice_reason: str | None


class Trouble(NamedTuple):
    """The same thing that went wrong `number` times, the last time at `last_at` (epoch seconds)."""

    last_at: float
    number: int
    kind: str
    status: int | None
    account: str | None
    message: str | None


class Use(NamedTuple):
    """An account's use: its last request ever (epoch seconds) and the number of requests in a period."""

    last_at: float | None
    requests: int


class Reports:
    """The questions to one database. It remembers nothing but the accounts' names."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._names: dict[str, str] = {}
        for account_id, name in query("SELECT id, name FROM accounts", ()):
            self._names[account_id] = name

    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        return not [*self._query("SELECT 1 FROM requests LIMIT 1", ())]

    def total(self, period: Period) -> Traffic:
        """All inference requests of the period."""
        return self.traffic(period, ())[0]

    def others(self, period: Period) -> int:
        """How many requests went through with the client's own credential or were answered by us."""
        sql = f"SELECT COUNT(*) FROM requests WHERE {_IN_PERIOD} AND NOT {_INFERENCE}"  # noqa: S608
        return self._number(sql, (*period.bounds_ms(), *_INFERENCE_PATHS))

    def traffic(self, period: Period, by: Sequence[By], *, latencies: bool = True) -> list[Traffic]:
        """The inference requests of the period, split `by`; without a split, one Traffic for all of them.

        At most one split can be By.HOUR or By.DAY; hours and days without a request are left out.
        """
        clock = next((split for split in by if split.is_time), None)
        if clock is None:
            return ordered(self._groups(period, by, latencies=latencies), by)
        place, rest = by.index(clock), [split for split in by if split is not clock]
        groups = [
            replace(group, keys=(*group.keys[:place], label, *group.keys[place:]))
            for label, part in slices(self._recorded(period), clock)
            for group in self._groups(part, rest, latencies=latencies)
            if group.requests
        ]
        return ordered(groups, by)

    def exchanges(self, period: Period, limit: int) -> list[Exchange]:
        """The latest requests of the period, of all kinds, newest first."""
        sql = f"""SELECT id, timestamp / 1000.0, account_used, model, method, path, status_code, outcome,
                  error_message, response_time_ms / 1000.0, first_byte_ms / 1000.0, input_tokens,
                  output_tokens, cache_read_input_tokens, cache_creation_input_tokens, cost_usd,
                  COALESCE(failover_attempts, 0), session_id, client_ip, choice_reason
                  FROM requests WHERE {_IN_PERIOD} ORDER BY timestamp DESC LIMIT ?"""  # noqa: S608
        rows = (Exchange(*row) for row in self._query(sql, (*period.bounds_ms(), limit)))
        return [row._replace(account=self._name_or_none(row.account)) for row in rows]

    def errors(self, period: Period, limit: int) -> list[Trouble]:
        """What clients saw fail, equal failures in one row, the latest first. A client that left is none."""
        sql = f"""SELECT MAX(timestamp) / 1000.0, COUNT(*), outcome, status_code, account_used, error_message
                  FROM requests WHERE {_IN_PERIOD} AND outcome NOT IN ('ok', 'client_abort')
                  GROUP BY 3, 4, 5, 6 ORDER BY 1 DESC LIMIT ?"""  # noqa: S608
        return self._troubles(sql, (*period.bounds_ms(), limit))

    def covered(self, period: Period, limit: int) -> list[Trouble]:
        """Attempts that failed without the client noticing, since another attempt served the request."""
        sql = """SELECT MAX(a.started_at) / 1000.0, COUNT(*), a.verdict, a.status_code, a.account_id, a.reason
                 FROM requests r JOIN attempts a ON a.request_id = r.id
                 WHERE r.timestamp >= ? AND r.timestamp < ? AND r.outcome = 'ok' AND r.attempts > 1
                 AND a.verdict <> 'ok' GROUP BY 3, 4, 5, 6 ORDER BY 1 DESC LIMIT ?"""
        return self._troubles(sql, (*period.bounds_ms(), limit))

    def use(self, account_id: str, period: Period) -> Use:
        """When the account last served, and how often in the period."""
        of_account = "FROM requests WHERE account_used = ?"
        last = self._number(f"SELECT MAX(timestamp) {of_account}", (account_id,))
        sql = f"SELECT COUNT(*) {of_account} AND {_IN_PERIOD}"
        return Use(last / 1000 if last else None, self._number(sql, (account_id, *period.bounds_ms())))

    def _groups(self, period: Period, by: Sequence[By], *, latencies: bool) -> list[Traffic]:
        latency = self._spreads(period, by, "response_time_ms") if latencies else {}
        first_byte = self._spreads(period, by, "first_byte_ms") if latencies else {}
        groups = []
        for row in self._grouped(period, by, _SUMMED):
            raw, (*sums, first_ms, last_ms) = tuple(row[: len(by)]), row[len(by) :]
            figures: dict[str, Any] = {name: value or 0 for name, value in zip(_SUMS, sums, strict=True)}
            figures |= {"first_at": _seconds(first_ms), "last_at": _seconds(last_ms)}
            figures |= {
                "latency": latency.get(raw, NOT_MEASURED),
                "first_byte": first_byte.get(raw, NOT_MEASURED),
            }
            groups.append(Traffic(self._keys(by, raw), **figures))
        return groups

    def _spreads(self, period: Period, by: Sequence[By], column: str) -> dict[tuple[object, ...], Spread]:
        """The percentiles of a column of milliseconds among the ok requests of each group."""
        rounded = (
            f"CASE WHEN {column} < 1000 THEN ROUND({column}) "
            f"WHEN {column} < 10000 THEN ROUND({column} / 10) * 10 ELSE ROUND({column} / 100) * 100 END"
        )
        wanted = f"AND outcome = 'ok' AND {column} IS NOT NULL"
        histograms: dict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
        for *raw, ms, number in self._grouped(period, by, f"{rounded}, COUNT(*)", wanted, (rounded,)):
            histograms[tuple(raw)][int(ms)] += number
        return {raw: spread(histogram) for raw, histogram in histograms.items()}

    def _grouped(
        self,
        period: Period,
        by: Sequence[By],
        selected: str,
        condition: str = "",
        also_by: Sequence[str] = (),
    ) -> Iterable[Sequence[Any]]:
        splits = [_COLUMN[split] for split in by]
        found = f"FROM requests WHERE {_IN_PERIOD} AND {_INFERENCE} {condition}"
        sql = f"SELECT {', '.join([*splits, selected])} {found}"
        if splits or also_by:
            sql += f" GROUP BY {', '.join([*splits, *also_by])}"
        return self._query(sql, (*period.bounds_ms(), *_INFERENCE_PATHS))

    def _recorded(self, period: Period) -> Period:
        """The period from its first request on, so that it is not cut into slices that hold nothing."""
        sql = f"SELECT MIN(timestamp) FROM requests WHERE {_IN_PERIOD}"  # noqa: S608
        first = self._number(sql, period.bounds_ms())
        return period._replace(since=first / 1000 if first else period.until)

    def _troubles(self, sql: str, parameters: Sequence[object]) -> list[Trouble]:
        rows = (Trouble(*row) for row in self._query(sql, parameters))
        return [row._replace(account=self._name_or_none(row.account)) for row in rows]

    def _number(self, sql: str, parameters: Sequence[object]) -> int:
        return int(next(iter(self._query(sql, parameters)))[0] or 0)

    def _keys(self, by: Sequence[By], raw: Sequence[Any]) -> Keys:
        return tuple(
            self._name_or_none(value) if split is By.ACCOUNT else value for split, value in zip(by, raw, strict=True)
        )

    def _name_or_none(self, account_id: str | None) -> str | None:
        return None if account_id is None else self._name(account_id)

    def _name(self, account_id: str) -> str:
        """The account's name of today, or the last one known of an account that is gone."""
        if account_id not in self._names:
            sql = """SELECT account_name FROM requests WHERE account_used = ? AND account_name IS NOT NULL
                     ORDER BY timestamp DESC LIMIT 1"""
            found = [*self._query(sql, (account_id,))]
            self._names[account_id] = f"{found[0][0] if found else account_id} (removed)"
        return self._names[account_id]
