"""What the record tells of a session, for the status line: read from the SQLite file, past the program's own store.

Nothing here is sealed, and nothing is written. The store would take ten times as long to be there.
"""

import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_WINDOWS = ("5h", "7d")
_ACCOUNTS = """SELECT a.id, a.name, a.paused, a.needs_login, a.attention IS NOT NULL,
    EXISTS (SELECT 1 FROM scope_cooldowns c WHERE c.account_id = a.id AND c.scope = 'account' AND c.until > ?)
    FROM accounts a ORDER BY a.priority, a.name"""
_SERVED = """SELECT account_used, account_name FROM requests
    WHERE session_id = ? AND account_used IS NOT NULL ORDER BY timestamp, id"""
_COST = "SELECT SUM(cost_usd) FROM requests WHERE session_id = ?"
_READING = """SELECT utilization, resets_at FROM windows
    WHERE account_id = ? AND name = ? AND utilization IS NOT NULL ORDER BY at DESC, id DESC LIMIT 1"""
_ALERTS = "SELECT cause, name FROM alerts WHERE is_open AND cause IN ('needs_login', 'needs_attention') ORDER BY name"


class Limit(NamedTuple):
    """How full a window of an account is: a fraction, and the epoch second of its end."""

    used: float
    resets_at: float | None


class SessionState(NamedTuple):
    """A session as it stands. Without an answer yet there is no account."""

    account: str | None
    limits: dict[str, Limit]
    free: int
    """Accounts that could serve now."""
    accounts: int
    cost: float | None
    moved: int
    """How often another account has taken over."""
    alerts: tuple[str, ...]


def read(database: str, session: str | None, now: float) -> SessionState | None:
    """What is recorded of the session; None if the file cannot be read, or is no database of ours."""
    path = database.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.1)
    except sqlite3.Error:
        return None
    try:
        return _read(connection, session, now)
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def _read(connection: sqlite3.Connection, session: str | None, now: float) -> SessionState:
    accounts = connection.execute(_ACCOUNTS, (now * 1000,)).fetchall()
    served = connection.execute(_SERVED, (session,)).fetchall() if session else []
    cost = connection.execute(_COST, (session,)).fetchone()[0] if session else None
    ids = [row[0] for row in served]
    names = {row[0]: row[1] for row in accounts}
    account = ids[-1] if ids else None
    limits = {name: limit for name in _WINDOWS if account and (limit := _limit(connection, account, name, now))}
    alerts = connection.execute(_ALERTS).fetchall()
    return SessionState(
        names.get(account, served[-1][1]) if account else None,
        limits,
        sum(not any(row[2:]) for row in accounts),
        len(accounts),
        cost,
        sum(before != after for before, after in pairwise(ids)),
        tuple(f"{name} {cause.replace('_', ' ')}" for cause, name in alerts),
    )


def _limit(connection: sqlite3.Connection, account: str, name: str, now: float) -> Limit | None:
    """The last reading; a window that has ended since is empty."""
    found: Sequence[float | None] | None = connection.execute(_READING, (account, name)).fetchone()
    if found is None or found[0] is None:
        return None
    resets_at = found[1] / 1000 if found[1] else None
    is_over = resets_at is not None and resets_at <= now
    return Limit(0.0, None) if is_over else Limit(found[0], resets_at)
