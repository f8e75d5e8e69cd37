"""How an account stands: the strongest hindrance, and nothing that is over."""

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.status import State, standing
from ccflare_core.anthropic.rate_limit_headers import Window

NOW = 1_000_000.0
OAUTH = Account("A", "max-1", Kind.OAUTH, expires_at=NOW + 60)


def rest(family: str = "", until: float = NOW + 60, account: str = "A") -> Cooldown:
    return Cooldown(account, family, until, "5h window spent", "window_spent", 1)


@pytest.mark.parametrize(
    ("account", "state"),
    [
        (OAUTH, State.COOLING),
        (Account("A", "n", Kind.OAUTH, expires_at=NOW), State.EXPIRED),
        (Account("A", "n", Kind.OAUTH, expires_at=NOW, needs_login=True), State.NEEDS_LOGIN),
        (Account("A", "n", Kind.OAUTH, needs_login=True, paused=True), State.PAUSED),
        (Account("A", "n", Kind.API_KEY, expires_at=NOW), State.COOLING),
    ],
)
def test_the_strongest_hindrance_is_the_state(account: Account, state: State) -> None:
    assert standing(account, [rest()], (), NOW).state is state


def test_a_rest_that_is_over_or_of_another_account_does_not_count() -> None:
    found = standing(OAUTH, [rest(until=NOW), rest(account="B")], (), NOW)

    assert found.state is State.READY
    assert found.rest is None


def test_a_family_at_rest_leaves_the_account_ready() -> None:
    found = standing(OAUTH, [rest("opus")], (), NOW)

    assert found.state is State.READY
    assert [one.family for one in found.family_rests] == ["opus"]


def test_a_window_that_has_reset_is_unknown() -> None:
    windows = (Window("5h", "rejected", 1.01, NOW), Window("7d", "allowed", 0.4, NOW + 1))

    found = standing(OAUTH, (), windows, NOW)

    assert found.utilization("5h") is None
    assert found.utilization("7d") == 0.4
