"""Advice about limit windows: accounts of which hardly anything is used, and projects that use up those of others.

Only subscriptions have such windows. How full one was is what the upstream has said; who filled it goes by what the
requests cost at list prices, since the upstream does not say how it counts, and by what has passed here alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from ccflare_core.accounts.account import Kind as AccountKind
from ccflare_core.accounts.member import WINDOW_SECONDS
from ccflare_core.program import typed
from ccflare_core.reports.advice import Advice, Kind, largest
from ccflare_core.reports.figures import count, percent
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.tally import Query
from ccflare_core.reports.traffic import By, Period, Traffic
from ccflare_core.text import some

NEARLY_FULL: Final = 0.9
"""From here on sessions are about to move, or to be refused."""
IDLE: Final = 0.1
"""An account that never got so far in a week's window could have been left at home."""
LEAST_SECONDS: Final = 86_400.0
"""How long an account is looked at before it is called idle: nights are no waste."""
GREEDY: Final = 0.5
"""A project with less than half of a window is not alone to blame."""
OTHERS: Final = 0.05
"""Who shares a window with nobody, or with less than this, takes it from nobody."""
HABIT: Final = {"7d": 1, "5h": 3}
"""How often an account's windows were nearly full before it is asked by whom: five hours of hard work are none."""
_WEEK = "7d"
_JITTER_SECONDS = 60.0
"""By which two readings of one reset may differ; a real one moves by hours."""


class FullWindow(NamedTuple):
    """The fullest of an account's windows of one name, and how many of them were nearly full. Times in seconds."""

    account: str
    name: str
    number: int
    utilization: float
    at: float
    """When it was as full as that."""
    began_at: float | None
    """None: nobody said when it ends."""


class Subscription(NamedTuple):
    """An account with limit windows. `peak` is how full its week's window was at most; None: nobody said."""

    id: str
    name: str
    priority: int
    needs_login: bool
    has_twin: bool
    """Whether it shares its limits with another account: then its readings are not all that was used of them."""
    since: float
    """From when on it is judged."""
    peak: float | None
    requests: int


def window_advice(query: Query, reports: Reports, period: Period) -> Iterator[Advice]:
    """What the record of the period says of accounts and projects."""
    full = full_windows(query, period)
    yield from idle_accounts(subscriptions(query, reports, period), full, period.until)
    yield from greedy_projects(reports, full)


# Windows that were nearly full


def full_windows(query: Query, period: Period) -> list[FullWindow]:
    """By the accounts' names, those of a week before those of five hours."""
    found: list[FullWindow] = []
    for account_id, account in [*query("SELECT id, name FROM accounts ORDER BY name", ())]:
        for name in HABIT:
            found += _fullest(query, period, account_id, account, name)
    return found


def _fullest(query: Query, period: Period, account_id: str, account: str, name: str) -> Iterator[FullWindow]:
    sql = """SELECT MAX(utilization), MAX(at) / 1000.0, resets_at / 1000.0 FROM windows
             WHERE account_id = ? AND name = ? AND at >= ? AND at < ? AND utilization >= ?
             GROUP BY resets_at ORDER BY resets_at"""
    rows = [*query(sql, (account_id, name, *period.bounds_ms(), NEARLY_FULL))]
    if not rows:
        return
    ends = [float(row[2]) for row in rows if row[2] is not None]
    number = sum(end - before > _JITTER_SECONDS for before, end in pairwise([0.0, *ends]))
    utilization, at, end = max(rows, key=lambda row: (row[0], row[1]))
    began_at = None if end is None else float(end) - WINDOW_SECONDS[name]
    yield FullWindow(account, name, max(number, 1), float(utilization), float(at), began_at)


# Accounts that hardly serve


def subscriptions(query: Query, reports: Reports, period: Period) -> list[Subscription]:
    """All that are in use, with what each has done since the record or the account began."""
    begin = reports.recorded(period).since
    served = {group.keys[0]: group.requests for group in reports.traffic(period, (By.ACCOUNT,), latencies=False)}
    sql = """SELECT id, name, priority, needs_login, EXISTS (
                 SELECT 1 FROM accounts AS twin WHERE twin.id <> accounts.id AND twin.kind = accounts.kind
                 AND twin.person_id = accounts.person_id
                 AND COALESCE(twin.organization_id, '') = COALESCE(accounts.organization_id, '')
             ), created_at / 1000.0 FROM accounts WHERE kind = ? AND NOT paused ORDER BY name"""
    found = []
    for id_, name, priority, needs_login, has_twin, created_at in [*query(sql, (AccountKind.OAUTH.value,))]:
        since = max(begin, float(created_at))
        peak = _peak(query, id_, Period(since, period.until))
        stands = (bool(needs_login), bool(has_twin))
        found.append(Subscription(id_, name, priority, *stands, since, peak, served.get(name, 0)))
    return found


