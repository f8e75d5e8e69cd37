"""What is unusual, found in a real record: each kind, once over all proxies and restarts, in small steps."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ccflare_core.audit.entries import By, Entry
from ccflare_core.clients.keys import ClientKey
from ccflare_core.config.location import Location
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.records import ExchangeFinished, ExchangeStarted, Record
from ccflare_core.reports.anomalies import Cause, Notice
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from ccflare_core.writer.lookout import Lookout
from database_kit import KEY, NOW

DAY, HOUR = 86_400.0, 3_600.0


@dataclass(slots=True)
class Proxies:
    """A database with a past, the time, and proxies that look at it."""

    location: Location
    now: float = NOW
    stores: list[Store] = field(default_factory=list)
    made: int = 0

    def open(self) -> Store:
        self.stores.append(Store.open(self.location, KEY, wall=lambda: self.now))
        return self.stores[-1]

    def request(
        self, key: ClientKey, at: float, *, address: str = "192.0.2.7", program: str = "curl/8", status: int = 200
    ) -> list[Record]:
        """A request of the key, and its end."""
        self.made += 1
        id_ = f"req_{self.made:020}"
        started = ExchangeStarted(
            *(id_, round(at * 1000), "POST", "/v1/messages", address, program, None, "base", "run", "claude-opus-4-8"),
            *(key.id, key.name),
        )
        return [started, ExchangeFinished(id_, "ok" if status < 400 else "upstream_error", status < 400, status)]

    def look(self) -> list[Notice]:
        """What a proxy that has just started tells, once it has read the past."""
        return read_all(self.lookout(), self.open())

    def lookout(self) -> Lookout:
        return Lookout(wall=lambda: self.now)

    def told(self) -> list[tuple[str, str, str]]:
        """What the audit log has."""
        rows = self.stores[0].query(
            "SELECT action, target, detail FROM audit_log WHERE action LIKE 'anomaly%' ORDER BY id"
        )
        return [(action, target, detail) for action, target, detail in rows]


def read_all(lookout: Lookout, store: Store) -> list[Notice]:
    """Steps until the present is read; what they tell."""
    while (look := lookout.step(store)).goes_on:
        pass
    return look.notices


@pytest.fixture
def proxies(location: Location) -> Iterator[Proxies]:
    proxies = Proxies(location)
    yield proxies
    for store in proxies.stores:
        store.close()


@pytest.fixture
def office(proxies: Proxies) -> ClientKey:
    """A key that is used each day, for the last twelve days; an account's tokens are refreshed once a day."""
    key, store = new_key("office", NOW - 12 * DAY), proxies.open()
    store.clients.add(key)
    for day in range(12, 0, -1):
        proxies.now = NOW - day * DAY
        store.write([each for n in range(9) for each in proxies.request(key, proxies.now + n)])
        store.note("token.refresh", "max-1")
    proxies.now = NOW
    return key


def test_lookout_finds_nothing_in_what_is_usual(proxies: Proxies, office: ClientKey) -> None:
    proxies.stores[0].write(proxies.request(office, NOW - 60))

    assert proxies.look() == []
    assert proxies.told() == []


@pytest.mark.parametrize(
    ("cause", "number", "changed", "said"),
    [
        (Cause.VOLUME, 400, {}, "400 requests within 15 min"),
        (Cause.FAILURES, 20, {"status": 403}, "20 requests that failed by its own fault (4xx) within 30 min"),
        (Cause.ADDRESS, 1, {"address": "203.0.113.9"}, "a new address: 203.0.113.9, not seen in the last 28 days"),
        (Cause.PROGRAM, 1, {"program": "node/24"}, "a new program: node, not seen in the last 28 days"),
    ],
)
def test_lookout_tells_of_a_client_key(
    proxies: Proxies, office: ClientKey, cause: Cause, number: int, changed: dict[str, str], said: str
) -> None:
    records = [each for n in range(number) for each in proxies.request(office, NOW - 1 - n / 10, **changed)]  # type: ignore[arg-type]
    proxies.stores[0].write(records)

    [notice] = proxies.look()

    assert (notice.cause, notice.subject, notice.name) == (cause, office.id, "office")
    assert said in notice.text
    assert proxies.stores[0].notices.since(NOW - HOUR) == [notice]
    [(action, target, detail)] = proxies.told()
    assert (action, target) == (f"anomaly.{cause}", "office")
    assert said in detail


