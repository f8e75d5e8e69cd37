"""A source that fails too often waits, alone, and costs next to nothing."""

import pytest

from ccflare_core.clients.throttle import CALM, FORGET, FREE, LONGEST_WAIT, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(throttle: Throttle, clock: Clock, source: str = "10.0.0.1") -> tuple[int, int]:
    """How long the next failure waits, and how many are to be reported with it."""
    return throttle.wait(source, clock.now), throttle.count(source, clock.now)


def waits(throttle: Throttle, clock: Clock, number: int, source: str = "10.0.0.1") -> list[int]:
    return [fail(throttle, clock, source)[0] for _ in range(number)]


def test_the_first_failures_cost_nothing_then_the_waits_double(clock: Clock) -> None:
    throttle = Throttle()
    assert waits(throttle, clock, FREE) == [0] * FREE

    found = []
    for _ in range(9):
        wait = fail(throttle, clock)[0]
        found.append(wait)
        clock.now += wait
        assert fail(throttle, clock)[0] == 0
    assert found == [1, 2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


def test_a_neighbour_does_not_wait_with_you(clock: Clock) -> None:
    throttle = Throttle()
    waits(throttle, clock, 50)
    assert waits(throttle, clock, 1, "10.0.0.2") == [0]


def test_after_a_while_all_is_forgotten(clock: Clock) -> None:
    throttle = Throttle()
    waits(throttle, clock, 50)
    clock.now += FORGET
    assert waits(throttle, clock, FREE) == [0] * FREE


def test_a_burst_is_reported_once_and_then_once_an_hour(clock: Clock) -> None:
    throttle = Throttle()

    def reports(number: int, every: float) -> list[int]:
        found = []
        for _ in range(number):
            found.append(fail(throttle, clock)[1])
            clock.now += every
        return [each for each in found if each]

    assert reports(10_000, 0.001) == [1]
    assert reports(3700, 1.0) == [13_591]  # the 9,999 before, and an hour's
    clock.now += CALM
    assert reports(5, 1.0) == [10_000 + 3700 + 1 - 13_592]


def test_to_look_at_a_wait_changes_nothing(clock: Clock) -> None:
    throttle = Throttle()
    waits(throttle, clock, FREE)

    assert [throttle.wait("10.0.0.1", clock.now) for _ in range(3)] == [1] * 3
    assert throttle.wait("10.0.0.2", clock.now) == 0
    assert len(throttle._records) == 1


def test_memory_is_bounded(clock: Clock) -> None:
    throttle = Throttle(most=100)
    for number in range(1000):
        throttle.count(f"10.0.{number // 250}.{number % 250}", clock.now)
    assert len(throttle._records) == 100
