"""What is unusual: hardly ever told of thirty ordinary days, and soon of each of five anomalies in them.

`scripts/test --long` has thirty months in place of three. The table is printed.
"""

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ccflare_core.reports.anomalies import (
    LEARNING_DAYS,
    PRESENT_SLOTS,
    Anomalies,
    Cause,
    Event,
    Notice,
    Seen,
    exact,
    program_name,
    slot_of,
    wide,
)
from ccflare_core.reports.habits import SLOT_SECONDS
from thirty_days import DAY, DAYS, HOUR, MINUTE, MONDAY, Month, Plant, Request, a_month, five_anomalies

IS_LONG = bool(os.environ.get("CCFLARE_LONG_TESTS"))
SEEDS = range(30 if IS_LONG else 3)
LOOK_SECONDS = 120.0


class Told(NamedTuple):
    """A notice, and when it was given."""

    at: float
    notice: Notice


def watched(month: Month) -> Iterator[Told]:
    """The notices of a month, looked at every two minutes in which there was something; each once an hour at most."""
    anomalies, times = Anomalies(), sorted([r.at for r in month.requests] + [h.at for h in month.happenings])
    at_request, at_happening = [r.at for r in month.requests], [h.at for h in month.happenings]
    told: dict[tuple[Cause, str], float] = {}
    for number in sorted({int(at // LOOK_SECONDS) + 1 for at in times}):
        now = number * LOOK_SECONDS
        until = slot_of(now) + 1
        first = until - PRESENT_SLOTS
        since = first * SLOT_SECONDS
        requests = month.requests[bisect_left(at_request, since) : bisect_left(at_request, now)]
        happenings = month.happenings[bisect_left(at_happening, since) : bisect_left(at_happening, now)]
        groups: defaultdict[tuple[int, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
        for request in requests:
            group = groups[slot_of(request.at), request.key, request.address, request.program]
            group[0] += 1
            group[1] += 400 <= request.status < 500
        seen = [Seen(*group, *numbers) for group, numbers in groups.items()]
        events = [Event(slot_of(at), cause, name, count) for at, cause, name, count in happenings]
        anomalies.take(first, until, seen, events, {})
        for notice in anomalies.notices(now, {}):
            quiet = DAY if notice.cause is Cause.DAILY_VOLUME else HOUR
            if notice.at - told.get((notice.cause, notice.subject), 0.0) >= quiet:
                told[notice.cause, notice.subject] = notice.at
                yield Told(now, notice)


class Judged(NamedTuple):
    """What came of a month: the notices of what was planted, by its plant, and all others."""

    first: dict[Plant, float]
    """In how many minutes the anomaly was told, by its own cause."""
    false: list[Told]

    @property
    def false_a_week(self) -> float:
        return len(self.false) / (DAYS - LEARNING_DAYS) * 7


def judged(told: list[Told], plants: tuple[Plant, ...]) -> Judged:
    """A notice is about a plant if that is of the same key or account, and not over for a day."""
    first: dict[Plant, float] = {}
    false = []
    for each in told:
        about = [p for p in plants if p.name == each.notice.subject and p.at <= each.at <= p.at + DAY]
        for plant in about:
            if plant.cause is each.notice.cause:
                first.setdefault(plant, (each.at - plant.at) / MINUTE)
        false += [] if about else [each]
    return Judged(first, false)


TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what each month has shown."""
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nmonth  requests  false notices a week  minutes until each anomaly was told", *TABLE, sep="\n")


@pytest.mark.parametrize("seed", SEEDS)
def test_five_anomalies_are_told_within_15_minutes_and_little_else(seed: int) -> None:
    plants = five_anomalies(seed)
    month = a_month(seed, plants)

    told = list(watched(month))

    found = judged(told, plants)
    minutes = {plant.cause.value: found.first.get(plant) for plant in plants}
    listed = ", ".join(f"{cause} {'-' if after is None else f'{after:.1f}'}" for cause, after in minutes.items())
    TABLE.append(f"{seed:5}  {len(month.requests):8}  {found.false_a_week:20.1f}  {listed}")
    assert [cause for cause, after in minutes.items() if after is None or after > 15] == []
    assert found.false_a_week <= 1, [each.notice.text for each in found.false]
    assert min((each.at for each in told), default=MONDAY + LEARNING_DAYS * DAY) >= MONDAY + LEARNING_DAYS * DAY


def test_nothing_is_told_in_the_first_seven_days_of_a_key_whatever_happens() -> None:
    month = Month(
        [Request(MONDAY + n, "new", f"203.0.{n % 200}.7", f"p{n}", 403) for n in range(0, 6 * 86_400, 40)], []
    )

    assert list(watched(month)) == []


def test_a_new_address_of_a_key_that_changes_often_is_told_only_if_it_is_from_elsewhere() -> None:
    by_day = [Request(MONDAY + day * DAY, "k", f"192.0.2.{day}", "curl/8") for day in range(12)]
    elsewhere = Request(MONDAY + 12 * DAY, "k", "203.0.113.9", "curl/8")

    told = list(watched(Month([*by_day, elsewhere], [])))

    assert [(each.notice.cause, each.at // DAY * DAY) for each in told] == [(Cause.ADDRESS, MONDAY + 12 * DAY)]
    assert "203.0.0.0/16" in told[0].notice.what


def test_a_storm_after_quiet_days_is_no_anomaly() -> None:
    quiet = [Request(MONDAY + day * DAY, "k", "192.0.2.1", "claude-cli/2") for day in range(10)]
    storm = [Request(MONDAY + 10 * DAY + n * 3, "k", "192.0.2.1", "claude-cli/2") for n in range(200)]

    assert list(watched(Month([*quiet, *storm], []))) == []


def test_what_is_told_says_why_in_a_sentence() -> None:
    usual = [Request(MONDAY + day * DAY + n, "k", "192.0.2.1", "curl/8") for day in range(10) for n in range(20)]
    flood = [Request(MONDAY + 10 * DAY + n, "k", "192.0.2.1", "curl/8") for n in range(600)]

    told = list(watched(Month([*usual, *flood], [])))

    assert [each.notice.text for each in told] == [
        "client key k: 480 requests within 15 min; the busiest such time of a day had 20 (median of 10 days), and 400 "
        "or more are unusual"
    ]


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("claude-cli/2.1.332 (external, cli)", "claude-cli"),
        ("claude-cli/2.2.0 (external, sdk)", "claude-cli"),
        ("Anthropic/Python 0.97.0", "Anthropic/Python"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla"),
        ("mytool-1.2.3", "mytool"),
        ("", "a program without a name"),
        ("\x1b[31mred", "a program without a name"),
        ("sk-ant-api03-" + "aB3-dE6_gH9jK2mN5pQ8sT1vW4yZ7" * 3 + "AA", "a program without a name"),  # allow-secret
    ],
)
def test_a_program_is_known_by_its_name_without_a_version_or_a_secret(told: str, name: str) -> None:
    assert program_name(told) == name


@pytest.mark.parametrize(
    ("address", "narrow", "broad"),
    [
        ("127.0.0.1", "this machine", "this machine"),
        ("::1", "this machine", "this machine"),
        ("203.0.113.7", "203.0.113.7", "203.0.0.0/16"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8::/32"),
        ("somewhere", "somewhere", "somewhere"),
    ],
)
def test_an_address_belongs_to_a_network(address: str, narrow: str, broad: str) -> None:
    assert (exact(address), wide(address)) == (narrow, broad)
