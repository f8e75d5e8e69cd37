"""What the record tells of a session: who serves it, how full that account is, what it has cost.

Little is imported for it, since the status line is printed every few seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ccflare_core.text import iso

if TYPE_CHECKING:
    from ccflare_core.reports.tally import Query

_WINDOWS = ("5h", "7d")
_MOST = 10**9
_YEARS = (1971, 9000)
_ACCOUNTS = """SELECT a.id, a.name, a.paused, a.needs_login, a.attention IS NOT NULL,
    EXISTS (SELECT 1 FROM scope_cooldowns c WHERE c.account_id = a.id AND c.scope = 'account' AND c.until > ?)
    FROM accounts a ORDER BY a.priority, a.name"""
_SERVED = """SELECT account_used, account_name FROM requests
    WHERE session_id = ? AND account_used IS NOT NULL ORDER BY timestamp, id"""
_COST = "SELECT SUM(cost_usd) FROM requests WHERE session_id = ?"
_READING = """SELECT utilization, resets_at FROM windows
    WHERE account_id = ? AND name = ? AND utilization IS NOT NULL ORDER BY at DESC, id DESC LIMIT 1"""
_MAKERS = "SELECT DISTINCT client_id FROM requests WHERE session_id = ?"
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


def read_session(query: "Query", session: str | None, now: float) -> SessionState:
    """What is recorded of the session by `now` (epoch seconds); without one that is known, of the accounts alone."""
    accounts = [*query(_ACCOUNTS, (now * 1000,))]
    served = [*query(_SERVED, (session,))] if session else []
    cost = next(iter(query(_COST, (session,))))[0] if session else None
    ids = [row[0] for row in served]
    names = {row[0]: row[1] for row in accounts}
    account = ids[-1] if ids else None
    limits = {name: limit for name in _WINDOWS if account and (limit := _limit(query, account, name, now))}
    alerts = query(_ALERTS, ())
    return SessionState(
        names.get(account, served[-1][1]) if account else None,
        limits,
        sum(not any(row[2:]) for row in accounts),
        len(accounts),
        cost,
        sum(before != after for before, after in pairwise(ids)),
        tuple(f"{name} {cause.replace('_', ' ')}" for cause, name in alerts),
    )


def _limit(query: "Query", account: str, name: str, now: float) -> Limit | None:
    """The last reading; a window that has ended since is empty."""
    found = next(iter(query(_READING, (account, name))), None)
    if found is None or found[0] is None:
        return None
    resets_at = found[1] / 1000 if found[1] else None
    is_over = resets_at is not None and resets_at <= now
    return Limit(0.0, None) if is_over else Limit(found[0], resets_at)


def is_made_by(query: "Query", session: str, client_id: str) -> bool:
    """Whether this client key made the session's requests, and no other and nobody else any of them."""
    return [row[0] for row in query(_MAKERS, (session,))] == [client_id]


def as_record(session: str, state: SessionState) -> dict[str, object]:
    """The state for programs."""
    return {
        "session": session,
        "account": state.account,
        "windows": [
            {"window": name, "utilization": limit.used, "resets_at": iso(limit.resets_at)}
            for name, limit in state.limits.items()
        ],
        "free": state.free,
        "accounts": state.accounts,
        "cost_usd": state.cost,
        "moved": state.moved,
        "alerts": [*state.alerts],
    }


def of_record(told: Mapping[str, Any]) -> SessionState:
    """The state that a program was told. Raises KeyError, TypeError or ValueError if it is none."""
    limits = {
        str(each["window"]): Limit(_figure(each["utilization"]), each["resets_at"] and _moment(each["resets_at"]))
        for each in told["windows"]
    }
    account, cost = told["account"], told["cost_usd"]
    return SessionState(
        None if account is None else str(account),
        limits,
        int(_figure(told["free"])),
        int(_figure(told["accounts"])),
        None if cost is None else _figure(cost),
        int(_figure(told["moved"])),
        tuple(str(alert) for alert in told["alerts"]),
    )


def _figure(told: float) -> float:
    """A number that can be one of ours: JSON has endless ones too, and some that are none."""
    if not 0 <= told <= _MOST:
        raise ValueError("no figure of a session is such a number")
    return float(told)


def _moment(told: str) -> float:
    """Epoch seconds that every zone has a date for."""
    moment = datetime.fromisoformat(told)
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise ValueError("no window ends in such a year")
    return moment.timestamp()
