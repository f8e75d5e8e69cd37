"""A database with a long past, made within the database: a million requests take it some seconds.

Sessions of 80 requests follow each other over a year, 40 seconds between two of their requests. All values come from
the request's number, so every run makes the same past.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from ccflare_core.store.store import Store
from history import KEY, NOON

_YEAR_MS = 365 * 86_400_000
_UNTIL_MS = round(NOON * 1000)

# `r` is a number below 2^32 that looks like chance, `s` the session, `n` the request's place in it.
_FACTS = """
WITH RECURSIVE counter(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM counter WHERE i + 1 < :requests),
mixed AS (
    SELECT i, i / 80 AS s, i % 80 AS n, (i * 2654435761) & 4294967295 AS r1,
        ((i / 80 + 1) * 2246822519) & 4294967295 AS h1 FROM counter),
made AS (
    SELECT i, s, n, ((r1 >> 9) * 668265263 >> 5) & 1073741823 AS r, ((h1 >> 9) * 374761393 >> 5) & 1073741823 AS h,
        :until - :year + s * :year / (:requests / 80 + 1) + n * 40000 + (r1 & 8191) AS at FROM mixed),
facts AS (
    SELECT *, CASE WHEN r % 97 = 0 THEN 'upstream_error' WHEN r % 101 = 0 THEN 'client_abort'
        WHEN r % 499 = 0 THEN 'refused' ELSE 'ok' END AS outcome,
        1 + (h + (n > 40 AND h % 19 = 0)) % 4 AS account, n BETWEEN 41 AND 42 AND h % 19 = 0 AS is_cold,
        r % 5 = 0 AS small FROM made)
"""
_REQUESTS = (
    _FACTS
    + """
INSERT INTO requests (id, timestamp, method, path, client_ip, user_agent, session_id, door, run_id, model, outcome,
    success, status_code, error_message, account_used, account_name, response_time_ms, first_byte_ms,
    failover_attempts, attempts, stream, choice_reason, prompt_tokens, input_tokens, output_tokens,
    cache_read_input_tokens, cache_creation_input_tokens, cache_creation_5m_input_tokens, cost_usd, request_bytes,
    response_bytes, project, working_directory, agent, request_class, client_id, client_name)
SELECT printf('%08x-%04x-4000-8000-%012x', r, h & 65535, i), at, 'POST',
    CASE WHEN r % 211 = 0 THEN '/api/event_logging/batch' WHEN r % 53 = 0 THEN '/v1/messages/count_tokens?beta=true'
        ELSE '/v1/messages?beta=true' END,
    '127.0.0.1', 'claude-cli/2.1.330 (external, cli)', printf('%08x-1111-4222-8333-%012x', h, s), 'base', 'run',
    CASE WHEN small THEN 'claude-haiku-4-5' WHEN h % 3 = 0 THEN 'claude-sonnet-5' ELSE 'claude-opus-4-8' END,
    outcome, outcome = 'ok', CASE outcome WHEN 'ok' THEN 200 WHEN 'refused' THEN 503 ELSE 529 END,
    CASE WHEN outcome = 'ok' THEN NULL ELSE 'Overloaded' END,
    CASE WHEN outcome = 'refused' THEN NULL ELSE printf('MAX-%d', account) END,
    CASE WHEN outcome = 'refused' THEN NULL ELSE printf('max-%d', account) END,
    400 + (r & 16383) * 1.5, 200 + (r & 2047), r % 71 = 0, 1 + (r % 71 = 0 AND outcome <> 'refused'), 1,
    'the session''s own account',
    CASE outcome WHEN 'ok' THEN 20000 + n * 1500 + 30 END, CASE outcome WHEN 'ok' THEN 30 END,
    CASE WHEN outcome = 'ok' AND r % 53 THEN 50 + (r & 1023) END,
    CASE WHEN outcome <> 'ok' THEN NULL WHEN is_cold THEN 0 ELSE 20000 + n * 1500 - (r & 1023) END,
    CASE WHEN outcome <> 'ok' THEN NULL WHEN is_cold THEN 20000 + n * 1500 ELSE r & 1023 END,
    CASE WHEN outcome <> 'ok' THEN NULL WHEN is_cold THEN 20000 + n * 1500 ELSE r & 1023 END,
    CASE WHEN outcome = 'ok' AND r % 53 THEN 0.01 + (r & 1023) / 16384.0 END,
    80000 + n * 6000, 3000, printf('project-%d', h % 12), printf('/home/me/project-%d', h % 12),
    CASE WHEN small THEN 'explorer' END, CASE WHEN small THEN 'auxiliary' ELSE 'main' END,
    printf('KEY-%d', h % 5), printf('key-%d', h % 5)
FROM facts WHERE at < :until
"""
)

# Which request is the moved one's first attempt, and the second, does not matter here.
_ATTEMPTS = """
INSERT INTO attempts (request_id, number, account_id, account_name, status_code, verdict, reason, windows, started_at,
    duration_ms)
SELECT id, 1, account_used, account_name, 429, 'window_spent', '5h window spent', '[]', timestamp, 100.0
FROM requests WHERE attempts > 1
"""
_WINDOWS = """
WITH RECURSIVE counter(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM counter WHERE i + 1 < :readings)
INSERT INTO windows (account_id, name, at, utilization, status, resets_at)
SELECT printf('MAX-%d', 1 + i % 4), CASE WHEN i % 5 THEN '5h' ELSE '7d' END, :until - :year + i * (:year / :readings),
    i % 400 / 400.0, 'allowed', :until - :year + i * (:year / :readings) + 3600000 FROM counter
"""


def make_large_history(path: Path, requests: int) -> None:
    """A new database with that many requests in the year before NOON, and its sums made."""
    with closing(Store.open(path, KEY, wall=lambda: NOON)) as store:
        _fill(path, requests)
        while store.usage.step():
            pass


def _fill(path: Path, requests: int) -> None:
    """Insert all rows. Indexes and triggers are put back when they are there."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = -200000")
        database.execute("BEGIN")
        found = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'requests' AND sql IS NOT NULL"
        aside = [row for row in database.execute(found) if row[0] != "table"]
        for kind, name, _ in aside:
            database.execute(f"DROP {kind} {name}")
        values = {"requests": requests, "readings": requests // 4, "until": _UNTIL_MS, "year": _YEAR_MS}
        for statement in (_REQUESTS, _ATTEMPTS, _WINDOWS):
            database.execute(statement, values)
        for number in range(1, 5):
            database.execute(
                "INSERT INTO accounts (id, name, kind, priority, paused, created_at, updated_at, needs_login) "
                f"VALUES ('MAX-{number}', 'max-{number}', 'oauth', 50, 0, 0, 0, 0)"
            )
        database.execute("INSERT INTO usage_todo SELECT DISTINCT timestamp / 900000 FROM requests")
        for *_, sql in aside:
            database.execute(sql)
        database.execute("COMMIT")
