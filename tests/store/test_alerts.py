"""Alerts are told once over all proxies on a database and over restarts, with their end, and never too many."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from ccflare_core.config.location import Location
from ccflare_core.reports.alerts import Alert, Condition, State
from ccflare_core.store.alerts import GONE_SECONDS, HOUR
from ccflare_core.store.store import Store
from database_kit import KEY, NOW

LOGIN = Condition("needs_login", "id-1", "max-1", "needs a login")
LIMIT = Condition("window", "id-1", "max-1", "5h 93 %")
ODD = Condition("anomaly.address", "ck_1", "client key office", "a new address", lasts=False)


@dataclass(slots=True)
class Proxies:
    """Two proxies on one database, and the time."""

    location: Location
    now: float = NOW
    stores: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        self.stores.append(Store.open(self.location, KEY, wall=lambda: self.now))
        return self.stores[-1]

    def see(self, *conditions: Condition, after: float = 0.0, proxy: int = 0) -> list[tuple[State, str]]:
        """What a proxy tells that sees these, so many seconds later."""
        return [(alert.state, alert.cause) for alert in self.take(*conditions, after=after, proxy=proxy)]

    def take(self, *conditions: Condition, after: float = 0.0, proxy: int = 0) -> list[Alert]:
        self.now += after
        return self.stores[proxy].alerts.take(conditions)


@pytest.fixture
def proxies(location: Location) -> Iterator[Proxies]:
    proxies = Proxies(location)
    proxies.open()
    proxies.open()
    yield proxies
    for store in proxies.stores:
        store.close()


def test_alert_is_told_once_over_all_proxies_and_restarts(proxies: Proxies) -> None:
    told = [proxies.see(LOGIN), proxies.see(LOGIN), proxies.see(LOGIN, LIMIT, proxy=1), proxies.see(LOGIN, LIMIT)]
    restarted = len(proxies.stores)
    proxies.open()

    assert told == [[(State.BEGINS, "needs_login")], [], [(State.BEGINS, "window")], []]
    assert proxies.see(LOGIN, LIMIT, after=3 * HOUR, proxy=restarted) == []


def test_alert_that_is_over_says_how_long_it_lasted(proxies: Proxies) -> None:
    proxies.see(LOGIN)
    proxies.see(LOGIN, after=600)
    still = proxies.see(after=GONE_SECONDS - 1)

    [over] = proxies.take(after=2)

    assert still == []
    assert (over.state, over.cause, over.seconds) == (State.OVER, "needs_login", 600.0)
    assert over.text == "over after 10 min: max-1: needs a login"
    assert proxies.see(after=600, proxy=1) == []


def test_alert_is_not_over_while_another_proxy_sees_it(proxies: Proxies) -> None:
    proxies.see(LOGIN)

    found = [proxies.see(*seen, after=60, proxy=proxy) for proxy, seen in ((1, [LOGIN]), (0, [])) * 5]

    assert found == [[]] * 10


def test_alert_that_comes_and_goes_is_told_once_an_hour(proxies: Proxies) -> None:
    told = []
    for _ in range(20):
        told += proxies.see(LOGIN, after=300)
        told += proxies.see(after=GONE_SECONDS + 1)

    begins = [state for state, _ in told if state is State.BEGINS]
    assert len(begins) == 3, "in two and a half hours"
    assert len(told) == 2 * len(begins)


def test_event_has_no_end(proxies: Proxies) -> None:
    told = [proxies.see(ODD), proxies.see(after=GONE_SECONDS + 1), proxies.see(ODD), proxies.see(ODD, after=HOUR)]

    assert told == [[(State.BEGINS, "anomaly.address")], [], [], [(State.BEGINS, "anomaly.address")]]


def test_more_than_ten_an_hour_become_one_summary(proxies: Proxies) -> None:
    many = [LOGIN._replace(subject=f"id-{number}", name=f"max-{number}") for number in range(14)]
    more = [LIMIT._replace(subject=f"id-{number}") for number in range(3)]

    first = proxies.take(*many)
    second = proxies.take(*many, *more, after=60)
    later = proxies.take(*many, *more, after=HOUR + 1)

    assert [alert.state for alert in first] == [State.BEGINS] * 10 + [State.SUMMARY]
    assert first[-1].text == "4 more alerts: 4 of needs_login"
    assert second == []
    assert [alert.cause for alert in later] == ["needs_login"] * 4 + ["window"] * 3


def test_clients_leave_room_for_what_a_person_has_to_see_to(proxies: Proxies) -> None:
    odd = [ODD._replace(subject=f"ck_{number}") for number in range(40)]
    spent = [Condition("budget", f"ck_{number}", f"office-{number}", "has spent it") for number in range(40)]

    flood = proxies.take(*odd, *spent, LIMIT)
    real = [proxies.see(*spent, LIMIT, LOGIN._replace(subject=f"id-{number}"), after=30) for number in range(2, 6)]

    causes = [alert.cause for alert in flood]
    assert causes == ["window", *["anomaly.address"] * 5, "summary"]
    assert flood[-1].text == "75 more alerts: 35 of anomaly.address, 40 of budget"
    assert real == [[(State.BEGINS, "needs_login")]] * 4
