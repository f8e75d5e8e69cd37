"""Advice about limit windows: who is idle while others are full, and which project fills a window."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Kind as AccountKind
from ccflare_core.config.location import Location
from ccflare_core.reports.advice import Advice, Kind
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import Period
from ccflare_core.reports.window_advice import full_windows, window_advice
from history import NOON, History

DAY = 86_400.0
MONTH = Period(NOON - 30 * DAY, NOON + 0.001)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        yield history


@pytest.fixture
def either(location: Location) -> Iterator[History]:
    """The same on both databases, for what is asked in SQL."""
    with History(location) as history:
        yield history


def account(past: History, name: str, **fields: Any) -> None:
    past.account(name, created_at=NOON - 60 * DAY, **fields)


def found(past: History, period: Period = MONTH) -> list[Advice]:
    return [*window_advice(past.store.query, Reports(past.store.query), period)]


def a_full_week(past: History, name: str, at: float = NOON - DAY) -> None:
    """The account's window of a week, nearly full a day before it ends."""
    past.window(name, "7d", 0.96, at + DAY, at=at)


def served(past: History, name: str, number: int = 3, days: float = 2, **more: Any) -> None:
    with past.together():
        for each in range(number):
            past.exchange(NOON - days * DAY + each, name, **{"output_tokens": 9, "cost_usd": 1.0, **more})


class TestFullWindows:
    def test_the_fullest_one_and_how_many_there_were(self, either: History) -> None:
        account(either, "max-1")
        for number in range(4):
            either.window("max-1", "5h", 0.9 + number / 100, NOON - number * DAY, at=NOON - number * DAY - 60)
        either.window("max-1", "5h", 0.95, NOON - 3 * DAY + 1, at=NOON - 3 * DAY - 30)  # the last one, read again
        either.window("max-1", "5h", 0.5, NOON - 9 * DAY, at=NOON - 9 * DAY)

        (full,) = full_windows(either.store.query, MONTH)

        assert (full.account, full.name, full.number, full.utilization) == ("max-1", "5h", 4, 0.95)
        assert full.began_at == NOON - 3 * DAY + 1 - 5 * 3600

    def test_one_without_an_end_counts_once(self, past: History) -> None:
        account(past, "max-1")
        past.window("max-1", "7d", 1.0, None)

        (full,) = full_windows(past.store.query, MONTH)

        assert (full.number, full.began_at) == (1, None)

    @pytest.mark.parametrize(
        ("utilization", "at", "name"), [(0.89, 0, "7d"), (1.0, 31 * DAY, "7d"), (1.0, 0, "7d_opus")]
    )
    def test_what_is_none(self, past: History, utilization: float, at: float, name: str) -> None:
        account(past, "max-1")
        past.window("max-1", name, utilization, NOON + DAY, at=NOON - at)

        assert full_windows(past.store.query, MONTH) == []


