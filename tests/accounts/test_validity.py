"""What people are told of tokens and logins."""

from dataclasses import replace

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.validity import Upkeep, login_end, login_warning, token_state
from ccflare_core.text import span

NOW = 1_800_000_000.0
DAY = 86_400.0


def login(**fields: float | str | bool | None) -> Account:
    return Account("a", "max", Kind.OAUTH, access_token="oat", refresh_token="ort", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (28_799, "8 h"),
        (1.5 * DAY, "36 h"),
        (3 * DAY, "3 days"),
    ],
)
def test_a_span_is_told_in_one_unit(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_the_state_of_a_token() -> None:
    assert token_state(login(expires_at=NOW + 6 * 3600), NOW) == "valid for 6 h"
    assert token_state(login(expires_at=NOW), NOW) == "token expired"
    assert token_state(login(), NOW) == "valid"
    assert token_state(login(needs_login=True), NOW) == "needs login"
    assert token_state(Account("k", "key", Kind.API_KEY, api_key="k"), NOW) == "does not expire"


def test_what_is_done_about_a_token() -> None:
    account = login(expires_at=NOW)
    assert token_state(account, NOW, Upkeep(refreshing=True)) == "refreshing"
    assert token_state(account, NOW, Upkeep(retry_at=NOW)) == "token expired"
    assert token_state(account, NOW, Upkeep(retry_at=NOW + 60)).startswith("token expired, back-off until ")
    assert token_state(login(needs_login=True), NOW, Upkeep(retry_at=NOW + 60)) == "needs login"


def test_whoever_has_no_key_is_told_of_the_token_too() -> None:
    account = Account("a", "max", Kind.OAUTH, expires_at=NOW + 60)
    assert token_state(account, NOW) == "no token"
    assert token_state(account, NOW, Upkeep(is_sealed=True)) == "valid for 1 min"


def test_a_login_ends_when_the_provider_said_or_28_days_after_it_was_made() -> None:
    assert login_end(login(login_at=NOW, login_expires_at=NOW + 5)) == NOW + 5
    assert login_end(login(login_at=NOW)) == NOW + 28 * DAY
    assert login_end(login()) is None
    assert login_end(Account("k", "key", Kind.API_KEY, login_at=NOW)) is None


def test_token_without_a_refresh_token_is_warned_of_from_the_beginning() -> None:
    bare = Account("a", "max", Kind.OAUTH, access_token="oat", expires_at=NOW + 7200, login_at=NOW)
    assert login_end(bare) == NOW + 7200
    assert login_warning(bare, NOW) == (
        "it has an access token without a refresh token, which ends in 2 h: log in before that"
    )
    assert "nobody knows when" in (login_warning(replace(bare, expires_at=None), NOW) or "")
    assert login_warning(bare, NOW + 7200) is None, "the state says so"
    assert login_warning(replace(bare, login_expires_at=NOW + 365 * DAY), NOW) is None


def test_a_login_is_warned_of_from_five_days_before_its_end() -> None:
    assert login_warning(login(login_at=NOW - 22.9 * DAY), NOW) is None
    assert login_warning(login(login_at=NOW - 23.1 * DAY), NOW) == (
        "the login is expected to end in 5 days: log in again before that"
    )
    assert "log in again" in (login_warning(login(needs_login=True), NOW) or "")
    assert login_warning(Account("k", "key", Kind.API_KEY), NOW) is None
