"""Who fails too often waits, alone, and costs next to nothing."""

import pytest

from ccflare_core.clients.throttle import CALM, FORGET, FREE, LONGEST_WAIT, Throttle, source_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waits(throttle: Throttle, number: int, source: str = "10.0.0.1") -> list[int]:
    return [throttle.failed(source).wait for _ in range(number)]


def test_the_first_failures_cost_nothing_then_the_waits_double(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert waits(throttle, FREE) == [0] * FREE

    found = []
    for _ in range(9):
        wait = throttle.failed("10.0.0.1").wait
        found.append(wait)
        clock.now += wait
        assert throttle.failed("10.0.0.1").wait == 0
    assert found == [1, 2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


def test_a_neighbour_does_not_wait_with_you(clock: Clock) -> None:
    throttle = Throttle(clock)
    waits(throttle, 50)
    assert waits(throttle, 1, "10.0.0.2") == [0]


def test_after_a_while_all_is_forgotten(clock: Clock) -> None:
    throttle = Throttle(clock)
    waits(throttle, 50)
    clock.now += FORGET
    assert waits(throttle, FREE) == [0] * FREE


def test_a_burst_is_reported_once_and_then_once_an_hour(clock: Clock) -> None:
    throttle = Throttle(clock)

    def reports(number: int, every: float) -> list[int]:
        found = []
        for _ in range(number):
            found.append(throttle.failed("10.0.0.1").to_report)
            clock.now += every
        return [each for each in found if each]

    assert reports(10_000, 0.001) == [1]
    assert reports(3700, 1.0) == [13_591]  # the 9,999 before, and an hour's
    clock.now += CALM
    assert reports(5, 1.0) == [10_000 + 3700 + 1 - 13_592]


def test_memory_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock, most=100)
    for number in range(1000):
        throttle.failed(f"10.0.{number // 250}.{number % 250}")
    assert len(throttle._records) == 100


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_is_one_source(address: str, source: str) -> None:
    assert source_of(address) == source
