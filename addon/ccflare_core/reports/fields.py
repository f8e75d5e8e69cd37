"""What programs get of a report's rows: each field's name and how to get it. Pure.

The scripts' `--format json` and `--format csv` and the API give these very fields, so a name means the same in both.
vocabulary.py says what that is.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import sharers
from ccflare_core.accounts.member import AccountStatus
from ccflare_core.accounts.status import StoredStatus
from ccflare_core.accounts.validity import login_end, login_warning, token_state
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.reports.figures import DASH
from ccflare_core.reports.limit_history import WindowPast
from ccflare_core.reports.proxies import ProxyStatus
from ccflare_core.reports.queries import Exchange, Trouble, Use
from ccflare_core.reports.traffic import By, Period, Traffic
from ccflare_core.reports.within import PartUse, Subagent
from ccflare_core.text import iso

type Fields[Row] = tuple[tuple[str, Callable[[Row], object]], ...]


def record[Row](row: Row, fields: Sequence[tuple[str, Callable[[Row], object]]]) -> dict[str, object]:
    """A row as a dict that can be written as JSON."""
    return {name: get(row) for name, get in fields}


def named(*names: str) -> Fields[Any]:
    """The fields that are attributes of the rows, by their own names."""
    return tuple((name, attrgetter(name)) for name in names)


def items(*names: str) -> Fields[Mapping[str, Any]]:
    """The same of rows that are mappings."""
    return tuple((name, itemgetter(name)) for name in names)


def _with_times(names: Sequence[str]) -> Fields[Any]:
    """The same of tuples, where the names of times end with `at`."""

    def time(name: str) -> Callable[[Any], object]:
        return lambda row: iso(getattr(row, name))

    is_time = {name for name in names if name == "at" or name.endswith("_at")}
    return tuple((name, time(name) if name in is_time else attrgetter(name)) for name in names)


# Accounts and their limits


def account_fields(accounts: Sequence[Account], now: float) -> Fields[tuple[StoredStatus, Use]]:
    """How one of these accounts stands and is used; the use counts the last 24 hours."""
    groups = sharers(accounts)
    shared = {each.name: [other.name for other in group if other != each] for group in groups for each in group}
    return (
        ("name", lambda row: row[0].account.name),
        ("kind", lambda row: row[0].account.kind.value),
        ("priority", lambda row: row[0].account.priority),
        ("state", lambda row: row[0].state_value),
        ("state_reason", lambda row: row[0].cooldown.reason if row[0].cooldown else None),
        ("state_until", lambda row: iso(row[0].cooldown.until) if row[0].cooldown else None),
        *((name, _of_status(get)) for name, get in _login_fields(now)),
        ("shares_limits_with", lambda row: shared.get(row[0].account.name, [])),
        ("last_used", lambda row: iso(row[1].last_at)),
        ("requests_24h", lambda row: row[1].requests),
        ("utilization_5h", lambda row: row[0].utilization("5h")),
        ("utilization_7d", lambda row: row[0].utilization("7d")),
    )


def _of_status(get: Callable[[StoredStatus], object]) -> Callable[[tuple[StoredStatus, Use]], object]:
    return lambda row: get(row[0])


def login_fields(now: float) -> Fields[StoredStatus]:
    """How an account's token and login stand."""
    whose: Fields[StoredStatus] = (
        ("account", lambda status: status.account.name),
        ("kind", lambda status: status.account.kind.value),
    )
    return (*whose, *_login_fields(now))


def _login_fields(now: float) -> Fields[StoredStatus]:
    return (
        ("token", lambda status: token(status, now)),
        ("token_expires_at", lambda status: iso(status.account.expires_at)),
        ("login_at", lambda status: iso(status.account.login_at)),
        ("login_expires_at", lambda status: iso(login_end(status.account))),
        ("warning", lambda status: login_warning(status.account, now)),
    )


def token(status: StoredStatus, now: float) -> str:
    """How its access token stands; an API key has no end."""
    return DASH if status.account.kind is Kind.API_KEY else token_state(status.account, now, status.upkeep)


def window_record(window: Window) -> dict[str, object]:
    """A limit as last read."""
    return {**window._asdict(), "resets_at": iso(window.resets_at)}


