"""The questions behind the stats, as read-only queries that give plain values.

Every query is bounded by a period and goes by an index. Figures of groups come from tally.py, which has most of them
added up already. Percentiles come from histograms, exact to a millisecond below one second and to one percent above.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ccflare_core.exchange.final_row import total_of
from ccflare_core.reports.measures import IS_INFERENCE
from ccflare_core.reports.tags import is_tagged, tags_of
from ccflare_core.reports.tally import ALL, TAG, Figures, Groups, Key, Query, Split, Tally, marks, new_groups
from ccflare_core.reports.traffic import (
    NOT_MEASURED,
    By,
    Period,
    Spread,
    Stretch,
    Traffic,
    label,
    ordered,
    spread,
    stretches,
)
from ccflare_core.text import to_ms, to_seconds

PROXY: Final = "(SELECT COALESCE(name, host) FROM runs WHERE runs.id = requests.run_id)"
"""The name of the proxy that took a request."""
_IN_PERIOD = "timestamp >= ? AND timestamp < ?"
_WELL = ("ok", "client_abort")
_FAILED = f"outcome NOT IN {_WELL}"
"""What the index `requests_failed` says: with it, those that failed are found among many that did not."""

_COLUMN = {
    By.ACCOUNT: "account_used",
    By.MODEL: "model",
    By.SESSION: "session_id",
    By.PROJECT: "project",
    By.AGENT: "agent",
    By.CLIENT: "client_id",
    By.ADDRESS: "client_ip",
    By.TAG: TAG,
}
_NAMED = {
    By.ACCOUNT: ("accounts", "account_used", "account_name"),
    By.CLIENT: ("client_keys", "client_id", "client_name"),
}
"""Whose names stand in a table of their own, and where the name at the time of the request is."""


def _kinds(others: bool) -> str:
    return "" if others else f" AND {IS_INFERENCE}"


def _spread(group: Figures, name: str) -> Spread:
    codes = group.codes.get(name)
    return spread(codes) if codes else NOT_MEASURED


def _joined(groups: Groups, place: int) -> Groups:
    """The groups by what is at this place of their keys alone."""
    found = new_groups()
    for key, group in groups.items():
        found[key[place : place + 1]].join(group)
    return found


def _clock(by: Sequence[By]) -> By | None:
    return next((split for split in by if split.is_time), None)


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
    estimated: bool
    stop_reason: str | None
    refusal: str | None
    request_class: str | None
    agent_id: str | None
    waited_seconds: float | None
    client_name: str | None
    """Of its key, if it has one."""
    project: str | None
    agent: str | None
    tags: Mapping[str, str] = {}
    """The values of its tags by their names."""
    proxy: str | None = None
    """The proxy that took it, see proxies.py."""

    @property
    def place(self) -> "Position":
        """Its place in the order of requests."""
        return Position(to_ms(self.at), self.id)

    @property
    def prompt_tokens(self) -> int | None:
        """All that was sent to the model, from the cache or not."""
        return total_of(self.input_tokens, self.cache_read_tokens, self.cache_creation_tokens)


class Wanted(NamedTuple):
    """Which requests are meant: those that have all of these; None: whatever they have.

    `account` and `client` are names that are in use, or were when the request came; `client` is that of a key.
    """

    account: str | None = None
    model: str | None = None
    session: str | None = None
    project: str | None = None
    client: str | None = None
    tag: str | None = None
    """As `name=value`."""
    outcome: str | None = None
    """OPEN is that of a request that is under way."""
    proxy: str | None = None
    """The name of a proxy or worker, the host that it is on, or the id of its run."""


OPEN: Final = "open"
EVERYTHING: Final = Wanted()


class Position(NamedTuple):
    """A place in the order of requests: where a list was cut, and goes on."""

    at_ms: int
    id: str


class Trouble(NamedTuple):
    """The same thing that went wrong `number` times, the last time at `last_at` (epoch seconds)."""

    last_at: float
    number: int
    kind: str
    status: int | None
    account: str | None
    message: str | None
    path: str | None


class Use(NamedTuple):
    """An account's use: its last request ever (epoch seconds) and the number of requests in a period."""

    last_at: float | None
    requests: int


