"""The states of an account and of each of its scopes, what moves them, and the words for them. Pure.

An account is in one state: the first in the order of `AccountState` that holds. A scope is all of an account, or one
model family, path class, mode or beta on it; each has a cooldown of its own. `list`, the health page, the statistics
and the errors that clients get all use `in_words`.
"""

from collections.abc import Iterable, Mapping, Set
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.text import local_time


class AccountState(StrEnum):
    """What an account can do. Several may hold at once: the first one in this order is shown."""

    PAUSED = "paused"
    NEEDS_LOGIN = "needs login"
    NEEDS_ATTENTION = "needs attention"
    REFRESHING = "refreshing"
    SERVING = "serving"


class AccountEvent(StrEnum):
    """What happens to an account."""

    PAUSE = "somebody pauses it"
    RESUME = "somebody resumes it"
    DISABLED = "the provider says that it is disabled or on hold"
    LOGIN_ENDS = "the provider ends its login, or its token ends and cannot be refreshed"
    LOGIN = "somebody logs in, or gives it another secret"
    REFRESH_BEGINS = "its token is being exchanged, or is over and will be"
    REFRESH_ENDS = "it has another token"


class Change(NamedTuple):
    """The states that an event begins and ends."""

    begins: frozenset[AccountState] = frozenset()
    ends: frozenset[AccountState] = frozenset()


def _only(*states: AccountState) -> frozenset[AccountState]:
    return frozenset(states)


ACCOUNT_TRANSITIONS: Final[Mapping[AccountEvent, Change]] = MappingProxyType(
    {
        AccountEvent.PAUSE: Change(begins=_only(AccountState.PAUSED)),
        AccountEvent.RESUME: Change(ends=_only(AccountState.PAUSED, AccountState.NEEDS_ATTENTION)),
        AccountEvent.DISABLED: Change(begins=_only(AccountState.NEEDS_ATTENTION)),
        AccountEvent.LOGIN_ENDS: Change(_only(AccountState.NEEDS_LOGIN), _only(AccountState.REFRESHING)),
        AccountEvent.LOGIN: Change(
            ends=_only(AccountState.NEEDS_LOGIN, AccountState.NEEDS_ATTENTION, AccountState.REFRESHING)
        ),
        AccountEvent.REFRESH_BEGINS: Change(begins=_only(AccountState.REFRESHING)),
        AccountEvent.REFRESH_ENDS: Change(ends=_only(AccountState.REFRESHING)),
    }
)
"""Every event may come in every state."""


class ScopeState(StrEnum):
    """What may pass through one scope of an account."""

    READY = "ready"
    """Every request."""
    COOLING = "cooling"
    """None."""
    HALF_OPEN = "half-open"
    """One at a time, until one is answered."""


class ScopeEvent(StrEnum):
    """What happens to a scope."""

    REFUSED = "an answer gives it a cooldown"
    TIME_IS_UP = "the cooldown has ended"
    PASSED = "a request is let through"
    ANSWERED = "a request that was let through half-open got an answer that says nothing of it"
    LEFT = "that request ended without an answer"
    SERVED = "a request that was sent after the refusal got a good answer"
    DISPROVED = "a new credential, or a newer reading of its windows, shows that the cause is gone"


SCOPE_TRANSITIONS: Final[Mapping[tuple[ScopeState, ScopeEvent], ScopeState]] = MappingProxyType(
    {
        (ScopeState.READY, ScopeEvent.REFUSED): ScopeState.COOLING,
        (ScopeState.READY, ScopeEvent.PASSED): ScopeState.READY,
        (ScopeState.READY, ScopeEvent.SERVED): ScopeState.READY,
        (ScopeState.COOLING, ScopeEvent.REFUSED): ScopeState.COOLING,  # it never gets shorter
        (ScopeState.COOLING, ScopeEvent.TIME_IS_UP): ScopeState.HALF_OPEN,
        (ScopeState.COOLING, ScopeEvent.SERVED): ScopeState.READY,
        (ScopeState.COOLING, ScopeEvent.DISPROVED): ScopeState.READY,
        (ScopeState.HALF_OPEN, ScopeEvent.PASSED): ScopeState.HALF_OPEN,
        (ScopeState.HALF_OPEN, ScopeEvent.LEFT): ScopeState.HALF_OPEN,
        (ScopeState.HALF_OPEN, ScopeEvent.REFUSED): ScopeState.COOLING,
        (ScopeState.HALF_OPEN, ScopeEvent.ANSWERED): ScopeState.READY,
        (ScopeState.HALF_OPEN, ScopeEvent.SERVED): ScopeState.READY,
        (ScopeState.HALF_OPEN, ScopeEvent.DISPROVED): ScopeState.READY,
    }
)
"""What is not in it cannot happen."""


def shown(holding: Set[AccountState]) -> AccountState:
    """The state to show of those that hold."""
    return next((state for state in AccountState if state in holding), AccountState.SERVING)


def holding(account: Account, now: float, *, is_refreshing: bool) -> frozenset[AccountState]:
    """The states that hold for an account at `now` (epoch seconds), besides `serving`."""
    problem = credential_problem(account, now)
    found = {
        AccountState.PAUSED: account.paused,
        AccountState.NEEDS_LOGIN: problem is not None and not account.is_renewable,
        AccountState.NEEDS_ATTENTION: account.attention is not None,
        AccountState.REFRESHING: account.is_renewable and (is_refreshing or problem is not None),
    }
    return frozenset(state for state, holds in found.items() if holds)


def credential_problem(account: Account, now: float) -> str | None:
    """Why nothing can be sent with what the account has; None if it can."""
    problem = account.token_problem(now)
    if problem is not None:
        return problem
    try:
        account.credential()
    except ValueError:
        return "unusable credential"
    return None


def lasting_reason(account: Account, now: float) -> str | None:
    """Why the account cannot serve until a person acts, in words; None if it can, or will by itself."""
    state = shown(holding(account, now, is_refreshing=False))
    if state in (AccountState.SERVING, AccountState.REFRESHING):
        return None
    return in_words(state, detail(account, state, now))


def detail(account: Account, state: AccountState, now: float) -> str:
    """What there is to say about a state beside its name, or ""."""
    if state is AccountState.NEEDS_ATTENTION:
        return account.attention or ""
    if state is not AccountState.NEEDS_LOGIN or account.needs_login:
        return ""
    return credential_problem(account, now) or ""


def in_words(state: AccountState, detail: str, cooling: Iterable[Cooldown] = (), now: float = 0.0) -> str:
    """`serving, cooling for opus until 14:20`, `cooling until 14:20: 5h window spent`, `needs login: token expired`.

    Cooldowns are told of accounts that would serve without them.
    """
    if state not in (AccountState.SERVING, AccountState.REFRESHING):
        return f"{state}: {detail}" if detail else state.value
    longest_first = sorted(cooling, key=lambda cooldown: -cooldown.until)
    whole = next((cooldown for cooldown in longest_first if not cooldown.scope_name), None)
    if whole is not None:
        return whole.in_words(now)
    names = ", ".join(f"{each.scope_name} until {local_time(each.until, now)}" for each in longest_first)
    return f"{state}, cooling for {names}" if names else state.value
