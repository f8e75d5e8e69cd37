"""The status of an account at a moment, from what the database knows of it. Pure.

The proxy's own view is the pool's; this one is for programs that only have the database. What is over by its time
is left out, so an old limit is never shown as today's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown
from ccflare_core.accounts.states import AccountState, ScopeState, detail, holding, in_words, shown
from ccflare_core.accounts.validity import Upkeep, filled
from ccflare_core.anthropic.rate_limit_headers import Window


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """An account with its state, the cooldowns that still last, and its windows as last read."""

    account: Account
    state: AccountState
    cooldown: Cooldown | None
    """That of the whole account."""
    scope_cooldowns: tuple[Cooldown, ...]
    """Those of single scopes; the account serves all else."""
    windows: tuple[Window, ...]
    upkeep: Upkeep

    def utilization(self, name: str) -> float | None:
        """How full a window is, as a fraction; None if that is not known now."""
        window = self.window(name)
        return window.utilization if window else None

    def window(self, name: str) -> Window | None:
        """The window of this name."""
        return next((window for window in self.windows if window.name == name), None)

    @property
    def state_value(self) -> str:
        """The state for programs, which have always been told so when all of the account cools."""
        is_cooling = self.state is AccountState.SERVING and self.cooldown is not None
        return ScopeState.COOLING.value if is_cooling else self.state.value

    def in_words(self, now: float) -> str:
        """What the proxy says of the account, too: see states.py."""
        whole = (self.cooldown,) if self.cooldown else ()
        told = detail(self.account, self.state, now)
        return in_words(self.state, told, (*whole, *self.scope_cooldowns), now)


def stored_status(
    account: Account,
    cooldowns: Iterable[Cooldown],
    windows: Iterable[Window],
    now: float,
    upkeep: Upkeep | None = None,
) -> StoredStatus:
    """The account as it stands at `now` (epoch seconds). Cooldowns of other accounts are passed over."""
    upkeep = upkeep or Upkeep()
    lasting = [each for each in cooldowns if each.account_id == account.id and each.until > now]
    whole = next((each for each in lasting if each.part == WHOLE), None)
    scopes = tuple(each for each in lasting if each.part != WHOLE)
    current = tuple(window for window in windows if window.resets_at is None or window.resets_at > now)
    account = filled(account, upkeep)
    state = shown(holding(account, now, is_refreshing=upkeep.refreshing))
    return StoredStatus(account, state, whole, scopes, current, upkeep)