class Reports:
    """The questions to one database, about all requests or those with a tag alone, given as `name=value`.

    It remembers nothing but the accounts' names.
    """

    def __init__(self, query: Query, tag: str | None = None) -> None:
        self._query = query
        self._only = ALL if tag is None else is_tagged(tag)
        self._tally = Tally(query, self._only)
        self._names: dict[tuple[By, str], str] = {}

    @property
    def _in_period(self) -> str:
        return f"{_IN_PERIOD} AND {self._only.sql}" if self._only.sql else _IN_PERIOD

    def _bounds(self, period: Period) -> tuple[object, ...]:
        """The parameters of that."""
        return (*period.bounds_ms(), *self._only.values)

    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        return not [*self._query("SELECT 1 FROM requests LIMIT 1", ())]

    def total(self, period: Period) -> Traffic:
        """All inference requests of the period."""
        return self.total_and_split(period, ())[0]

    def total_and_split(self, period: Period, by: Sequence[By]) -> tuple[Traffic, list[Traffic]]:
        """Both from one look at the database, which takes half of the time.

        Of tags from two: a request is in as many groups as it has.
        """
        if By.TAG in by:
            return self.total(period), self.traffic(period, by)
        groups, whole = self._groups(period, by, latencies=True, switches=False), Figures()
        for group in groups.values():
            whole.join(group)
        return self._traffic((), whole, (), None), self._ordered(groups, by)

    def splits(self, period: Period, by: Sequence[By]) -> list[list[Traffic]]:
        """The requests of the period split by each of these for itself, from one look; none is of time.

        Without latencies.
        """
        groups = self._groups(period, by, latencies=False, switches=False)
        return [self._ordered(_joined(groups, place), (split,)) for place, split in enumerate(by)]

    def others(self, period: Period) -> int:
        """How many requests went through with the client's own credential or were answered by us."""
        groups = new_groups()
        self._tally.add_sums(groups, self._tally.parts(*period.bounds_ms(), Split()), Split(), inference=False)
        return sum(group.sums["requests"] for group in groups.values())

    def traffic(
        self, period: Period, by: Sequence[By], *, latencies: bool = True, switches: bool = False
    ) -> list[Traffic]:
        """The inference requests of the period, split `by`, in the order of `ordered`; without a split, one group.

        At most one split can be one of time. Groups, hours and days without a request are left out. What the
        cache lost by a change of account is only looked for with `switches`.
        """
        return self._ordered(self._groups(period, by, latencies=latencies, switches=switches), by)

    def _groups(self, period: Period, by: Sequence[By], *, latencies: bool, switches: bool) -> Groups:
        clock = _clock(by)
        columns = tuple(_COLUMN[split] for split in by if split is not clock)
        groups = new_groups()
        for part, ahead in stretches(self.recorded(period)) if clock else [Stretch(period, 0)]:
            split = Split(columns, unit_ms=clock.seconds * 1000 if clock else 0, ahead_ms=ahead * 1000)
            parts = self._tally.parts(*part.bounds_ms(), split)
            self._tally.add_sums(groups, parts, split)
            if latencies:
                self._tally.add_durations(groups, parts, split)
            if switches:
                self._tally.add_switches(groups, parts, split)
        return groups

    def _ordered(self, groups: Groups, by: Sequence[By]) -> list[Traffic]:
        clock = _clock(by)
        return ordered([self._traffic(key, group, by, clock) for key, group in groups.items()], by)

    def recorded(self, period: Period) -> Period:
        """The period from its first request on."""
        sql = f"SELECT MIN(timestamp) FROM requests WHERE {_IN_PERIOD}"  # noqa: S608
        first = self._number(sql, period.bounds_ms())
        return period._replace(since=first / 1000 if first else period.until)

    def _traffic(self, key: Key, group: Figures, by: Sequence[By], clock: By | None) -> Traffic:
        unit, rest = (key[:1], key[1:]) if clock else ((), key)
        values = iter(rest)
        keys = tuple(label(unit[0], split) if split is clock else self._shown(split, next(values)) for split in by)
        return Traffic(
            keys,
            **group.sums,
            first_at=to_seconds(group.first_ms),
            last_at=to_seconds(group.last_ms),
            latency=_spread(group, "latencies"),
            first_byte=_spread(group, "first_bytes"),
        )

    def exchanges(
        self,
        period: Period,
        limit: int,
        *,
        others: bool = False,
        wanted: Wanted = EVERYTHING,
        before: Position | None = None,
        among: Sequence[str] | None = None,
    ) -> list[Exchange]:
        """The latest requests of the period that are wanted, newest first, of those `before` a position.

        With `others` those too that needed no account; with `among` only those with one of these ids.
        """
        conditions = [f"{self._in_period}{_kinds(others)}"]
        values: list[object] = [*self._bounds(period)]
        for condition, *more in self._conditions(wanted):
            conditions.append(str(condition))
            values += more
        if before is not None:
            conditions.append("(timestamp < ? OR (timestamp = ? AND id < ?))")
            values += [before.at_ms, *before]
        if among is not None:
            conditions.append(f"id IN ({marks(among)})")
            values += among
        where = " AND ".join(conditions)
        return self._exchanges(f"{where} ORDER BY timestamp DESC, id DESC LIMIT ?", (*values, limit))

    def exchange(self, request_id: str) -> Exchange | None:
        """The request with this id."""
        return next(iter(self._exchanges("id = ?", (request_id,))), None)

    def _exchanges(self, where: str, parameters: Sequence[object]) -> list[Exchange]:
        sql = f"""SELECT id, timestamp / 1000.0, account_used, model, method, path, status_code, outcome,
                  error_message, response_time_ms / 1000.0, first_byte_ms / 1000.0, input_tokens,
                  output_tokens, cache_read_input_tokens, cache_creation_input_tokens, cost_usd,
                  COALESCE(failover_attempts, 0), session_id, client_ip, choice_reason, COALESCE(estimated, FALSE),
                  stop_reason, refusal, request_class, agent_id, waited_ms / 1000.0, client_name, project, agent,
                  {PROXY} FROM requests WHERE {where}"""  # noqa: S608
        rows = [Exchange(*row)._replace(proxy=proxy) for *row, proxy in self._query(sql, parameters)]
        tags = tags_of(self._query, [row.id for row in rows])
        return [self._exchange(row, tags.get(row.id, {})) for row in rows]

    def _exchange(self, row: Exchange, tags: Mapping[str, str]) -> Exchange:
        account = self._shown(By.ACCOUNT, row.account)
        return row._replace(account=account, estimated=bool(row.estimated), tags=tags)

    def _conditions(self, wanted: Wanted) -> Iterator[tuple[object, ...]]:
        """A text of SQL and its parameters for each thing that the requests are to have."""
        for name, column in (("model", "model"), ("session", "session_id"), ("project", "project")):
            if (value := getattr(wanted, name)) is not None:
                yield f"{column} = ?", value
        for split, value in ((By.ACCOUNT, wanted.account), (By.CLIENT, wanted.client)):
            if value is not None:
                table, column, name = _NAMED[split]
                ids = [*self._query(f"SELECT id FROM {table} WHERE name = ?", (value,))]  # noqa: S608
                yield (f"{column} = ?", ids[0][0]) if ids else (f"{name} = ?", value)
        if wanted.tag is not None:
            condition = is_tagged(wanted.tag)
            yield condition.sql, *condition.values
        if wanted.proxy is not None:
            yield "run_id IN (SELECT id FROM runs WHERE name = ? OR host = ? OR id = ?)", *[wanted.proxy] * 3
        if wanted.outcome == OPEN:
            yield ("outcome IS NULL",)
        elif wanted.outcome in _WELL:
            yield "outcome = ?", wanted.outcome
        elif wanted.outcome is not None:
            yield f"outcome = ? AND {_FAILED}", wanted.outcome

    def errors(self, period: Period, limit: int, *, others: bool = False) -> list[Trouble]:
        """What clients saw fail, equal failures in one row, the latest first. A client that left is none."""
        sql = f"""SELECT MAX(timestamp) / 1000.0, COUNT(*), outcome, status_code, account_used, error_message, path
                  FROM requests WHERE {self._in_period}{_kinds(others)} AND {_FAILED}
                  GROUP BY 3, 4, 5, 6, 7 ORDER BY 1 DESC LIMIT ?"""  # noqa: S608
        return self._troubles(sql, (*self._bounds(period), limit))

    def refusals(self, period: Period, limit: int) -> list[Trouble]:
        """Answers in which a model refused, by category, the latest first. For clients they are answers."""
        sql = f"""SELECT MAX(timestamp) / 1000.0, COUNT(*), COALESCE(refusal, 'without a category'), status_code,
                  account_used, model, path FROM requests WHERE {self._in_period} AND stop_reason = 'refusal'
                  GROUP BY 3, 4, 5, 6, 7 ORDER BY 1 DESC LIMIT ?"""  # noqa: S608
        return self._troubles(sql, (*self._bounds(period), limit))

    def covered(self, period: Period, limit: int) -> list[Trouble]:
        """Attempts that failed without the client noticing, since another attempt served the request."""
        covered = f"SELECT id, path FROM requests WHERE {self._in_period} AND outcome = 'ok' AND attempts > 1"  # noqa: S608
        sql = f"""SELECT MAX(a.started_at) / 1000.0, COUNT(*), a.verdict, a.status_code, a.account_id, a.reason, r.path
                  FROM ({covered}) AS r JOIN attempts a ON a.request_id = r.id
                  WHERE a.verdict <> 'ok' GROUP BY 3, 4, 5, 6, 7 ORDER BY 1 DESC LIMIT ?"""  # noqa: S608
        return self._troubles(sql, (*self._bounds(period), limit))

    def use(self, account_id: str, period: Period) -> Use:
        """When the account last served, and how often in the period."""
        of_account = "FROM requests WHERE account_used = ?"
        last = self._number(f"SELECT MAX(timestamp) {of_account}", (account_id,))
        sql = f"SELECT COUNT(*) {of_account} AND {_IN_PERIOD}"
        return Use(last / 1000 if last else None, self._number(sql, (account_id, *period.bounds_ms())))

    def _troubles(self, sql: str, parameters: Sequence[object]) -> list[Trouble]:
        rows = (Trouble(*row) for row in self._query(sql, parameters))
        return [row._replace(account=self._shown(By.ACCOUNT, row.account)) for row in rows]

    def _number(self, sql: str, parameters: Sequence[object]) -> int:
        return int(next(iter(self._query(sql, parameters)))[0] or 0)

    def _shown(self, split: By, value: str | None) -> str | None:
        return self._name(split, value) if value is not None and split in _NAMED else value

    def _name(self, split: By, key: str) -> str:
        """The name that an account or a client's key has today, or the last one known of one that is gone."""
        if (split, key) not in self._names:
            table, column, name = _NAMED[split]
            named = [*self._query(f"SELECT name FROM {table} WHERE id = ?", (key,))]  # noqa: S608
            sql = f"""SELECT {name} FROM requests WHERE {column} = ? AND {name} IS NOT NULL
                      ORDER BY timestamp DESC LIMIT 1"""  # noqa: S608
            found = named or [*self._query(sql, (key,))]
            self._names[split, key] = f"{found[0][0] if found else key}{'' if named else ' (removed)'}"
        return self._names[split, key]
