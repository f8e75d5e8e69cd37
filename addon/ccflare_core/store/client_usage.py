"""What each client key has used, as the record has it: where budgets go on after a restart, and across proxies."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from ccflare_core.clients.budgets import Use
from ccflare_core.clients.key_limits import BudgetWindow, key_of, to_micro
from ccflare_core.clients.sharing import Limit
from ccflare_core.text import to_ms

_DAY_MS = 86_400_000
_TOKENS = """SUM(CASE WHEN counted_tokens IS NOT NULL THEN counted_tokens
    WHEN output_tokens IS NOT NULL THEN total_tokens ELSE 0 END)"""
_DOLLARS = """SUM(CASE WHEN counted_usd IS NOT NULL THEN counted_usd
    WHEN output_tokens IS NOT NULL THEN cost_usd ELSE 0 END)"""
_OF_KEY = """FROM requests WHERE client_id = ? AND timestamp >= ? AND timestamp < ?
    AND SUBSTR(path, 1, 20) <> '/v1/messages/batches'"""
_OF_BATCHES = "FROM batches WHERE client_id = ? AND made_at >= ? AND made_at < ?"
# Days since 1970 are days of UTC. Where there was no output, nothing was spent: see queries.py. What was counted in
# place of an unknown output or of an estimate is counted again. Batches have a table of their own, for all runs.
# COALESCE, as SQLite would go by the keys' index else, through all that was ever recorded, for the sake of IS NOT NULL.
_USES = f"""
    SELECT client_id, timestamp / {_DAY_MS} AS day, {_TOKENS}, {_DOLLARS},
        SUM(CASE WHEN counted_usd IS NULL AND cost_usd IS NULL AND (output_tokens > 0 OR counted_tokens > 0)
            THEN 1 ELSE 0 END)
    FROM requests
    WHERE COALESCE(client_id, '') <> '' AND timestamp >= ? AND run_id <> ?
        AND SUBSTR(path, 1, 20) <> '/v1/messages/batches'
    GROUP BY client_id, timestamp / {_DAY_MS}"""  # noqa: S608
_BATCHES = f"""
    SELECT client_id, made_at / {_DAY_MS} AS day, SUM(tokens), SUM(usd),
        SUM(CASE WHEN usd IS NULL AND tokens > 0 THEN 1 ELSE 0 END)
    FROM batches
    WHERE client_id IS NOT NULL AND made_at >= ?
    GROUP BY client_id, made_at / {_DAY_MS}"""  # noqa: S608

Query = Callable[[str, Sequence[object]], Sequence[tuple[Any, ...]]]


def uses_since(query: Query, since: float, *, but: str) -> list[Use]:
    """What was used from `since` (epoch seconds) on, by key and day, without what the run `but` has recorded.

    Batches are in it whoever made them. So a day may be there twice.
    """
    start = to_ms(since)
    rows = (*query(_USES, (start, but)), *query(_BATCHES, (start,)))
    return [
        Use(client, _day(day), int(tokens or 0), Decimal(str(dollars or 0)), int(unpriced))
        for client, day, tokens, dollars, unpriced in rows
    ]


def batches_since(query: Query, since: float) -> frozenset[str]:
    """The exchanges that have made the batches from `since` (epoch seconds) on."""
    rows = query("SELECT request_id FROM batches WHERE made_at >= ?", (to_ms(since),))
    return frozenset(request_id for (request_id,) in rows)


def recorded(query: Query, limit: Limit, *, by: str = "", but: Sequence[str] = ()) -> int:
    """What the record has of a client key's budget, in the limit's units, without batches.

    Of the run `by`, or of all but some.
    """
    if (asked := _asked(limit)) is None:
        return 0
    column = _TOKENS if asked.is_tokens else _DOLLARS
    if by:
        rows = query(f"SELECT {column} {_OF_KEY} AND run_id = ?", (*asked.where, by))
    else:
        none_of = "".join(", ?" for _ in but)
        rows = query(f"SELECT {column} {_OF_KEY} AND run_id NOT IN (''{none_of})", (*asked.where, *but))
    return asked.units(rows)


def batched(query: Query, limit: Limit) -> int:
    """What batches count in a client key's budget, in the limit's units, whoever has made them."""
    if (asked := _asked(limit)) is None:
        return 0
    column = "SUM(tokens)" if asked.is_tokens else "SUM(usd)"
    return asked.units(query(f"SELECT {column} {_OF_BATCHES}", asked.where))


class _Asked(NamedTuple):
    where: tuple[str, int, int]
    is_tokens: bool

    def units(self, rows: Sequence[tuple[Any, ...]]) -> int:
        found = Decimal(str(rows[0][0] or 0))
        return int(found) if self.is_tokens else to_micro(found)


def _asked(limit: Limit) -> _Asked | None:
    window = BudgetWindow.parse(limit.window)
    key = key_of(limit.scope)
    if window is None or not key:
        return None
    since, until = window.bounds()
    return _Asked((key, to_ms(since), to_ms(until)), window.is_tokens)


def _day(number: int) -> date:
    return datetime.fromtimestamp(number * 86_400, UTC).date()


def has_other_runs(query: Query, run_id: str) -> bool:
    """Whether another proxy may be using this database."""
    return bool(query("SELECT 1 FROM runs WHERE ended_at IS NULL AND id <> ? LIMIT 1", (run_id,)))
