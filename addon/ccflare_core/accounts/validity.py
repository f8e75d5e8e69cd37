"""How long a token and the login behind it are good for, for people. Pure; times are epoch seconds."""

from dataclasses import replace
from typing import NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.anthropic.oauth import LOGIN_SECONDS
from ccflare_core.anthropic.oauth import login_warning as warning_about
from ccflare_core.text import local_time, span

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0


class Upkeep(NamedTuple):
    """What is done about an account's token at the moment."""

    refreshing: bool = False
    retry_at: float | None = None
    """When the next refresh is tried, if the last one failed."""
    is_sealed: bool = False
    """There is a token or an API key, which only the holder of the key can see."""
    is_renewable: bool = False
    """There is a refresh token, also one that only the holder of the key can see."""


_NOTHING_DONE = Upkeep()


def token_state(account: Account, now: float, upkeep: Upkeep = _NOTHING_DONE) -> str:
    """`valid for 6 h`, `refreshing`, `token expired, back-off until 14:20`, or what else is wrong with it."""
    if upkeep.refreshing:
        return "refreshing"
    state = _token_state(filled(account, upkeep), now)
    if account.needs_login or upkeep.retry_at is None or upkeep.retry_at <= now:
        return state
    return f"{state}, back-off until {local_time(upkeep.retry_at, now)}"


def filled(account: Account, upkeep: Upkeep) -> Account:
    """The account with a stand-in for each secret that it has and that cannot be seen here."""
    sealed = "sealed"
    if account.kind is Kind.API_KEY:
        return replace(account, api_key=account.api_key or (sealed if upkeep.is_sealed else None))
    return replace(
        account,
        access_token=account.access_token or (sealed if upkeep.is_sealed else None),
        refresh_token=account.refresh_token or (sealed if upkeep.is_renewable else None),
    )


def _token_state(account: Account, now: float) -> str:
    problem = account.token_problem(now)
    if problem is not None:
        return problem
    if account.kind is Kind.API_KEY:
        return "does not expire"
    return "valid" if account.expires_at is None else f"valid for {span(account.expires_at - now)}"


def login_end(account: Account) -> float | None:
    """When the account's login is expected to end, however often its token is refreshed; None if nobody knows."""
    if account.kind is not Kind.OAUTH:
        return None
    if ends_with_its_token(account):
        return account.expires_at
    if account.login_expires_at is not None or account.login_at is None:
        return account.login_expires_at
    return account.login_at + LOGIN_SECONDS


def ends_with_its_token(account: Account) -> bool:
    """Whether it has an access token and nothing else. A setup token has the year that it lasts as its login's."""
    return account.kind is Kind.OAUTH and not account.refresh_token and account.login_expires_at is None


def ending(account: Account, now: float) -> str | None:
    """That an account ends with its access token, and when; None if it does not."""
    if not ends_with_its_token(account) or account.token_problem(now) is not None:
        return None
    when = "nobody knows when" if account.expires_at is None else f"in {span(account.expires_at - now)}"
    return f"it has an access token without a refresh token, which ends {when}: log in before that"


def login_warning(account: Account, now: float) -> str | None:
    """What its owner should do about the login, from five days before its expected end on; else None.

    Of an account that ends with its access token always, for that is a matter of hours.
    """
    if account.kind is not Kind.OAUTH:
        return None
    if account.needs_login:
        return "the provider has ended this login: log in again"
    if ends_with_its_token(account):
        return ending(account, now)
    return warning_about(login_end(account), now)
