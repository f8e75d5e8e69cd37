"""Memory for recording: shared by all open answers, and none while the process has too much."""

import logging

import pytest

from ccflare_core.exchange.capture import Capture
from ccflare_core.exchange.memory import MemoryBudget, MemoryWatch

EVENT = b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":15}}\n\n'


def test_what_is_given_back_can_be_taken_again() -> None:
    budget = MemoryBudget(lambda: 10)
    assert [budget.reserve(6), budget.reserve(6), budget.reserve(4)] == [True, False, True]
    budget.release(6)
    assert budget.reserve(6)


def test_an_answer_without_budget_is_kept_cut_and_read_whole() -> None:
    budget = MemoryBudget(lambda: 100)
    first, second = Capture(1000, budget), Capture(1000, budget)
    second.start("text/event-stream", "")
    first.add(b"x" * 90)

    second.add(b": ping\n\n")
    second.add(EVENT)

    assert (second.body, second.size, second.truncated) == (b": ping\n\n", 8 + len(EVENT), True)
    assert second.read(cut=False).usage.output_tokens == 15
    first.release()
    first.release()
    second.release()
    assert budget.used == 0
    assert first.body == b"x" * 90


def test_memory_closes_the_budget_and_opens_it_again(caplog: pytest.LogCaptureFixture) -> None:
    budget, seen = MemoryBudget(), [50]
    watch = MemoryWatch(budget, occupied=lambda: seen[0] << 20, limit=lambda: 100 << 20)
    states = []
    for seen[0] in (50, 101, 95, 101, 89, 95):
        watch.look()
        states.append(budget.is_closed)
    assert states == [False, True, True, True, False, False]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


@pytest.mark.parametrize(("occupied", "limit"), [(None, 1), (10, 0)])
def test_without_a_limit_or_a_figure_the_budget_is_open(occupied: int | None, limit: int) -> None:
    budget = MemoryBudget()
    budget.is_closed = True
    MemoryWatch(budget, occupied=lambda: occupied, limit=lambda: limit).look()
    assert budget.reserve(1)
