"""What a person should hear of at once: which conditions hold, by what is stored, and how an alert says so. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.program import typed
from ccflare_core.reports.anomalies import Notice
from ccflare_core.reports.forecast import Course, Forecast
from ccflare_core.text import iso, local_time, span

FULL = 0.9
"""How full a window is to be told of."""
HALF = 0.5
"""How full one has to be, for its forecast to be told: before that a forecast often changes."""
_FEWEST_REQUESTS, _FAILED_SHARE = 20, 0.5
ERROR_SECONDS = 900.0


class State(StrEnum):
    """What an alert is about."""

    BEGINS = "begins"
    OVER = "over"
    SUMMARY = "summary"
    """It stands for several, of which there are too many to be told one by one."""
    TEST = "test"


class Condition(NamedTuple):
    """Something that is as it should not be. There is one of a cause for each subject."""

    cause: str
    subject: str
    """The id of an account or a client key, or the name of a machine; "" is the database's."""
    name: str
    """Its name."""
    what: str
    """A sentence that goes on from the name."""
    lasts: bool = True
    """Whether it can be over; something that has happened cannot."""


class Alert(NamedTuple):
    """What is told. It holds figures and names, never anything of a conversation."""

    state: State
    cause: str
    name: str
    at: float
    """Epoch seconds."""
    what: str
    seconds: float | None = None
    """How long it has lasted, if it is over."""

    @property
    def text(self) -> str:
        """The whole sentence."""
        told = f"{self.name}: {self.what}" if self.name else self.what
        return f"over after {span(self.seconds or 0.0)}: {told}" if self.state is State.OVER else told

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        of_it = {"state": self.state.value, "cause": self.cause, "name": self.name, "at": iso(self.at)}
        return {**of_it, "text": self.text, "seconds": self.seconds}


def of_notice(notice: Notice) -> Condition:
    """That something was unusual."""
    who, _, what = notice.text.partition(": ")
    return Condition(f"anomaly.{notice.cause}", notice.subject, who, what, lasts=False)


def is_of_clients(cause: str) -> bool:
    """Whether a condition of this cause is about what clients have done, who can do it again by another key."""
    return cause == "budget" or cause.startswith("anomaly.")


def of_accounts(accounts: Iterable[Account]) -> Iterator[Condition]:
    """Those that wait for a person."""
    for account in accounts:
        if account.needs_login:
            what = f"the provider has ended its login: run `{typed('accounts login')} {account.name}`"
            yield Condition("needs_login", account.id, account.name, what)
        if account.attention:
            what = f"needs a person ({account.attention}): then run `{typed('accounts resume')} {account.name}`"
            yield Condition("needs_attention", account.id, account.name, what)


def none_available(accounts: Iterable[Account], cooldowns: Iterable[Cooldown], now: float) -> Condition | None:
    """That no account could serve a request, or None."""
    in_use = [account for account in accounts if not account.paused]
    until = {each.account_id: each.until for each in cooldowns if each.part == WHOLE and each.until > now}
    stuck = [a for a in in_use if a.needs_login or a.attention or a.id in until]
    if not in_use or len(stuck) < len(in_use):
        return None
    ends = [until[account.id] for account in stuck if not account.needs_login and not account.attention]
    first = f"; the first is back at {local_time(min(ends), now)}" if ends else ""
    return Condition("all_cooling", "", "", f"no account is available{first}")


def of_windows(accounts: Iterable[Account], windows: Mapping[str, Iterable[Window]], now: float) -> Iterator[Condition]:
    """Accounts that have little left of a limit."""
    for account in accounts:
        used = {
            window.name: window.utilization or 0.0
            for window in windows.get(account.id, ())
            if (window.utilization or 0.0) > FULL and (window.resets_at is None or window.resets_at > now)
        }
        if used and not account.paused:
            nearly = "" if min(used.values()) >= 1 else "nearly "
            told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in used.items())
            yield Condition("window", account.id, account.name, f"its limits are {nearly}used up: {told}")


def of_forecasts(
    accounts: Iterable[Account],
    windows: Mapping[str, Iterable[Window]],
    expected: Callable[[str, str], Forecast | None],
    now: float,
) -> Iterator[Condition]:
    """Accounts with a limit that will be used up before its reset, as it goes on now; `expected` is by id and window.

    What is nearly used up already is told by `of_windows`.
    """
    for account in accounts:
        filling = [] if account.paused else [*_filling(account, windows.get(account.id, ()), expected, now)]
        if filling:
            yield Condition("forecast", account.id, account.name, f"as it goes on now, {', '.join(filling)}")


def _filling(
    account: Account, windows: Iterable[Window], expected: Callable[[str, str], Forecast | None], now: float
) -> Iterator[str]:
    for window in windows:
        if window.resets_at is None or window.resets_at <= now or not HALF <= (window.utilization or 0.0) <= FULL:
            continue
        future = expected(account.id, window.name)
        if future is not None and future.course is Course.FILLS and future.full_at is not None:
            full, reset = (local_time(at, now) for at in (future.full_at, window.resets_at))
            early = span(window.resets_at - future.full_at)
            yield f"{window.name} is full at {full}, {early} before its reset at {reset}"


def of_errors(requests: int, failed: int) -> Iterator[Condition]:
    """That half of the last requests failed."""
    if requests >= _FEWEST_REQUESTS and failed >= _FAILED_SHARE * requests:
        what = f"{failed} of {requests} requests within {span(ERROR_SECONDS)} failed: see `{typed('stats errors')}`"
        yield Condition("error_rate", "", "", what)


def summary(conditions: Iterable[Condition], now: float) -> Alert:
    """One alert for all of these."""
    counts = Counter(condition.cause for condition in conditions)
    what = ", ".join(f"{number} of {cause}" for cause, number in sorted(counts.items()))
    return Alert(State.SUMMARY, "summary", "", now, f"{counts.total()} more alerts: {what}")
