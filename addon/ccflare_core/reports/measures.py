"""What is measured of requests: each figure as SQL over the table `requests`. Pure.

These texts are all there is to define a figure. They run over single requests, and, once for every quarter of an hour,
to fill `usage_slots`, whose sums are then added up: see tally.py and rollup.py. They are plain SQL for SQLite and
PostgreSQL and hold no `?`.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from sys import byteorder
from typing import Final

from ccflare_core.anthropic.request import TYING_MODELS
from ccflare_core.anthropic.routes import CACHE_TOUCH

SLOT_MS: Final = 900_000
"""A quarter of an hour: wherever one is, the local hours and days begin with one."""

DIMENSIONS: Final = (
    *("account_used", "model", "session_id", "client_ip", "client_id", "project", "agent"),
    "is_inference",
)
"""By what the figures of a slot are split, and what a question can be split by."""

# The paths that get an account's credential (api_table.py), coarser: this runs once a row. A touch of the cache infers
# nothing.
_PATHS: Final = ("/v1/messages", "/v1/models", "/v1/files", "/v1/complete", "/v1/skills")
IS_INFERENCE: Final = f"(({' OR '.join(f"path LIKE '{path}%'" for path in _PATHS)}) AND path NOT LIKE '{CACHE_TOUCH}%')"


def is_inference(path: str) -> bool:
    """The same, of a path at hand."""
    return path.startswith(_PATHS) and not path.startswith(CACHE_TOUCH)


def _number_of(condition: str) -> str:
    return f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"


def _spent(column: str) -> str:
    # An answer of /v1/messages/count_tokens has input tokens too, but nothing was used: it has no output.
    return f"SUM(CASE WHEN output_tokens IS NOT NULL THEN {column} END)"


SUMS: Final = {
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
    "estimated": _number_of("estimated"),
}
"""The sums over a group's requests."""

BOUNDS: Final = {"first_ms": "MIN(timestamp)", "last_ms": "MAX(timestamp)"}

SWITCHES: Final = {
    "switches": "COUNT(*)",
    "rebilled_tokens": "SUM(rebilled)",
    "rebilled_1h_tokens": "SUM(CASE WHEN rebilled > 0 THEN rebilled * written_1h / written ELSE 0 END)",
    "lost_thinking_tokens": "SUM(lost)",
}
"""The sums over a group's rows of `switched`."""

_LONGEST_CACHE_MS = 3_600_000
_SHORT_CACHE_MS = 300_000
_TIES_THINKING: Final = " OR ".join(f"model LIKE '{prefix}%'" for prefix in TYING_MODELS)


def switched(dimensions: Iterable[str]) -> str:
    """The requests to which it mattered that another account had served their session before, as a subquery.

    Its parameters are three times in ms: an hour before the period, the period's end and its beginning. A request
    switched if the one before it, of the same session, model and agent, went to another account no longer ago than the
    cache lives (5 minutes, or 1 hour if that was asked for). It would have read what that one had read and written;
    what it had to write of it is `rebilled`. Models that tie thinking to the account have also `lost` what that other
    account has thought in this session, as far as the hour before the period reaches back.
    """
    named = ", ".join([*dimensions, "timestamp"])
    return f"""(
        SELECT * FROM (
        SELECT *, CASE WHEN written > 0 AND prefix > cached
                AND timestamp - former_at <= CASE WHEN former_1h > 0 THEN {_LONGEST_CACHE_MS} ELSE {_SHORT_CACHE_MS} END
            THEN CASE WHEN prefix - cached > written THEN written ELSE prefix - cached END ELSE 0 END AS rebilled
        FROM (
            SELECT {named}, account_used AS account, COALESCE(cache_read_input_tokens, 0) AS cached,
                cache_creation_input_tokens AS written, COALESCE(cache_creation_1h_input_tokens, 0) AS written_1h,
                LAG(account_used) OVER former AS former_account, LAG(timestamp) OVER former AS former_at,
                LAG(COALESCE(cache_read_input_tokens, 0) + COALESCE(cache_creation_input_tokens, 0))
                    OVER former AS prefix,
                LAG(COALESCE(cache_creation_1h_input_tokens, 0)) OVER former AS former_1h,
                COALESCE(LAG(thought) OVER former, 0) AS lost
            FROM (SELECT *, {IS_INFERENCE} AS is_inference,
                    SUM(CASE WHEN {_TIES_THINKING} THEN COALESCE(thinking_tokens, 0) ELSE 0 END)
                        OVER (PARTITION BY session_id, model, agent, account_used ORDER BY timestamp, id) AS thought
                FROM requests WHERE timestamp >= ? AND timestamp < ?
                AND session_id IS NOT NULL AND output_tokens IS NOT NULL) AS turns
            WINDOW former AS (PARTITION BY session_id, model, agent ORDER BY timestamp, id)
        ) AS pairs
        WHERE timestamp >= ? AND account <> former_account
        ) AS moves WHERE rebilled > 0 OR lost > 0
    ) AS switched"""  # noqa: S608


def looked_back(since_ms: int) -> int:
    """From when on a request can matter to one at `since_ms`."""
    return since_ms - _LONGEST_CACHE_MS


DURATIONS: Final = {"latencies": "response_time_ms", "first_bytes": "first_byte_ms"}
"""Columns of milliseconds of which percentiles are wanted, by the column that keeps them in `usage_slots`."""

_MOST = 61_800


def code(column: str) -> str:
    """A duration as a number below 2^16: exact to a millisecond below a second, and else to one percent."""
    return (
        f"CAST(CASE WHEN {column} < 1000 THEN ROUND({column}) WHEN {column} < 10000 THEN 900 + ROUND({column} / 10) "
        f"WHEN {column} < 6000000 THEN 1800 + ROUND({column} / 100) ELSE {_MOST} END AS INTEGER)"
    )


def milliseconds(code: int) -> int:
    """The duration that a code stands for."""
    if code <= 1000:
        return code
    return (code - 900) * 10 if code <= 1900 else (code - 1800) * 100


def pack(codes: Iterable[tuple[int, int]]) -> bytes:
    """Codes with their numbers as bytes; packed ones can be joined."""
    packed = array("H")
    for each, number in codes:
        packed.extend([min(max(each, 0), _MOST)] * number)
    return _little(packed).tobytes()


def unpack(packed: bytes) -> Counter[int]:
    """How often each code was packed."""
    return Counter(_little(array("H", packed)))


def _little(codes: "array[int]") -> "array[int]":
    # Machines of both kinds may share a database.
    if byteorder == "big":
        codes.byteswap()
    return codes