class TestIdleAccounts:
    def test_one_that_others_needed(self, either: History) -> None:
        account(either, "max-1")
        account(either, "max-2", priority=80)
        a_full_week(either, "max-1")
        either.window("max-2", "7d", 0.04, NOON + DAY, at=NOON - DAY)
        served(either, "max-1")
        served(either, "max-2", 1)

        (advice,) = found(either)

        assert (advice.kind, advice.subject, advice.requests) == (Kind.IDLE_ACCOUNT, "max-2", 1)
        assert (advice.window, advice.account, advice.usd) == ("7d", "max-2", None)
        assert advice.share == pytest.approx(0.96)
        assert advice.text.startswith("It served 1 request and used at most 4 % of a week, while max-1's 7d window was")
        assert "priority max-2 50`" in advice.text

    def test_one_that_needs_a_login_says_so(self, past: History) -> None:
        account(past, "max-1")
        account(past, "max-2", needs_login=True)
        a_full_week(past, "max-1")
        served(past, "max-1")

        (advice,) = found(past)

        assert (advice.subject, advice.share) == ("max-2", None), "how full it was is not known, and no number"
        assert "login max-2`" in advice.text

    def test_one_that_nobody_has_missed_in_a_week(self, past: History) -> None:
        account(past, "max-1")
        account(past, "max-2")
        served(past, "max-1", days=8)

        (advice,) = found(past)

        assert (advice.subject, advice.requests) == ("max-2", 0)
        assert advice.text == "It served nothing, and no other account was ever nearly full: one less would do."

    @pytest.mark.parametrize("days", [2, 6.5])
    def test_less_than_a_week_tells_nothing_where_nobody_was_full(self, past: History, days: float) -> None:
        account(past, "max-1")
        account(past, "max-2")
        served(past, "max-1", days=days)

        assert found(past) == []

    @pytest.mark.parametrize(
        "fields",
        [{"paused": True}, {"kind": AccountKind.API_KEY, "api_key": "sk-ant-api03-x"}, {"created_at": NOON - 60}],
    )
    def test_who_is_none(self, past: History, fields: dict[str, Any]) -> None:
        account(past, "max-1")
        past.account("max-2", **{"created_at": NOON - 60 * DAY, **fields})
        a_full_week(past, "max-1")
        served(past, "max-1")

        assert found(past) == []

    @pytest.mark.parametrize(("organization", "idle"), [("org-1", []), ("org-2", ["max-2"])])
    def test_one_login_in_two_accounts_has_one_window(self, past: History, organization: str, idle: list[str]) -> None:
        account(past, "max-1", person_id="me", organization_id="org-1")
        account(past, "max-2", person_id="me", organization_id=organization)
        a_full_week(past, "max-1")
        served(past, "max-1")

        assert [advice.subject for advice in found(past)] == idle

    def test_what_used_a_tenth_of_its_week_is_not_idle(self, past: History) -> None:
        account(past, "max-1")
        account(past, "max-2")
        a_full_week(past, "max-1")
        past.window("max-2", "7d", 0.1, NOON + DAY, at=NOON - DAY)
        served(past, "max-1")

        assert found(past) == []

    def test_who_served_without_a_reading_is_not_called_idle(self, past: History) -> None:
        account(past, "max-1")
        account(past, "max-2")
        a_full_week(past, "max-1")
        served(past, "max-1")
        served(past, "max-2", 1)

        assert found(past) == []


class TestGreedyProjects:
    def shared(self, past: History, shop: int, blog: int, **more: Any) -> list[Advice]:
        account(past, "max-1")
        a_full_week(past, "max-1")
        served(past, "max-1", shop, project="shop", session="at-shop", **more)
        served(past, "max-1", blog, project="blog", session="at-blog")
        return found(past)

    def test_the_one_with_most_of_it(self, either: History) -> None:
        (advice,) = self.shared(either, 6, 2)

        assert (advice.kind, advice.subject, advice.requests) == (Kind.GREEDY_PROJECT, "shop", 6)
        assert (advice.window, advice.account, advice.sessions) == ("7d", "max-1", ("at-shop",))
        assert advice.share == pytest.approx(0.75 * 0.96)
        assert advice.text.startswith("75 % of what max-1 did in the 7d window that was 96 % full was for it.")

    @pytest.mark.parametrize(("shop", "blog"), [(1, 0), (40, 1), (0, 0)])
    def test_who_shares_with_nobody_takes_from_nobody(self, past: History, shop: int, blog: int) -> None:
        assert self.shared(past, shop, blog) == []

    def test_where_a_price_is_unknown_nobody_knows_the_share(self, past: History) -> None:
        assert self.shared(past, 6, 2, cost_usd=None) == []

    @pytest.mark.parametrize(("number", "advised"), [(2, []), (3, ["shop"])])
    def test_a_few_hours_of_hard_work_are_no_habit(self, past: History, number: int, advised: list[str]) -> None:
        account(past, "max-1")
        for each in range(number):
            past.window("max-1", "5h", 0.95 - each / 100, NOON + 3600 - each * DAY, at=NOON - each * DAY)
        served(past, "max-1", 6, 0.1, project="shop")
        served(past, "max-1", 2, 0.1, project="blog")

        assert [advice.subject for advice in found(past)] == advised

    def test_what_was_before_the_window_does_not_count(self, past: History) -> None:
        served(past, "max-1", 90, days=10, project="blog", session="long ago")

        (advice,) = self.shared(past, 6, 2)

        assert advice.subject == "shop"
