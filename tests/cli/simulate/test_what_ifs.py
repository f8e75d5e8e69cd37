"""What is to be different, as it is typed, and what it makes of the accounts."""

import argparse

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.simulate.what_ifs import (
    AccountChange,
    Pool,
    Priority,
    account_changes,
    change_all,
    check_known,
    joined_words,
    priority,
    setting,
    strategies,
)
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.simulation.plans import Plan, Span


def plan(account: str, capacity: float | None, readings: int = 100) -> Plan:
    return Plan(account, "5h", Span(18_000.0, ""), readings, capacity, used=0.5, resets_at=99.0)


def pool(**capacities: float | None) -> Pool:
    accounts = tuple(Account(name.upper(), name, Kind.OAUTH, access_token="t") for name in capacities)
    return Pool(accounts, {name.upper(): (plan(name, capacity),) for name, capacity in capacities.items()})


def capacities(found: Pool) -> dict[str, float | None]:
    return {account.name: found.plans[account.id][0].capacity for account in found.accounts}


def changed(found: Pool, text: str) -> dict[str, float | None]:
    return capacities(change_all(found, account_changes(text)))


def test_accounts_are_added_and_left_out() -> None:
    two = pool(a=10.0, b=20.0)

    assert changed(two, "+1") == {"a": 10.0, "b": 20.0, "new-1": 15.0}
    assert changed(two, "+2,-b") == {"a": 10.0, "new-1": 15.0, "new-2": 15.0}
    assert changed(two, "+b") == {"a": 10.0, "b": 20.0, "b-1": 20.0}
    assert changed(two, "a=b") == {"a": 20.0, "b": 20.0}


def test_new_accounts_have_used_nothing() -> None:
    made = change_all(pool(a=10.0), account_changes("+1"))

    new = made.plans["simulated new-1"][0]
    assert (new.used, new.resets_at, new.account) == (0.0, None, "new-1")


def test_average_is_that_of_accounts_that_are_known() -> None:
    assert changed(pool(a=10.0, b=None), "+1")["new-1"] == 10.0
    with pytest.raises(Refused, match="no account whose limits are known"):
        changed(pool(b=None), "+1")


def test_accounts_that_are_not_there_are_refused() -> None:
    with pytest.raises(Refused, match=r"There is no account c to simulate with; there are: a, b\."):
        changed(pool(a=1.0, b=1.0), "-c")
    with pytest.raises(Refused, match="No account is left"):
        changed(pool(a=1.0), "-a")


def test_priority_is_changed() -> None:
    assert change_all(pool(a=1.0), [Priority("a", 10)]).accounts[0].priority == 10


def test_what_is_not_known_is_refused_with_what_to_do() -> None:
    check_known(pool(a=1.0))
    found = pool(a=1.0, b=None)
    with pytest.raises(Refused, match=r"b: 100 readings, between which it rises too little, of its 5h window\n"):
        check_known(found)
    few = found._replace(plans={"A": (plan("a", None, readings=3),)})
    with pytest.raises(Refused, match=r"a: 3 readings, where 20 are needed, .*\nb: no limit of it was read\n.*--fit"):
        check_known(few)


@pytest.mark.parametrize("text", ["", "+", "-", "a", "=a", "a=", "+1,,b=c"])
def test_changes_that_mean_nothing_are_not_taken(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"give \+1"):
        account_changes(text)


def test_a_change_that_begins_with_a_dash_is_no_option() -> None:
    assert joined_words(["--accounts", "-max-1", "--plot", "a.svg"]) == ["--accounts=-max-1", "--plot", "a.svg"]
    assert joined_words(["--accounts", "--plot"]) == ["--accounts", "--plot"]
    assert account_changes("-max-1") == [AccountChange("-max-1", less="max-1")]


def test_strategies_are_those_of_the_option() -> None:
    assert strategies("session,least-used") == ["session", "least-used"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"did you mean session\? give some of session"):
        strategies("sesion")


def test_priorities_and_settings_are_checked() -> None:
    assert priority("max-1=10") == ("max-1", 10)
    assert setting("hold_seconds=120") == ("ccflare_hold_seconds", 120)
    assert setting("ccflare_passthrough=never") == ("ccflare_passthrough", "never")
    for read, text in ((priority, "max-1=0"), (priority, "10"), (setting, "record=full"), (setting, "hold=3")):
        with pytest.raises(argparse.ArgumentTypeError, match="give"):
            read(text)


def test_one_more_like_an_account_with_an_api_key_has_no_windows_either() -> None:
    key = Account("KEY", "key", Kind.API_KEY, api_key="k")
    made = change_all(Pool((key,), {}), account_changes("+key"))
    assert [(each.name, each.kind, made.plans.get(each.id, ())) for each in made.accounts] == [
        ("key", Kind.API_KEY, ()),
        ("key-1", Kind.API_KEY, ()),
    ]
