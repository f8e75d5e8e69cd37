"""Which conditions hold, by what is stored."""

from dataclasses import replace

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.reports.alerts import (
    Alert,
    Condition,
    State,
    none_available,
    of_accounts,
    of_errors,
    of_forecasts,
    of_notice,
    of_windows,
)
from ccflare_core.reports.anomalies import Cause, Notice
from ccflare_core.reports.forecast import Course, Forecast
from database_kit import a_part

NOW = 1_800_000_000.0
ONE, TWO = (Account(f"id-{n}", f"max-{n}", Kind.OAUTH, access_token="t") for n in (1, 2))


def cooling(account: Account, seconds: float = 60.0, family: str = "") -> Cooldown:
    return Cooldown(account.id, a_part(family), NOW + seconds, "5h window spent", "window_spent", 1)


def test_accounts_that_wait_for_a_person_are_told_with_what_to_do() -> None:
    found = list(of_accounts([replace(ONE, needs_login=True), replace(TWO, attention="on hold")]))

    assert [(each.cause, each.name) for each in found] == [("needs_login", "max-1"), ("needs_attention", "max-2")]
    assert "scripts/accounts.py login max-1" in found[0].what
    assert "scripts/accounts.py resume max-2" in found[1].what


@pytest.mark.parametrize(
    ("accounts", "cooldowns", "is_none"),
    [
        ([], [], False),
        ([replace(ONE, paused=True)], [], False),
        ([ONE, TWO], [cooling(ONE)], False),
        ([ONE, TWO], [cooling(ONE), cooling(TWO)], True),
        ([ONE, TWO], [cooling(ONE), cooling(TWO, -1)], False),
        ([ONE, TWO], [cooling(ONE), cooling(TWO, family="opus")], False),
        ([ONE, replace(TWO, needs_login=True)], [cooling(ONE)], True),
        ([ONE, replace(TWO, paused=True)], [cooling(ONE)], True),
        ([replace(ONE, attention="on hold")], [], True),
    ],
)
def test_no_account_is_available_if_each_that_is_in_use_cools_or_waits(
    accounts: list[Account], cooldowns: list[Cooldown], is_none: bool
) -> None:
    assert (none_available(accounts, cooldowns, NOW) is not None) is is_none


def test_limits_that_are_nearly_used_up_are_told_once_an_account() -> None:
    windows = {
        ONE.id: (Window("5h", "allowed", 0.95, NOW + 60), Window("7d", "allowed", 0.91, None)),
        TWO.id: (Window("5h", "allowed", 0.9, NOW + 60), Window("7d", "allowed", 0.99, NOW - 1)),
    }

    assert list(of_windows([ONE, TWO], windows, NOW)) == [
        Condition("window", "id-1", "max-1", "its limits are nearly used up: 5h 95 %, 7d 91 %")
    ]


def test_a_limit_that_is_full_is_not_nearly_used_up() -> None:
    (told,) = of_windows([ONE], {ONE.id: (Window("5h", "rejected", 1.01, NOW + 60),)}, NOW)
    assert told.what == "its limits are used up: 5h 101 %"


@pytest.mark.usefixtures("utc")
def test_limits_that_will_be_used_up_before_their_reset_are_told_with_when() -> None:
    def window(name: str, full: float, reset: float | None = NOW + 3600) -> Window:
        return Window(name, "allowed", full, reset)

    windows = {
        "id-1": [
            window("5h", 0.6),
            window("7d", 0.8),
            window("nearly", 0.95),  # is told already
            window("little", 0.3),
            window("reset", 0.6, NOW - 1),
            window("unknown", 0.6, None),
            window("unread", 0.6),
        ],
        "id-2": [window("5h", 0.6)],
    }

    def expected(account: str, name: str) -> Forecast | None:
        if name == "unread":
            return None
        course = Course.HOLDS if name == "7d" else Course.FILLS
        return Forecast(course, 0.6, NOW + 3600, 0.2, NOW + 1800)

    accounts = [ONE, replace(TWO, paused=True)]
    assert list(of_forecasts(accounts, windows, expected, NOW)) == [
        Condition(
            "forecast",
            "id-1",
            "max-1",
            "as it goes on now, 5h is full at 08:30, 30 min before its reset at 09:00",
        )
    ]


@pytest.mark.parametrize(("requests", "failed", "told"), [(0, 0, 0), (19, 19, 0), (20, 9, 0), (20, 10, 1)])
def test_errors_are_told_if_half_of_many_requests_failed(requests: int, failed: int, told: int) -> None:
    assert len(list(of_errors(requests, failed))) == told


def test_what_is_unusual_is_an_alert_that_cannot_be_over() -> None:
    found = of_notice(Notice(Cause.ADDRESS, "ck_1", "office", NOW, "requests from a new address: 203.0.113.9"))

    assert found == Condition(
        "anomaly.address", "ck_1", "client key office", "requests from a new address: 203.0.113.9", lasts=False
    )


def test_alert_for_programs_has_the_same_sentence() -> None:
    alert = Alert(State.OVER, "window", "max-1", NOW, "its limits are nearly used up: 5h 95 %", 5400.0)

    assert alert.as_json() == {
        "state": "over",
        "cause": "window",
        "name": "max-1",
        "at": "2027-01-15T08:00:00Z",
        "text": "over after 2 h: max-1: its limits are nearly used up: 5h 95 %",
        "seconds": 5400.0,
    }
