"""The recorded traffic as turns, in the order of time, a page at a time: no list of all is ever made.

What tells how an attempt failed is read for those requests alone that needed more than one, or did not end well.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ccflare_core.anthropic import routes
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.reports.tally import Query, marks
from ccflare_core.reports.traffic import Period
from ccflare_core.simulation.caches import LONG_SECONDS, SHORT_SECONDS
from ccflare_core.simulation.rates import Rate, Rates
from ccflare_core.simulation.turns import LIMITS, Recent, Size, Tokens, Turn, Weather

_PAGE: Final = 500
_COLUMNS: Final = (
    *("timestamp", "id", "method", "path", "account_used", "status_code", "outcome", "error_message"),
    *("response_time_ms", "first_byte_ms", "attempts", "model", "original_model", "agent", "client_ip", "session_id"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("cache_creation_1h_input_tokens", "thinking_tokens", "cost_usd", "speed", "request_class", "project"),
    *("client_id", "client_run", "waited_ms", "request_bytes", "user_agent", "previous_message_id", "counted_usd"),
)
_REFUSED = "refused"
_BY_RULE = ("No account may serve this request", "The rule ", "The rules ")
"""How refusals by a rule begin."""
_BY_LIMIT = frozenset({429, 503})
_AGAIN_SECONDS = 600.0
_MOST_SECONDS = 3600.0
_HEAD_SECONDS, _SECONDS = 1.5, 10.0
"""How long a request takes of which that is not known."""
_KINDS = {kind.value: kind for kind in Kind}


class _Row(NamedTuple):
    """The columns of one request."""

    timestamp: int
    id: str
    method: str
    path: str
    account_used: str | None
    status_code: int | None
    outcome: str
    error_message: str | None
    response_time_ms: float | None
    first_byte_ms: float | None
    attempts: int
    model: str | None
    original_model: str | None
    agent: str | None
    client_ip: str
    session_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read: int | None
    cache_creation: int | None
    cache_creation_1h: int | None
    thinking: int | None
    cost_usd: float | None
    speed: str | None
    request_class: str | None
    project: str | None
    client_id: str | None
    client_run: str | None
    waited_ms: float | None
    request_bytes: int | None
    user_agent: str
    previous_message_id: str | None
    counted_usd: float | None


class _Attempt(NamedTuple):
    """The columns of one attempt."""

    request_id: str
    account_id: str | None
    status_code: int | None
    verdict: str
    reason: str
    started_at: int
    duration_ms: float


class _Last(NamedTuple):
    """The turn before in the same thread."""

    at: float
    account_id: str
    prefix: int
    lives: float
    thought: dict[str, int]


def read_turns(query: Query, rates: Rates, period: Period, session_seconds: float, *, tagged: bool) -> Iterator[Turn]:
    """The turns of the period. With `tagged` they come with their tags."""
    reader = _Reader(rates, session_seconds)
    for rows in _pages(query, period):
        attempts = _attempts_of(query, [row.id for row in rows if row.attempts > 1 or row.outcome != "ok"])
        tags = _tags_of(query, [row.id for row in rows]) if tagged else {}
        for row in rows:
            if (turn := reader.turn(row, attempts.get(row.id, ()))) is not None:
                yield turn._replace(tags=tags[row.id]) if row.id in tags else turn


def sessions_before(query: Query, period: Period, seconds: float) -> list[tuple[str, str, float]]:
    """Which account had which session when the period began: the session, the account and when, the oldest first."""
    sql = """SELECT session_id, account_used, MAX(timestamp) AS last FROM requests
             WHERE timestamp >= ? AND timestamp < ? AND session_id IS NOT NULL AND account_used IS NOT NULL
             AND outcome = 'ok' GROUP BY session_id, account_used ORDER BY last"""
    since = period.bounds_ms()[0]
    return [
        (session, account, at / 1000) for session, account, at in query(sql, (since - round(seconds * 1000), since))
    ]


def _pages(query: Query, period: Period) -> Iterator[list[_Row]]:
    since, until = period.bounds_ms()
    last = ""
    sql = f"""SELECT {", ".join(_COLUMNS)} FROM requests
              WHERE timestamp >= ? AND timestamp < ? AND (timestamp > ? OR id > ?) AND outcome IS NOT NULL
              ORDER BY timestamp, id LIMIT {_PAGE}"""  # noqa: S608
    while True:
        rows = [_Row(*row) for row in query(sql, (since, until, since, last))]
        yield rows
        if len(rows) < _PAGE:
            return
        since, last = rows[-1].timestamp, rows[-1].id


def _attempts_of(query: Query, ids: Sequence[str]) -> Mapping[str, Sequence[_Attempt]]:
    found: dict[str, list[_Attempt]] = {}
    if ids:
        sql = f"""SELECT request_id, account_id, status_code, verdict, reason, started_at, duration_ms FROM attempts
                  WHERE request_id IN ({marks(ids)}) ORDER BY request_id, number"""  # noqa: S608
        for row in query(sql, tuple(ids)):
            found.setdefault(row[0], []).append(_Attempt(*row))
    return found


def _tags_of(query: Query, ids: Sequence[str]) -> Mapping[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    if ids:
        sql = f"SELECT request_id, name, value FROM request_tags WHERE request_id IN ({marks(ids)})"  # noqa: S608
        for request_id, name, value in query(sql, tuple(ids)):
            found.setdefault(request_id, {})[name] = value
    return found


@lru_cache(512)
def _uses(method: str, path: str) -> tuple[str, bool] | None:
    """What of an account such a request uses, and whether that counts for its windows; None if it needs no account."""
    path = path.partition("?")[0]
    if routes.classify(method, path) is not routes.Route.INFERENCE or (rule := routes.rule_of(method, path)) is None:
        return None
    is_free = path in (routes.COUNT_TOKENS, routes.CACHE_TOUCH) or not routes.runs_model(method, path)
    return rule.resource, not is_free


@lru_cache(4096)
def _facts(
    model: str | None, session_id: str | None, client: str, path_class: str, spends: bool, is_fast: bool
) -> Facts:
    """Kept, since a session says the same again and again."""
    mode = "fast" if is_fast else ""
    return Facts(model, session_id, client, path_class=path_class, mode=mode, spends=spends)


class _Reader:
    """Makes turns of rows. It remembers of each thread what the next turn in it needs."""

    def __init__(self, rates: Rates, session_seconds: float) -> None:
        self._rates = rates
        self._sessions: Recent[str, str] = Recent(session_seconds)
        self._threads: Recent[tuple[str | None, ...], _Last] = Recent(LONG_SECONDS)
        self._refused: Recent[tuple[object, ...], bool] = Recent(_AGAIN_SECONDS)

    def turn(self, row: _Row, attempts: Sequence[_Attempt]) -> Turn | None:
        """The turn; None if it has nothing to do with accounts, or was refused for what no setting here changes."""
        uses = _uses(row.method, row.path)
        if uses is None or not (row.account_used or _is_of_the_pool(row)):
            return None
        at = row.timestamp / 1000
        is_own = bool(row.original_model) and not row.agent
        facts = _facts(
            row.original_model if is_own else row.model, row.session_id, row.client_ip, *uses, row.speed == "fast"
        )
        head_seconds, seconds = _times(row, attempts)
        size = self._size(row, facts, at)
        return Turn(
            row.id,
            at,
            row.method,
            row.path.partition("?")[0],
            facts,
            head_seconds,
            seconds,
            *size,
            not facts.spends or row.output_tokens is not None or row.outcome != _REFUSED,
            row.thinking or 0,
            row.outcome,
            row.account_used,
            (row.waited_ms or 0.0) / 1000,
            sum([attempt.verdict in LIMITS for attempt in attempts]) if attempts else 0,
            tuple(filter(None, map(_weather, attempts))) if attempts else (),
            self._repeats(row, at),
            row.user_agent,
            row.agent,
            row.project,
            row.request_class,
            row.client_id,
            row.client_run,
            row.previous_message_id is not None,
        )

    def _size(self, row: _Row, facts: Facts, at: float) -> Size:
        """Its tokens and cost, and what it has lost by a move."""
        account = row.account_used
        if row.output_tokens is None or account is None or not facts.spends:
            return Size(cost=row.cost_usd or row.counted_usd or 0.0)
        rate = self._rates.of(row.model)
        tokens = _tokens(row)
        cost = row.cost_usd if row.cost_usd is not None else rate.of(tokens)
        moved, lost, thought = self._lose(row, facts, at, tokens)
        if not moved and not lost and not thought:
            return Size(tokens, cost, _output_share(rate, tokens))
        if lost:
            is_long = tokens.written_1h > 0
            written = tokens.written_1h if is_long else tokens.written_5m
            lost = min(lost, written)
            kept = {"written_1h": written - lost} if is_long else {"written_5m": written - lost}
            tokens = tokens._replace(read=tokens.read + lost, **kept)
        lost_cost = rate.again(lost, is_long=tokens.written_1h > 0)
        cost = max(0.0, cost - lost_cost)
        share = _output_share(rate, tokens)
        return Size(tokens, cost, share, lost, lost_cost, thought * rate.output, moved)

    def _lose(self, row: _Row, facts: Facts, at: float, tokens: Tokens) -> tuple[bool, int, int]:
        """Whether its session has moved, and the tokens of its prompt and of thinking that this has lost."""
        session, account = facts.session_id, row.account_used
        if not session or account is None:
            return False, 0, 0
        thread = (session, facts.model, row.agent)
        former = self._sessions.get(session, at)
        self._sessions.put(session, account, at)
        last = self._threads.get(thread, at)
        lost = thought = 0
        if last is not None and last.account_id != account:
            thought = last.thought.get(last.account_id, 0)
            if at - last.at <= last.lives:
                lost = max(0, min(last.prefix - tokens.read, tokens.written_5m + tokens.written_1h))
        lives = LONG_SECONDS if tokens.written_1h else SHORT_SECONDS
        thoughts = last.thought if last is not None else {}
        if row.thinking and facts.ties_thinking:
            thoughts = {**thoughts, account: thoughts.get(account, 0) + row.thinking}
        self._threads.put(thread, _Last(at, account, tokens.prefix, lives, thoughts), at)
        return former is not None and former != account, lost, thought

    def _repeats(self, row: _Row, at: float) -> bool:
        """Whether the same was refused a short while ago."""
        if row.request_bytes is None or not row.session_id:
            return False
        key = (row.session_id, row.model, row.agent, row.request_bytes)
        is_repeat = self._refused.pop(key, at) is not None
        if row.outcome == _REFUSED:
            self._refused.put(key, True, at)
        return is_repeat


def _is_of_the_pool(row: _Row) -> bool:
    """Whether it was refused for something that other accounts, limits or rules may change."""
    if row.outcome != _REFUSED:
        return False
    return row.status_code in _BY_LIMIT or (row.error_message or "").startswith(_BY_RULE)


def _tokens(row: _Row) -> Tokens:
    written_1h = row.cache_creation_1h or 0
    return Tokens(
        row.input_tokens or 0,
        row.output_tokens or 0,
        max(0, (row.cache_creation or 0) - written_1h),
        written_1h,
        row.cache_read or 0,
    )


def _output_share(rate: Rate, tokens: Tokens) -> float:
    whole = rate.of(tokens)
    return rate.output * tokens.output / whole if whole else 0.0


def _times(row: _Row, attempts: Sequence[_Attempt]) -> tuple[float, float]:
    """Seconds from the start of its last attempt to the head and to the end."""
    if row.account_used is None or row.response_time_ms is None:
        return _HEAD_SECONDS, _SECONDS
    before = attempts[-1].started_at - row.timestamp if attempts else row.waited_ms or 0.0
    seconds = min(max(0.0, (row.response_time_ms - before) / 1000), _MOST_SECONDS)
    if attempts:
        return min(attempts[-1].duration_ms / 1000, seconds), seconds
    head = seconds if row.first_byte_ms is None else max(0.0, (row.first_byte_ms - before) / 1000)
    return min(head, seconds), seconds


def _weather(attempt: _Attempt) -> Weather | None:
    kind = _KINDS.get(attempt.verdict)
    if kind is None or kind in (Kind.OK, Kind.UNANSWERED) or kind in LIMITS:
        return None
    status, account = attempt.status_code or 0, attempt.account_id or ""
    return Weather(kind, status, attempt.reason, account, attempt.duration_ms / 1000)
