"""The tables of accounts, limits, single requests and failures: what people see, and what programs get."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import (
    DASH,
    Column,
    Table,
    bar,
    count,
    duration,
    moment,
    money,
    percent,
    printable,
    short_id,
    short_model,
)
from ccflare_cli.page import Tone
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import shared_limits, sharers
from ccflare_core.accounts.priority import FIRST, LAST
from ccflare_core.accounts.states import AccountState
from ccflare_core.accounts.status import StoredStatus
from ccflare_core.accounts.validity import login_end, login_warning
from ccflare_core.program import typed
from ccflare_core.reports.fields import EXCHANGE, LIMITS, TROUBLE, account_fields, login_fields, token
from ccflare_core.reports.queries import Exchange, Trouble, Use
from ccflare_core.text import span, worded

_MAIN_WINDOWS = ("5h", "7d")
_ORDER = f"Priority {FIRST} is used first, {LAST} last."
_NEARLY = 0.8
"""How full a limit is that should be looked at."""


def account_table(rows: Sequence[tuple[StoredStatus, Use]], now: float) -> Table[tuple[StoredStatus, Use]]:
    """How each account stands and is used; the use counts the last 24 hours."""
    accounts = [status.account for status, _ in rows]
    groups = sharers(accounts)
    return Table(
        key="accounts",
        title="",
        rows=rows,
        fields=account_fields(accounts, now),
        columns=(
            Column("Name", lambda row: row[0].account.name, way=shortened(14)),
            Column("Kind", lambda row: kind(row[0].account), under="Name"),
            Column("Priority", lambda row: str(row[0].account.priority), right=True, rank=1, legend=_ORDER),
            Column("Token", lambda row: token(row[0], now), way=wrapped(12), under="State"),
            Column("Login", lambda row: _login_age(row[0].account, now), rank=5),
            Column("Ends", lambda row: _login_end(row[0].account, now), rank=4),
            Column("Last used", lambda row: moment(row[1].last_at, now), rank=3, way=wrapped(10)),
            Column("Last 24 h", lambda row: count(row[1].requests), right=True, rank=2),
            Column("5h", lambda row: percent(row[0].utilization("5h"), 0), right=True),
            Column("7d", lambda row: percent(row[0].utilization("7d"), 0), right=True),
            Column("State", lambda row: row[0].in_words(now), way=wrapped(20), tone=lambda row: state_tone(row[0])),
        ),
        empty=f"No accounts yet: log in with `{typed('accounts login NAME')}`, or give an API key to "
        f"`{typed('accounts add NAME --api-key -')}`.",
        note="\n".join(
            [
                *(f"{printable(shared_limits(group))}." for group in groups),
                *_warnings(accounts, now),
            ]
        ),
    )


def login_table(statuses: Sequence[StoredStatus], now: float) -> Table[StoredStatus]:
    """How each account's token and login stand."""
    return Table(
        key="logins",
        title="Logins",
        rows=statuses,
        fields=login_fields(now),
        columns=(
            Column("Account", lambda s: s.account.name, way=shortened(14)),
            Column("Kind", lambda s: kind(s.account), rank=2),
            Column("Token", lambda s: token(s, now), way=wrapped(14)),
            Column("Login", lambda s: _login_age(s.account, now), rank=1),
            Column("Ends", lambda s: _login_end(s.account, now)),
        ),
        empty=f"No accounts yet: `{typed('accounts add NAME')}` adds one.",
        note="\n".join(_warnings((s.account for s in statuses), now)),
    )


def window_table(statuses: Sequence[StoredStatus], now: float) -> Table[StoredStatus]:
    """How full each account's limits are, and when they are empty again."""
    return Table(
        key="windows",
        title="Limits now",
        rows=statuses,
        fields=LIMITS,
        columns=(
            Column("Account", lambda s: s.account.name, way=shortened(14)),
            *(column for name in _MAIN_WINDOWS for column in _window_columns(name, now)),
            Column("Others", lambda s: _other_windows(s) or DASH, way=wrapped(10), under="State"),
            Column("State", lambda s: s.in_words(now), way=wrapped(16), tone=state_tone),
        ),
        empty=f"No accounts yet: `{typed('accounts add NAME')}` adds one.",
    )


_PROXY: tuple[Column[Exchange], ...] = (Column("Proxy", lambda e: e.proxy or DASH, rank=8),)
"""Where there are several."""


