"""Whether what is stored is well, and what to do about it: the database, backups, keys, accounts, the last day. Pure.

The facts are gathered in store_checks.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ccflare_cli.doctor.results import DAY, GIB, MIB, Result, Results, fail, ok, warn
from ccflare_cli.output import count
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import shared_limits, sharers
from ccflare_core.accounts.validity import login_warning, token_state
from ccflare_core.http.origins import is_this_machine
from ccflare_core.program import typed
from ccflare_core.reports.anomalies import Notice
from ccflare_core.store.sealed_counts import LIMIT, ROTATE_AT
from ccflare_core.text import some, span


def room(free: int, size: int, days: float, minimum: int) -> Results:
    """Whether the disk has room; `size` is the database's, grown in so many days; below `minimum` less is kept."""
    told = f"{_size(free)} are free"
    if free < max(minimum, 100 * MIB):
        yield fail("database.disk", f"{told}, so less is recorded", "free some space")
    elif free < GIB:
        yield warn("database.disk", told, "free some space, or set ccflare_database_limit_bytes")
    else:
        yield ok("database.disk", told)
    daily = size / max(days, 1.0)
    growth = f"{_size(size)}, {_size(round(daily))} more each day" if days >= 1 else _size(size)
    if days >= 1 and daily * 30 > free:
        told = f"{growth}: the disk is full in {free / daily:.0f} days"
        yield warn("database.growth", told, "let less be kept: ccflare_payload_days, ccflare_database_limit_bytes")
    else:
        yield ok("database.growth", growth)


class Backup(NamedTuple):
    """The newest backup: where it was written, how old it is in seconds, and what is wrong with the file now."""

    path: str
    age: float
    problem: str = ""
    is_there: bool = True


def backup(newest: Backup | None, *, is_used: bool) -> Result:
    """Whether there is a backup that is whole and young; None if none was ever made."""
    check, remedy = "database.backup", f"run `{typed('maintain backup FILE')}` regularly, and try once to restore it"
    if newest is None:
        return (
            warn(check, "no backup was ever made", remedy) if is_used else ok(check, "there is nothing to back up yet")
        )
    told = f"the newest backup is {span(newest.age)} old"
    if not newest.is_there:
        return warn(check, f"{told}, and no longer where it was written, {newest.path}", "see that it lies elsewhere")
    if newest.problem:
        return fail(check, f"{told}, and useless: {newest.problem}", f"make another one: `{typed('maintain backup')}`")
    return warn(check, told, remedy) if newest.age > 7 * DAY else ok(check, told)


def key_age(age: float, *, is_old: bool) -> Result:
    """How long the data key that seals has been in use, in seconds; `is_old`: older keys are there too."""
    retire = f"`{typed('keys retire')}` what nothing needs any more: `{typed('keys status')}` shows it"
    if age > 365 * DAY:
        return warn("keys.age", f"the data key is {span(age)} old", f"run `{typed('keys rotate')}`, then {retire}")
    if is_old:
        return warn("keys.age", "older data keys are kept: what they sealed can be read with them", retire)
    return ok("keys.age", f"the data key is {span(age)} old")


def key_wear(sealed: int) -> Result:
    """How many values the data key that seals has sealed."""
    told = f"the data key has sealed {count(sealed)} of the {count(LIMIT)} values that its nonces are safe for"
    remedy = f"run `{typed('keys rotate')}`"
    if sealed >= LIMIT:
        return fail("keys.wear", told, remedy)
    return warn("keys.wear", told, remedy) if sealed >= ROTATE_AT else ok("keys.wear", told)


# Accounts


def accounts(found: Iterable[Account], now: float) -> Results:
    """Whether every account can be used, for how long, and whether two are one."""
    all_ = list(found)
    if not all_:
        yield warn("accounts.count", "there is no account", f"add one: `{typed('accounts login NAME')}`")
        return
    yield ok("accounts.count", some(len(all_), "account"))
    for account in all_:
        yield _token(account, now)
        if warning := login_warning(account, now):
            yield warn(
                "accounts.login", f"{account.name}: {warning}", f"run `{typed('accounts login')} {account.name}`"
            )
    yield from _duplicates(all_)