def test_lookout_tells_of_refreshes_and_refused_attempts(proxies: Proxies, office: ClientKey) -> None:
    for second in range(10):
        proxies.now = NOW - 100 + second
        proxies.stores[0].note("token.refresh", "max-1", "failed" if second % 2 else "ok")
    burst = Entry.of(By("", "203.0.113.9"), "auth.denied", "/v1/messages", "denied", count=70)
    proxies.stores[0].report(burst)
    proxies.now = NOW

    notices = proxies.look()

    assert [(notice.cause, notice.name) for notice in notices] == [(Cause.REFRESHES, "max-1"), (Cause.DENIALS, "")]
    assert notices[0].text.startswith("account max-1: 10 token refreshes within 1 h; ")
    assert notices[1].text.startswith("clients without a valid key: 70 refused attempts within 30 min; ")


def test_notice_is_told_once_over_all_proxies_and_restarts_and_again_an_hour_later(
    proxies: Proxies, office: ClientKey
) -> None:
    def flood() -> None:
        store = proxies.stores[0]
        store.write([each for n in range(400) for each in proxies.request(office, proxies.now - 1 - n / 10)])

    flood()
    first, other, restarted = proxies.look(), proxies.look(), proxies.look()
    proxies.now += 0.9 * HOUR
    flood()
    soon = proxies.look()
    proxies.now += 0.2 * HOUR
    flood()
    later = proxies.look()

    assert [[notice.cause for notice in found] for found in (first, other, restarted, soon, later)] == [
        *([Cause.VOLUME], [], [], []),
        [Cause.VOLUME],
    ]


def test_new_address_is_no_news_for_a_proxy_that_goes_on_looking(proxies: Proxies, office: ClientKey) -> None:
    lookout, store = proxies.lookout(), proxies.open()
    found = read_all(lookout, store)
    for minutes in range(0, 180, 10):
        proxies.now = NOW + minutes * 60
        store.write(proxies.request(office, proxies.now - 1, address="203.0.113.9"))
        found += lookout.step(store).notices

    assert [notice.cause for notice in found] == [Cause.ADDRESS]


def test_lookout_is_silent_about_a_key_in_its_first_seven_days(proxies: Proxies, office: ClientKey) -> None:
    young = new_key("young", NOW - 30 * DAY)
    proxies.stores[0].clients.add(young)
    for ago in (6.9 * DAY, 60):
        proxies.stores[0].write(proxies.request(young, NOW - ago, address=f"203.0.{round(ago) % 200}.9"))

    assert proxies.look() == []
    proxies.now = NOW + 0.2 * DAY
    proxies.stores[0].write(proxies.request(young, proxies.now - 60, address="198.18.7.7"))
    assert [notice.name for notice in proxies.look()] == ["young"]


def test_lookout_tells_of_a_key_that_was_not_used_for_long(proxies: Proxies, office: ClientKey) -> None:
    asleep = new_key("asleep", NOW - 90 * DAY)
    proxies.stores[0].clients.add(asleep)
    proxies.stores[0].write([*proxies.request(asleep, NOW - 60 * DAY), *proxies.request(asleep, NOW - 60)])

    assert {(notice.name, notice.cause) for notice in proxies.look()} == {
        ("asleep", Cause.ADDRESS),
        ("asleep", Cause.PROGRAM),
    }


def test_what_cannot_be_audited_is_told_later(proxies: Proxies, office: ClientKey) -> None:
    proxies.stores[0].write(proxies.request(office, NOW - 1, address="203.0.113.9"))
    lookout, keyless = proxies.lookout(), Store.open(proxies.location, None, wall=lambda: NOW)
    with closing(keyless), pytest.raises(CCFlareError, match="key"):
        read_all(lookout, keyless)

    assert [notice.cause for notice in proxies.look()] == [Cause.ADDRESS]


def test_both_questions_go_by_an_index(tmp_path: Path) -> None:
    from ccflare_core.reports import observed

    with closing(Store.open(tmp_path / "ccflare.db", KEY)) as store:
        plan = [
            str(step[3])
            for sql in (observed._SEEN, observed._EVENTS)
            for step in store.query(f"EXPLAIN QUERY PLAN {sql}", (0, 1))
        ]

    assert [step for step in plan if step.startswith("SCAN")] == []
    assert {step.split()[4] for step in plan if step.startswith("SEARCH")} == {"requests_timestamp", "audit_log_time"}
