"""Advice about money: moves, batches and short answers, with sums by the price table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Kind as AccountKind
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.usage import COUNT_LIMIT, Usage
from ccflare_core.config.location import Location
from ccflare_core.reports.advice import Advice, Kind
from ccflare_core.reports.cost_advice import BULK, SHORT, cost_advice
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import Period
from history import NOON, History

PRICES = PriceList()
DAY = Period(NOON - 86_400, NOON + 0.001)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        yield history


@pytest.fixture
def either(location: Location) -> Iterator[History]:
    """The same on both databases, for what is asked in SQL."""
    with History(location) as history:
        yield history


def found(past: History, period: Period = DAY) -> list[Advice]:
    return [*cost_advice(past.store.query, Reports(past.store.query), PRICES, period)]


class TestMovedSessions:
    def moved(self, past: History, session: str, tokens: int, **more: Any) -> None:
        used = {"output_tokens": 1_000, "cache_creation_input_tokens": tokens, "session": session, **more}
        with past.together():
            for at, account in ((NOON - 90, "max-1"), (NOON - 60, "max-2")):
                past.exchange(at, account, **used)

    @pytest.mark.parametrize("is_added_up", [False, True])
    def test_takes_the_largest_counts_that_are_recorded(self, either: History, is_added_up: bool) -> None:
        largest = COUNT_LIMIT - 1
        for session in ("one", "two"):
            self.moved(either, session, largest, cache_creation_1h_input_tokens=largest)
        if is_added_up:
            either.add_up()

        (advice,) = found(either)

        assert advice.tokens == 2 * largest
        assert advice.usd == pytest.approx(2e-6 * largest * (10 - 0.5))

    @pytest.mark.parametrize("is_added_up", [False, True])
    def test_tells_what_was_written_again_and_where(self, past: History, is_added_up: bool) -> None:
        for session, tokens in (("small", 100_000), ("large", 400_000), ("next", 300_000), ("fourth", 90_000)):
            self.moved(past, session, tokens)
        if is_added_up:
            past.add_up()

        (advice,) = found(past)

        assert (advice.kind, advice.requests, advice.tokens) == (Kind.MOVED_SESSIONS, 4, 890_000)
        assert advice.usd == pytest.approx(0.89 * (6.25 - 0.5))
        assert advice.sessions == ("large", "next", "small")
        assert advice.text.startswith("4 requests went to another account than the one before: 890k tokens were")

    def test_counts_thinking_that_was_lost(self, past: History) -> None:
        self.moved(past, "one", 0, model="claude-sonnet-5-5", thinking_tokens=200_000)

        (advice,) = found(past)

        assert advice.usd == pytest.approx(2.0)
        assert advice.tokens == 200_000
        assert "and 200k of thinking lost" in advice.text

    def test_what_has_no_price_is_no_sum(self, past: History) -> None:
        self.moved(past, "one", 2_000_000, model="claude-zephyr-1")

        (advice,) = found(past)

        assert (advice.usd, advice.unpriced_tokens, advice.tokens) == (None, 2_000_000, 2_000_000)
        assert advice.sessions == ("one",)

    @pytest.mark.parametrize("more", [{}, {"model": "claude-zephyr-1", "cache_creation_input_tokens": 900_000}])
    def test_little_is_not_worth_a_word(self, past: History, more: dict[str, Any]) -> None:
        self.moved(past, "one", 100_000, **more)

        assert found(past) == []


JOB: dict[str, Any] = {
    "path": "/v1/messages",
    "session": None,
    "key": "ci",
    "model": "claude-sonnet-5-5",
    "stream": False,
    "stop_reason": "end_turn",
    "input_tokens": 40_000,
    "output_tokens": 2_000,
    "cost_usd": 0.1,
}


NO_BULK: dict[str, dict[str, Any]] = {
    "streamed": {"stream": True},
    "streamed or not": {"stream": None},
    "in a session": {"session": "one"},
    "calls a tool": {"stop_reason": "tool_use"},
    "ended somehow": {"stop_reason": None},
    "in a batch": {"service_tier": "batch"},
    "fast": {"speed": "fast"},
    "results": {"path": "/v1/messages/batches/msgbatch_1/results"},
    "failed": {"outcome": "upstream_error"},
    "no price": {"cost_usd": None},
    "cheap": {"cost_usd": 0.01},
    "subscription": {"account": "max-1"},
}


class TestBatches:
    def job(self, past: History, number: int = 2 * BULK, apart: float = 0, **more: Any) -> None:
        with past.together():
            for each in range(number):
                past.exchange(NOON - 7200 - each * apart, **{"account": "work", **JOB, **more})

    def found(self, past: History) -> list[Advice]:
        past.account("work", kind=AccountKind.API_KEY, api_key="sk-ant-api03-x")
        past.account("max-1")
        return found(past)

    def test_half_of_what_a_job_cost(self, either: History) -> None:
        self.job(either)

        (advice,) = self.found(either)

        assert (advice.kind, advice.subject, advice.requests) == (Kind.BATCHES, "ci", 40)
        assert advice.usd == pytest.approx(40 * 0.1 / 2)
        assert len(advice.request_ids) == 1
        assert advice.request_ids[0].startswith("request-")
        assert advice.text.startswith("40 requests to sonnet-5-5 came in bulk")

    def test_searches_cost_the_same_in_a_batch(self, past: History) -> None:
        self.job(past, web_search_requests=2)

        (advice,) = self.found(past)

        assert advice.usd == pytest.approx(40 * (0.1 - 0.02) / 2)

    def test_what_is_none(self, past: History) -> None:
        for name, more in NO_BULK.items():
            self.job(past, key=name, **more)
        self.job(past, key="a few", number=BULK - 1, cost_usd=1.0)
        self.job(past, key="all day", apart=1800, cost_usd=1.0)

        assert [advice.subject for advice in self.found(past) if advice.kind is Kind.BATCHES] == []


USED: dict[str, Any] = {
    "input_tokens": 100_000,
    "output_tokens": 200,
    "cache_read_input_tokens": 200_000,
    "cache_creation_input_tokens": 30_000,
    "cache_creation_1h_input_tokens": 10_000,
}


def cost(model: str) -> float:
    usd = PRICES.cost(model, Usage(**USED))
    assert usd is not None
    return float(usd)


class TestShortAnswers:
    def answer(self, past: History, model: str = "claude-fable-5-2", **more: Any) -> str:
        told = {"stop_reason": "end_turn", "cost_usd": cost(model), "model": model}
        return past.exchange(NOON - 7200, **{**told, **USED, **more})

    @pytest.mark.parametrize("is_added_up", [False, True])
    def test_tells_what_the_next_family_takes(self, either: History, is_added_up: bool) -> None:
        for session in ("one", "two"):
            self.answer(either, session=session)
        self.answer(either, session="two", agent_id="a1")
        self.answer(either, "claude-sonnet-5-5", session="another")
        if is_added_up:
            either.add_up()

        (advice,) = found(either)

        assert (advice.kind, advice.subject, advice.requests) == (Kind.SHORT_ANSWERS, "fable", 3)
        assert advice.usd == pytest.approx(3 * (cost("claude-fable-5-2") - cost("claude-opus-5-5")))
        assert advice.sessions == ("two", "one")
        assert "with opus-5-5 it would have been" in advice.text

    def test_requests_without_a_session_stand_for_themselves(self, either: History) -> None:
        ids = [self.answer(either, session=None) for _ in range(3)]
        self.answer(either, session=None, output_tokens=SHORT + 1)
        self.answer(either, session=None, stop_reason="tool_use")

        (advice,) = found(either)

        assert (advice.requests, advice.sessions) == (3, ())
        assert set(advice.request_ids) < set(ids)

    def test_a_conversation_with_one_other_answer_is_none(self, past: History) -> None:
        others: tuple[dict[str, Any], ...] = (
            {"stop_reason": "tool_use"},
            {"stop_reason": None},
            {"output_tokens": SHORT + 1},
            {"cost_usd": None},
        )
        with past.together():
            for number, other in enumerate(others):
                for _ in range(3):
                    self.answer(past, session=f"session-{number}")
                self.answer(past, session=f"session-{number}", **other)

        assert found(past) == []

    def test_that_of_a_subagent_is_one_of_its_own(self, past: History) -> None:
        with past.together():
            for _ in range(3):
                self.answer(past, session="one", agent_id="a1")
            self.answer(past, session="one", stop_reason="tool_use")

        (advice,) = found(past)

        assert advice.requests == 3

    @pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-zephyr-1"])
    def test_there_is_nothing_below_the_cheapest_and_beside_the_unknown(self, past: History, model: str) -> None:
        past.exchange(NOON - 60, model=model, **USED, stop_reason="end_turn", cost_usd=90.0)

        assert found(past) == []

    def test_below_a_dollar_nothing_is_said(self, past: History) -> None:
        self.answer(past)

        assert cost("claude-fable-5-2") - cost("claude-opus-5-5") < 1
        assert found(past) == []

    def test_what_a_long_prompt_takes_is_known_of_the_cheaper_model(self, past: History) -> None:
        """Haiku 5.5 has another price above 100,000 tokens."""
        with past.together():
            for _ in range(9):
                self.answer(past, "claude-sonnet-5-5")

        (advice,) = found(past)

        assert advice.usd == pytest.approx(9 * (cost("claude-sonnet-5-5") - cost("claude-haiku-5-5")))
