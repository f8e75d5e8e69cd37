"""How an account stands at a moment, from what the database knows of it. Pure.

The proxy's own view is the pool's; this one serves whoever only has the database. What is over by its time
is left out, so an old limit is never shown as today's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import WHOLE_ACCOUNT, Cooldown
from ccflare_core.accounts.validity import Upkeep
from ccflare_core.anthropic.rate_limit_headers import Window


class State(StrEnum):
    """What an account can do, the strongest hindrance first."""

    PAUSED = "paused"
    NEEDS_LOGIN = "needs login"
    EXPIRED = "token expired"
    COOLING = "cooling"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Standing:
    """An account with its state, the rests that still last, and its windows as last read."""

    account: Account
    state: State
    rest: Cooldown | None
    """What makes it cool, if it does."""
    family_rests: tuple[Cooldown, ...]
    """Rests of single model families; the account serves all others."""
    windows: tuple[Window, ...]
    upkeep: Upkeep

    def utilization(self, name: str) -> float | None:
        """How full a window is, as a fraction; None if that is not known now."""
        window = self.window(name)
        return window.utilization if window else None

    def window(self, name: str) -> Window | None:
        """The window of this name."""
        return next((window for window in self.windows if window.name == name), None)


def standing(
    account: Account,
    cooldowns: Iterable[Cooldown],
    windows: Iterable[Window],
    now: float,
    upkeep: Upkeep | None = None,
) -> Standing:
    """The account's standing at `now` (epoch seconds). Cooldowns of other accounts are passed over."""
    rests = [rest for rest in cooldowns if rest.account_id == account.id and rest.until > now]
    whole = next((rest for rest in rests if rest.family == WHOLE_ACCOUNT), None)
    families = tuple(rest for rest in rests if rest.family != WHOLE_ACCOUNT)
    current = tuple(window for window in windows if window.resets_at is None or window.resets_at > now)
    return Standing(account, _state(account, whole, now), whole, families, current, upkeep or Upkeep())


def _state(account: Account, rest: Cooldown | None, now: float) -> State:
    if account.paused:
        return State.PAUSED
    if account.kind is Kind.OAUTH and account.needs_login:
        return State.NEEDS_LOGIN
    if account.kind is Kind.OAUTH and account.expires_at is not None and account.expires_at <= now:
        return State.EXPIRED
    return State.COOLING if rest else State.READY
