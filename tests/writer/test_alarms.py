"""The alerts of a real database, as one proxy finds them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.exchange.records import CooldownSet, ExchangeFinished, WindowRead
from ccflare_core.reports.alerts import Condition, State
from ccflare_core.store.store import Store
from ccflare_core.writer.alarms import Alarms
from database_kit import KEY, NOW, a_cooldown, an_account, started

HOLD = 30.0
DISK = Condition("disk", "host", "host", "there is too little room")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "ccflare.db", KEY, wall=clock)) as store:
        yield store


@pytest.fixture
def alarms(clock: Clock) -> Alarms:
    return Alarms(clock, lambda: HOLD)


def test_step_tells_of_accounts_limits_errors_and_what_only_this_proxy_sees(store: Store, alarms: Alarms) -> None:
    login, limited = replace(an_account("max-1"), needs_login=True), an_account("max-2")
    for account in (login, limited):
        store.accounts.add(account)
    store.write([WindowRead(limited.id, round(NOW * 1000), Window("5h", "allowed", 0.97, NOW + 60))])
    for number in range(20):
        store.write([started(f"r{number}"), ExchangeFinished(f"r{number}", "upstream_error", False, 529)])

    told = [(alert.cause, alert.name) for alert in alarms.step(store, [DISK])]

    assert told == [("disk", "host"), ("needs_login", "max-1"), ("window", "max-2"), ("error_rate", "")]
    assert alarms.step(store, [DISK]) == []


def test_step_tells_of_a_limit_that_fills_before_its_reset_and_that_this_is_over(
    store: Store, alarms: Alarms, clock: Clock
) -> None:
    account = an_account("max-1")
    store.accounts.add(account)
    for minutes, full in ((40, 0.4), (30, 0.5), (20, 0.6), (10, 0.7)):
        at = NOW - minutes * 60
        store.write([WindowRead(account.id, round(at * 1000), Window("5h", "allowed", full, NOW + 7200))])

    [told] = alarms.step(store, [])
    assert (told.cause, told.state, told.name) == ("forecast", State.BEGINS, "max-1")
    assert told.what.startswith("as it goes on now, 5h is full at ")
    assert alarms.step(store, []) == []

    clock.now += 7300

    assert [(alert.cause, alert.state) for alert in alarms.step(store, [])] == [("forecast", State.OVER)]


def test_step_tells_that_no_account_is_available_once_that_has_lasted(
    store: Store, alarms: Alarms, clock: Clock
) -> None:
    account = an_account()
    store.accounts.add(account)
    store.write([CooldownSet(a_cooldown(account.id, until=NOW + 300))])
    at_once = alarms.step(store, [])
    clock.now += HOLD

    [alert] = alarms.step(store, [])

    assert at_once == []
    assert (alert.cause, alert.state) == ("all_cooling", State.BEGINS)
    assert alert.text.startswith("no account is available; the first is back at ")
    clock.now += 300
    assert alarms.step(store, []) != []
    assert alarms.step(store, []) == []


def test_alone_tells_each_once_an_hour(alarms: Alarms, clock: Clock) -> None:
    told = [len(alarms.alone([DISK])) for _ in range(3)]
    clock.now += 3600

    assert (told, len(alarms.alone([DISK]))) == ([1, 0, 0], 1)
