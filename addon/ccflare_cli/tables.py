"""The tables of accounts, limits, single requests and failures: what people see, and what programs get."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ccflare_cli.output import (
    DASH,
    Column,
    Table,
    bar,
    clip,
    count,
    duration,
    iso,
    moment,
    money,
    named,
    percent,
    printable,
    short_model,
)
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.priority import FIRST, LAST
from ccflare_core.accounts.status import StoredStatus
from ccflare_core.accounts.validity import login_end, login_warning, token_state
from ccflare_core.reports.queries import Exchange, Trouble, Use
from ccflare_core.text import span

_MAIN_WINDOWS = ("5h", "7d")
_ORDER = f"Priority {FIRST} is used first, {LAST} last."


def account_table(rows: Sequence[tuple[StoredStatus, Use]], now: float) -> Table[tuple[StoredStatus, Use]]:
    """How each account stands and is used; the use counts the last 24 hours."""
    return Table(
        key="accounts",
        title="",
        rows=rows,
        fields=(
            ("name", lambda row: row[0].account.name),
            ("kind", lambda row: row[0].account.kind.value),
            ("priority", lambda row: row[0].account.priority),
            ("state", lambda row: row[0].state_value),
            ("state_reason", lambda row: row[0].cooldown.reason if row[0].cooldown else None),
            ("state_until", lambda row: iso(row[0].cooldown.until) if row[0].cooldown else None),
            ("token", lambda row: token(row[0], now)),
            ("token_expires_at", lambda row: iso(row[0].account.expires_at)),
            ("login_at", lambda row: iso(row[0].account.login_at)),
            ("login_expires_at", lambda row: iso(login_end(row[0].account))),
            ("warning", lambda row: login_warning(row[0].account, now)),
            ("last_used", lambda row: iso(row[1].last_at)),
            ("requests_24h", lambda row: row[1].requests),
            ("utilization_5h", lambda row: row[0].utilization("5h")),
            ("utilization_7d", lambda row: row[0].utilization("7d")),
        ),
        columns=(
            Column("Name", lambda row: clip(row[0].account.name, 24)),
            Column("Kind", lambda row: kind(row[0].account)),
            Column("Priority", lambda row: str(row[0].account.priority), right=True),
            Column("Token", lambda row: token(row[0], now)),
            Column("Login", lambda row: _login_age(row[0].account, now)),
            Column("Ends", lambda row: _login_end(row[0].account, now)),
            Column("Last used", lambda row: moment(row[1].last_at, now)),
            Column("Last 24 h", lambda row: count(row[1].requests), right=True),
            Column("5h", lambda row: percent(row[0].utilization("5h"), 0), right=True),
            Column("7d", lambda row: percent(row[0].utilization("7d"), 0), right=True),
            Column("State", lambda row: describe(row[0], now, 40)),
        ),
        empty="No accounts yet: add one with `scripts/accounts.py add NAME`, or with `--api-key -` after the name.",
        note="\n".join(filter(None, (_ORDER, _warnings((row[0].account for row in rows), now)))),
    )


def login_table(statuses: Sequence[StoredStatus], now: float) -> Table[StoredStatus]:
    """How each account's token and login stand."""
    return Table(
        key="logins",
        title="Logins",
        rows=statuses,
        fields=(
            ("account", lambda s: s.account.name),
            ("kind", lambda s: s.account.kind.value),
            ("token", lambda s: token(s, now)),
            ("token_expires_at", lambda s: iso(s.account.expires_at)),
            ("login_at", lambda s: iso(s.account.login_at)),
            ("login_expires_at", lambda s: iso(login_end(s.account))),
            ("warning", lambda s: login_warning(s.account, now)),
        ),
        columns=(
            Column("Account", lambda s: clip(s.account.name, 20)),
            Column("Kind", lambda s: kind(s.account)),
            Column("Token", lambda s: token(s, now)),
            Column("Login", lambda s: _login_age(s.account, now)),
            Column("Ends", lambda s: _login_end(s.account, now)),
        ),
        empty="No accounts yet: scripts/accounts.py adds one.",
        note=_warnings((s.account for s in statuses), now),
    )


def window_table(statuses: Sequence[StoredStatus], now: float) -> Table[StoredStatus]:
    """How full each account's limits are, and when they are empty again."""
    return Table(
        key="windows",
        title="Limits now",
        rows=statuses,
        fields=(
            ("account", lambda s: s.account.name),
            ("state", lambda s: s.state_value),
            ("windows", lambda s: [{**w._asdict(), "resets_at": iso(w.resets_at)} for w in s.windows]),
        ),
        columns=(
            Column("Account", lambda s: clip(s.account.name, 20)),
            *(column for name in _MAIN_WINDOWS for column in _window_columns(name, now)),
            Column("Others", lambda s: clip(_other_windows(s), 24)),
            Column("State", lambda s: describe(s, now, 40)),
        ),
        empty="No accounts yet: scripts/accounts.py adds one.",
    )


