"""Whose an account is: what is known of both must agree, and what nobody has told proves nothing."""

from typing import Any

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.identity import is_anothers, shared_limits, sharers, twin_by_login, twin_by_secret
from ccflare_core.anthropic.oauth import NOBODY, Owner

ME = Owner("me", "me@example.com", "mine")


def login(name: str, person: str | None = "me", organization: str | None = "mine", **secrets: Any) -> Account:
    return Account(name, name, Kind.OAUTH, person_id=person, organization_id=organization, **secrets)


def key(name: str, organization: str | None = "mine") -> Account:
    return Account(name, name, Kind.API_KEY, organization_id=organization, api_key=f"key of {name}")


@pytest.mark.parametrize(
    ("account", "owner", "is_other"),
    [
        (login("a"), ME, False),
        (login("a"), Owner("you", None, "mine"), True),
        (login("a"), Owner("me", None, "work"), True),
        (login("a", None, None), ME, False),
        (login("a", None, "work"), ME, True),
        (login("a"), NOBODY, False),
        (key("k"), Owner("you", None, "mine"), False),
        (key("k"), Owner("me", None, "work"), True),
    ],
)
def test_login_is_anothers_if_what_is_known_differs(account: Account, owner: Owner, is_other: bool) -> None:
    assert is_anothers(account, owner) is is_other


def test_login_has_one_account() -> None:
    others = [key("k"), login("unknown", None, None), login("work", "me", "work"), login("you", "you"), login("a")]
    found = twin_by_login(ME, others)
    assert found is not None
    assert found.name == "a"
    assert twin_by_login(ME, others[:-1]) is None
    assert twin_by_login(NOBODY, others) is None


def test_account_with_the_same_secret_is_the_same() -> None:
    one = login("a", access_token="1", refresh_token="r")
    assert twin_by_secret(one, [one, login("b", access_token="2", refresh_token="s")]) is None
    assert twin_by_secret(one, [other := login("c", access_token="3", refresh_token="r")]) is other
    assert twin_by_secret(login("d"), [login("e")]) is None, "without a secret there is nothing to have in common"


def test_accounts_share_limits_by_kind() -> None:
    accounts = [key("k-1"), login("a"), key("k-2"), key("k-3", "other"), key("k-4", None), key("k-5", None)]
    assert sharers(accounts) == [(accounts[0], accounts[2])]
    logins = [login("a"), login("b"), login("c"), login("d", "me", "work"), login("e", None), login("f", None)]
    (group,) = sharers(logins)
    assert shared_limits(group) == "a, b and c are one login, and share its limits"