DOING: Fields[AccountStatus] = (
    ("name", lambda status: status.account.name),
    ("kind", lambda status: status.account.kind),
    ("priority", lambda status: status.account.priority),
    ("available", lambda status: status.available),
    ("reason", lambda status: status.reason),
    ("available_at", lambda status: iso(status.until)),
    ("in_flight", lambda status: status.in_flight + status.elsewhere),
    ("windows", lambda status: [window_record(window) for window in status.windows]),
)
"""What an account is doing now, in the pool of a proxy that runs."""

LIMITS: Fields[StoredStatus] = (
    ("account", lambda status: status.account.name),
    ("state", lambda status: status.state_value),
    ("windows", lambda status: [window_record(window) for window in status.windows]),
)
"""How full an account's limits are."""


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


WINDOW: Fields[WindowPast] = (
    ("account", lambda past: past.account),
    ("window", lambda past: past.name),
    ("utilization", lambda past: past.forecast and past.forecast.utilization),
    ("resets_at", lambda past: iso(past.forecast.resets_at) if past.forecast else None),
    ("per_hour", lambda past: past.forecast and past.forecast.pace),
    ("forecast", lambda past: past.forecast and past.forecast.course.value),
    ("full_at", lambda past: iso(past.forecast.full_at) if past.forecast else None),
    ("turns_left", lambda past: _whole(past.forecast.turns_left) if past.forecast else None),
    ("history", lambda past: [{"at": at, "peak": peak} for at, peak in past.peaks.items()]),
)
"""A limit with its past and what is to come."""


# Proxies


PROXY: Fields[ProxyStatus] = _with_times(ProxyStatus._fields)
"""A proxy on the database."""


# Requests


EXCHANGE: Fields[Exchange] = _with_times(Exchange._fields)
"""A single request."""

TROUBLE: Fields[Trouble] = _with_times(("last_at", "number", "kind", "status", "account", "message", "path"))
"""What failed, equal failures in one."""

PART: Fields[PartUse] = named(*PartUse._fields)
"""What another model did within requests."""

SUBAGENT: Fields[Subagent] = _with_times(Subagent._fields)
"""A session's agent."""


def known_cost(traffic: Traffic) -> float | None:
    """What a group cost, as far as that is known; None if nothing of it is."""
    return None if traffic.unknown_costs and not traffic.cost_usd else round(traffic.cost_usd, 8)


def keys_of(by: Sequence[By]) -> Fields[Traffic]:
    """By what a group was split off."""

    def key(index: int) -> Callable[[Traffic], object]:
        return lambda traffic: traffic.keys[index]

    return tuple((split.value, key(index)) for index, split in enumerate(by))


def traffic_fields(by: Sequence[By]) -> Fields[Traffic]:
    """What became of a period's requests, or of a group's in it that was split off `by` these."""
    return (
        *keys_of(by),
        *named("requests", "open", "ok", "client_aborts", "refused", "moved", "failovers"),
        *named("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"),
        *named("thinking_tokens", "web_searches", "estimated", "success_rate", "cache_hit_rate"),
        ("cost_usd", known_cost),
        ("requests_of_unknown_cost", lambda traffic: traffic.unknown_costs),
        ("latency_p50_seconds", lambda traffic: traffic.latency.p50),
        ("latency_p95_seconds", lambda traffic: traffic.latency.p95),
        ("first_byte_p50_seconds", lambda traffic: traffic.first_byte.p50),
        ("first_byte_p95_seconds", lambda traffic: traffic.first_byte.p95),
        ("first_at", lambda traffic: iso(traffic.first_at)),
        ("last_at", lambda traffic: iso(traffic.last_at)),
    )


def total_fields(period: Period, others: int) -> Fields[Traffic]:
    """A period at a glance. `others` counts the requests that needed no account."""
    return (
        ("since", lambda _: iso(period.since)),
        ("until", lambda _: iso(period.until)),
        *traffic_fields(()),
        ("other_requests", lambda _: others),
    )


def timeline_fields(by: By) -> Fields[Traffic]:
    """An hour or a day."""
    return (
        *keys_of((by,)),
        *named("requests", "input_tokens", "cache_read_tokens", "cache_creation_tokens", "output_tokens"),
        ("cost_usd", known_cost),
        ("requests_of_unknown_cost", lambda traffic: traffic.unknown_costs),
        *named("moved", "failovers", "errors"),
    )