def exchange_table(exchanges: Sequence[Exchange], title: str, now: float) -> Table[Exchange]:
    """Single requests, one a row."""
    return Table(
        key="requests",
        title=title,
        rows=exchanges,
        fields=tuple((name, _exchange_field(name)) for name in Exchange._fields),
        columns=(
            Column("Time", lambda e: moment(e.at, now, seconds=True)),
            Column("Account", lambda e: clip(e.account, 16)),
            Column("Model or path", lambda e: clip(short_model(e.model) or e.path.partition("?")[0], 26)),
            Column("Status", lambda e: DASH if e.status is None else str(e.status), right=True),
            Column("Outcome", lambda e: _words(e.outcome or "open")),
            Column("In", lambda e: count(_prompt(e)), right=True),
            Column("Out", lambda e: f"{'~' * e.estimated}{count(e.output_tokens)}", right=True),
            Column("Cost", _cost, right=True),
            Column("First", lambda e: duration(e.first_byte_seconds), right=True),
            Column("Total", lambda e: duration(e.seconds), right=True),
            Column("Moved", lambda e: str(e.failovers or ""), right=True),
        ),
        empty="No requests.",
    )


def _cost(exchange: Exchange) -> str:
    return f"{'~' * exchange.estimated}{money(exchange.cost_usd)}" if exchange.output_tokens else DASH


def trouble_table(key: str, troubles: Sequence[Trouble], title: str, now: float) -> Table[Trouble]:
    """Failures, equal ones in one row."""
    return Table(
        key=key,
        title=title,
        rows=troubles,
        fields=(
            ("last_at", lambda t: iso(t.last_at)),
            *named("number", "kind", "status", "account", "message", "path"),
        ),
        columns=(
            Column("Last", lambda t: moment(t.last_at, now)),
            Column("Times", lambda t: count(t.number), right=True),
            Column("What", lambda t: _words(t.kind)),
            Column("Status", lambda t: str(t.status or DASH), right=True),
            Column("Account", lambda t: clip(t.account, 20)),
            Column("Path", lambda t: clip((t.path or "").partition("?")[0], 24)),
            Column("Message", lambda t: clip(t.message, 40)),
        ),
        empty="None.",
    )


def describe(status: StoredStatus, now: float, width: int) -> str:
    """`serving, cooling for opus until 14:20`, `cooling until 14:20: 5h window spent`, `needs login`."""
    return clip(status.in_words(now), width)


def kind(account: Account) -> str:
    """What the account proves itself with."""
    return "API key" if account.kind is Kind.API_KEY else "OAuth"


def token(status: StoredStatus, now: float) -> str:
    """How its access token stands; an API key has no end."""
    return DASH if status.account.kind is Kind.API_KEY else token_state(status.account, now, status.upkeep)


def _login_age(account: Account, now: float) -> str:
    if account.kind is Kind.API_KEY:
        return DASH
    return "?" if account.login_at is None else f"{span(now - account.login_at)} ago"


def _login_end(account: Account, now: float) -> str:
    """Like `in 25 days`: what is expected, for nobody promises it."""
    end = login_end(account)
    if account.kind is Kind.API_KEY:
        return DASH
    return "?" if end is None else f"in {span(end - now)}" if end > now else "due"


def _warnings(accounts: Iterable[Account], now: float) -> str:
    told = [(account.name, login_warning(account, now)) for account in accounts]
    lines = [f"{printable(name)}: {warning}" for name, warning in told if warning]
    return "\n".join([*lines, "`scripts/accounts.py login NAME` does it."] if lines else [])


def _window_columns(name: str, now: float) -> tuple[Column[StoredStatus], ...]:
    def used(status: StoredStatus) -> str:
        fraction = status.utilization(name)
        return DASH if fraction is None else f"{bar(fraction)} {percent(fraction, 0):>5}"

    def resets(status: StoredStatus) -> str:
        window = status.window(name)
        return DASH if window is None or window.resets_at is None else duration(window.resets_at - now)

    return Column(f"{name} used", used), Column("Resets in", resets)


def _other_windows(status: StoredStatus) -> str:
    others = (window for window in status.windows if window.name not in _MAIN_WINDOWS)
    return ", ".join(f"{w.name} {percent(w.utilization, 0)}" for w in others if w.utilization is not None)


def _exchange_field(name: str) -> Callable[[Exchange], Any]:
    if name == "at":
        return lambda exchange: iso(exchange.at)
    return lambda exchange: getattr(exchange, name)


def _prompt(exchange: Exchange) -> int | None:
    kinds = (exchange.input_tokens, exchange.cache_read_tokens, exchange.cache_creation_tokens)
    known = [kind for kind in kinds if kind is not None]
    return sum(known) if known else None


def _words(name: str) -> str:
    return name.replace("_", " ")