def _peak(query: Query, account_id: str, period: Period) -> float | None:
    sql = "SELECT MAX(utilization) FROM windows WHERE account_id = ? AND name = ? AND at >= ? AND at < ?"
    peak = next(iter(query(sql, (account_id, _WEEK, *period.bounds_ms()))))[0]
    return None if peak is None else float(peak)


def idle_accounts(accounts: Sequence[Subscription], full: Sequence[FullWindow], now: float) -> Iterator[Advice]:
    """Those that could have served while others were nearly full, and those that nobody has missed for a week."""
    busiest = max(accounts, key=lambda each: each.requests, default=None)
    for account in accounts:
        seconds = now - account.since
        if account is busiest or not _is_idle(account) or seconds < LEAST_SECONDS:
            continue
        others = [window for window in full if window.account != account.name]
        if others:
            yield _idle(account, f"while {_told(others)}. {_remedy(account, accounts, others)}")
        elif not full and seconds >= WINDOW_SECONDS[_WEEK]:
            yield _idle(account, "and no other account was ever nearly full: one less would do.")


def _is_idle(account: Subscription) -> bool:
    """Of one that has served nothing nobody has to say how full it was."""
    if account.has_twin:
        return False
    return not account.requests if account.peak is None else account.peak < IDLE


def _idle(account: Subscription, rest: str) -> Advice:
    served = "It served nothing" if not account.requests else f"It served {some(account.requests, 'request')}"
    used = "" if account.peak is None else f" and used at most {percent(account.peak, 0)} of a week"
    share = None if account.peak is None else 1 - account.peak
    text = f"{served}{used}, {rest}"
    return Advice(
        Kind.IDLE_ACCOUNT, account.name, text, account.requests, window=_WEEK, share=share, account=account.name
    )


def _told(full: Sequence[FullWindow]) -> str:
    worst = max(full, key=lambda window: (window.number, window.utilization))
    times = "once" if worst.number == 1 else f"{count(worst.number)} times"
    return f"{worst.account}'s {worst.name} window was nearly full {times}"


def _remedy(account: Subscription, accounts: Sequence[Subscription], full: Sequence[FullWindow]) -> str:
    """What keeps it from being used, as far as the record tells."""
    if account.needs_login:
        return f"It needs a login: `{typed(f'accounts login {account.name}')}`."
    crowded = {window.account for window in full}
    first = min((each.priority for each in accounts if each.name in crowded), default=account.priority)
    if account.priority > first:
        return f"`{typed(f'accounts priority {account.name} {first}')}` has it serve as soon as they do."
    return f"`{typed('accounts list')}` says how it stands."


# Projects that fill a window


def greedy_projects(reports: Reports, full: Sequence[FullWindow]) -> Iterator[Advice]:
    """Those with most of what an account has done in a window that it filled; not where a price is unknown."""
    for window in full:
        if window.began_at is None or window.number < HABIT[window.name]:
            continue
        period = Period(window.began_at, window.at + 0.001)
        groups = reports.traffic(period, (By.ACCOUNT, By.PROJECT, By.SESSION), latencies=False)
        theirs = [group for group in groups if group.keys[0] == window.account]
        if theirs and not any(group.unknown_costs for group in theirs):
            yield from _greedy(window, theirs)


def _greedy(window: FullWindow, groups: Sequence[Traffic]) -> Iterator[Advice]:
    whole = sum(group.cost_usd for group in groups)
    by_project: defaultdict[str | None, list[Traffic]] = defaultdict(list)
    for group in groups:
        by_project[group.keys[1]].append(group)
    for project, theirs in by_project.items():
        cost = sum(group.cost_usd for group in theirs)
        if project is not None and whole > 0 and GREEDY <= cost / whole <= 1 - OTHERS:
            yield _advice_on(project, cost / whole, window, theirs)


def _advice_on(project: str, part: float, window: FullWindow, groups: Sequence[Traffic]) -> Advice:
    worth: Mapping[str | None, float] = {group.keys[2]: group.cost_usd for group in groups}
    text = (
        f"{percent(part, 0)} of what {window.account} did in the {window.name} window that was"
        f" {percent(window.utilization, 0)} full was for it. Give it a client key with a budget:"
        f" `{typed('keys client add NAME')}`."
    )
    return Advice(
        Kind.GREEDY_PROJECT,
        project,
        text,
        sum(group.requests for group in groups),
        window=window.name,
        share=part * window.utilization,
        account=window.account,
        sessions=largest(worth),
    )