def exchange_table(exchanges: Sequence[Exchange], title: str, now: float) -> Table[Exchange]:
    """Single requests, one a row."""
    return Table(
        key="requests",
        title=title,
        rows=exchanges,
        fields=EXCHANGE,
        columns=(
            Column("Time", lambda e: moment(e.at, now, seconds=True), way=wrapped(10)),
            Column("Request", lambda e: e.id, way=shortened(12), brief=lambda e: short_id(e.id)),
            Column("Session", lambda e: e.session or DASH, under="Request", brief=lambda e: short_id(e.session)),
            Column("Account", lambda e: e.account or DASH, way=shortened(10)),
            Column("Client", lambda e: e.client_name or e.client or DASH, way=shortened(10), under="Account"),
            Column("Model or path", model_or_path, way=shortened(9)),
            Column("Status", lambda e: DASH if e.status is None else str(e.status), right=True, under="Model or path"),
            Column("Outcome", lambda e: worded(e.outcome or "open"), way=wrapped(8), under="Time", tone=end_tone),
            Column("In", lambda e: count(prompt_of(e)), right=True, rank=1),
            Column("New", lambda e: count(e.input_tokens), right=True, rank=7),
            Column("Read", lambda e: count(e.cache_read_tokens), right=True, rank=7),
            Column("Write", lambda e: count(e.cache_creation_tokens), right=True, rank=7),
            Column("Out", lambda e: f"{'~' * e.estimated}{count(e.output_tokens)}", right=True, rank=2),
            Column("Cost", cost_of, right=True, under="In"),
            Column("First", lambda e: duration(e.first_byte_seconds), right=True, rank=6),
            Column("Total", lambda e: duration(e.seconds), right=True, rank=4),
            Column("Moved", lambda e: str(e.failovers or ""), right=True, rank=5),
            *(_PROXY if len({e.proxy for e in exchanges}) > 1 else ()),
        ),
        empty="No requests.",
    )


def model_or_path(exchange: Exchange) -> str:
    """What was asked: a model, or else another page of the API."""
    return short_model(exchange.model) or exchange.path.partition("?")[0]


def cost_of(exchange: Exchange) -> str:
    """What it has cost, if there is anything to be paid for."""
    return f"{'~' * exchange.estimated}{money(exchange.cost_usd)}" if exchange.output_tokens else DASH


def trouble_table(key: str, troubles: Sequence[Trouble], title: str, now: float) -> Table[Trouble]:
    """Failures, equal ones in one row."""
    return Table(
        key=key,
        title=title,
        rows=troubles,
        fields=TROUBLE,
        columns=(
            Column("Last", lambda t: moment(t.last_at, now), way=wrapped(10)),
            Column("Times", lambda t: count(t.number), right=True),
            Column("What", lambda t: worded(t.kind), way=wrapped(10)),
            Column("Status", lambda t: str(t.status or DASH), under="What"),
            Column("Account", lambda t: t.account or DASH, way=shortened(10)),
            Column("Path", lambda t: (t.path or DASH).partition("?")[0], way=shortened(10), under="Account"),
            Column("Message", lambda t: t.message or DASH, way=wrapped(16, most=4)),
        ),
        empty="None.",
    )


def kind(account: Account) -> str:
    """What the account proves itself with."""
    return "API key" if account.kind is Kind.API_KEY else "OAuth"


def _login_age(account: Account, now: float) -> str:
    if account.kind is Kind.API_KEY:
        return DASH
    return "unknown" if account.login_at is None else f"{span(now - account.login_at)} ago"


def _login_end(account: Account, now: float) -> str:
    """Like `in 25 days`: what is expected, for nobody promises it."""
    end = login_end(account)
    if account.kind is Kind.API_KEY:
        return DASH
    return "unknown" if end is None else f"in {span(end - now)}" if end > now else "due"


def _warnings(accounts: Iterable[Account], now: float) -> list[str]:
    told = [(account.name, login_warning(account, now)) for account in accounts]
    lines = [f"{printable(name)}: {warning}." for name, warning in told if warning]
    return [*lines, f"`{typed('accounts login NAME')}` does it."] if lines else []


def _window_columns(name: str, now: float) -> tuple[Column[StoredStatus], ...]:
    def used(status: StoredStatus, cells: int = 10) -> str:
        fraction = status.utilization(name)
        return DASH if fraction is None else f"{bar(fraction, cells)} {percent(fraction, 0):>5}"

    def resets(status: StoredStatus, written: Callable[[float], str] = duration) -> str:
        window = status.window(name)
        return DASH if window is None or window.resets_at is None else written(window.resets_at - now)

    return (
        Column(f"{name} used", used, brief=partial(used, cells=4), tone=lambda s: fill_tone(s.utilization(name))),
        Column("Resets in", resets, rank=1, brief=partial(resets, written=span)),
    )


def _other_windows(status: StoredStatus) -> str:
    others = (window for window in status.windows if window.name not in _MAIN_WINDOWS)
    return ", ".join(f"{w.name} {percent(w.utilization, 0)}" for w in others if w.utilization is not None)


def prompt_of(exchange: Exchange) -> int | None:
    """The tokens of its prompt, from the cache or not."""
    kinds = (exchange.input_tokens, exchange.cache_read_tokens, exchange.cache_creation_tokens)
    known = [kind for kind in kinds if kind is not None]
    return sum(known) if known else None


def fill_tone(fraction: float | None) -> Tone | None:
    """Whether a limit is nearly used up, or is."""
    return None if fraction is None or fraction < _NEARLY else Tone.BAD if fraction >= 1 else Tone.CARE


def state_tone(status: StoredStatus) -> Tone:
    """Whether the account serves, will again by itself, or needs a person."""
    if status.state is AccountState.SERVING:
        return Tone.CARE if status.cooldown or status.scope_cooldowns else Tone.GOOD
    return Tone.CARE if status.state is AccountState.REFRESHING else Tone.BAD


def end_tone(exchange: Exchange) -> Tone | None:
    """How well it has ended; None while it is under way."""
    return {"ok": Tone.GOOD, None: None, "client_abort": Tone.CARE}.get(exchange.outcome, Tone.BAD)
