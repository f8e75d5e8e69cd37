"""How an account stands: the strongest hindrance, and nothing that is over."""

from dataclasses import replace

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.states import AccountState
from ccflare_core.accounts.status import stored_status
from ccflare_core.accounts.validity import Upkeep
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.text import local_time
from database_kit import a_part

NOW = 1_000_000.0
OAUTH = Account("A", "max-1", Kind.OAUTH, access_token="t", expires_at=NOW + 60)


def rest(family: str = "", until: float = NOW + 60, account: str = "A") -> Cooldown:
    return Cooldown(account, a_part(family), until, "5h window spent", "window_spent", 1)


SPENT = Account("A", "n", Kind.OAUTH, access_token="t", refresh_token="r", expires_at=NOW)


@pytest.mark.parametrize(
    ("account", "state", "told"),
    [
        (OAUTH, "cooling", f"cooling until {local_time(NOW + 60, NOW)}: 5h window spent"),
        (SPENT, "refreshing", f"cooling until {local_time(NOW + 60, NOW)}: 5h window spent"),
        (replace(SPENT, refresh_token=None), "needs login", "needs login: token expired"),
        (replace(SPENT, needs_login=True), "needs login", "needs login"),
        (replace(SPENT, needs_login=True, paused=True), "paused", "paused"),
        (Account("A", "n", Kind.API_KEY, api_key="k", expires_at=NOW), "cooling", None),
        (Account("A", "n", Kind.API_KEY), "needs login", "needs login: no API key"),
    ],
)
def test_the_first_state_in_the_order_is_shown(account: Account, state: str, told: str | None) -> None:
    found = stored_status(account, [rest()], (), NOW)

    assert found.state_value == state
    assert told is None or found.in_words(NOW) == told


def test_a_sealed_secret_is_a_secret() -> None:
    found = stored_status(Account("A", "n", Kind.OAUTH), (), (), NOW, Upkeep(is_sealed=True, is_renewable=True))

    assert (found.state, found.account.is_renewable) == (AccountState.SERVING, True)


def test_a_refresh_is_shown_of_an_account_that_serves_meanwhile() -> None:
    found = stored_status(replace(OAUTH, refresh_token="r"), (), (), NOW, Upkeep(refreshing=True))

    assert found.in_words(NOW) == "refreshing"


def test_a_cooldown_that_is_over_or_of_another_account_does_not_count() -> None:
    found = stored_status(OAUTH, [rest(until=NOW), rest(account="B")], (), NOW)

    assert found.in_words(NOW) == "serving"
    assert found.cooldown is None


def test_a_family_that_cools_leaves_the_account_serving() -> None:
    found = stored_status(OAUTH, [rest("opus"), rest("haiku", NOW + 30)], (), NOW)

    opus, haiku = (local_time(NOW + seconds, NOW) for seconds in (60, 30))
    assert found.in_words(NOW) == f"serving, cooling for opus until {opus}, haiku until {haiku}"
    assert found.state_value == "serving"


def test_a_window_that_has_reset_is_unknown() -> None:
    windows = (Window("5h", "rejected", 1.01, NOW), Window("7d", "allowed", 0.4, NOW + 1))

    found = stored_status(OAUTH, (), windows, NOW)

    assert found.utilization("5h") is None
    assert found.utilization("7d") == 0.4