def _token(account: Account, now: float) -> Result:
    state = f"{account.name}: {token_state(account, now)}"
    problem = account.token_problem(now)
    if problem is None or (problem == "token expired" and account.is_renewable):
        return ok("accounts.token", state)
    renew = "login" if account.kind is Kind.OAUTH else "add"
    return fail("accounts.token", state, f"run `{typed('accounts')} {renew} {account.name}`")


def _duplicates(accounts: Sequence[Account]) -> Results:
    names: dict[str, list[str]] = defaultdict(list)
    for account in accounts:
        for secret in {account.access_token, account.refresh_token, account.api_key} - {None, ""}:
            names[str(secret)].append(account.name)
    twice = sorted({" and ".join(each) for each in names.values() if len(each) > 1})
    if twice:
        remedy = "remove all but one: two that refresh the same login lose it"
        yield from (fail("accounts.duplicate", f"{each} have the same secret", remedy) for each in twice)
    else:
        yield ok("accounts.duplicate", "no two accounts share a secret")
    for group in sharers(accounts):
        judge = ok if group[0].kind is Kind.API_KEY else _shared_login
        yield judge("accounts.shared", shared_limits(group))


def _shared_login(check: str, told: str) -> Result:
    return warn(check, told, "remove all but one: they add nothing")


# What goes on


class Activity(NamedTuple):
    """The last 24 hours, from the record and the audit log."""

    requests: int
    failures: int
    addresses: tuple[str, ...]
    """Where requests came from."""
    events: Counter[tuple[str, str]]
    """How often each action had each outcome."""

    def how_often(self, action: str, outcome: str) -> int:
        """How often an action, or one below it, went like this."""
        return sum(
            n for (name, how), n in self.events.items() if how == outcome and f"{name}.".startswith(f"{action}.")
        )


def unusual(notices: Sequence[Notice], *, is_wanted: bool) -> Results:
    """What was told in 24 hours because it was unusual for a client key or an account."""
    check, most = "activity.unusual", 5
    see = f"ask who has the key; `{typed('audit show --action anomaly --since 24h')}` shows all"
    yield from (warn(check, notice.text, see) for notice in notices[-most:])
    if len(notices) > most:
        yield warn(check, f"{len(notices) - most} more notices in 24 hours of what is unusual", see)
    if not notices and is_wanted:
        yield ok(check, "nothing was unusual in 24 hours for any client key or account")
    elif not notices:
        yield ok(check, "nobody looks for what is unusual: ccflare_anomaly_notices is off")


def activity(day: Activity, *, is_remote: bool) -> Results:
    """What an owner should look at. Little of it fails: only a person can say whether it was meant."""
    looks: tuple[tuple[str, int, int, str, str, str], ...] = (
        ("denied", day.how_often("auth", "denied"), 10, "burst", "of refused requests", "--action auth"),
        (
            "refreshes",
            day.how_often("token", "failed"),
            3,
            "token refresh",
            "that failed",
            "--action token --outcome failed",
        ),
        ("changes", day.how_often("config", "ok"), 20, "change", "of options", "--action config"),
    )
    for name, number, limit, noun, which, how in looks:
        told = f"{some(number, noun)} {which} in 24 hours"
        see = f"look: `{typed('audit show')} {how} --since 24h`"
        see += "; each run of this doctor makes one, too" if name == "denied" else ""
        yield warn(f"activity.{name}", told, see) if number >= limit else ok(f"activity.{name}", told)
    yield _failures(day)
    strange = [address for address in day.addresses if address and not is_this_machine(address)]
    if strange and not is_remote:
        told = f"requests came from {', '.join(strange[:3])}, though only this machine may send any"
        yield warn(
            "activity.addresses", told, f"see `{typed('audit who-used ACCOUNT')}`, then `{typed('access block')}`"
        )
    else:
        yield ok("activity.addresses", f"requests came from {some(len(day.addresses), 'address')}")


def _failures(day: Activity) -> Result:
    share = day.failures / day.requests if day.requests else 0.0
    check, told = "activity.failures", f"{day.failures} of {some(day.requests, 'request')} failed in 24 hours"
    if share < 0.1:
        return ok(check, told)
    level = fail if share >= 0.5 and day.requests >= 20 else warn
    return level(check, told, f"see `{typed('stats errors')}`")


def _size(number: int) -> str:
    for unit, name in ((GIB, "GB"), (MIB, "MB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number / 1024:.0f} kB"
