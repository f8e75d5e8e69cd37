"""Our cost beside the one that Claude Code 2.1.332 shows (`total_cost_usd`), to six decimals.

The client's formula, in its own numbers (clients.md of the project's notes, sections 5 and 7): each kind of token times
its price per million, added up; a search $0.01; an `advisor_message` of `usage.iterations` at its own model's price; a
stream that was cut has round(characters of text and thinking / 3) of output. DIFFERENCES has where we count otherwise,
and why.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.usage_reader import UsageReader
from client_prices import CLIENT_PRICES


class Case(NamedTuple):
    """An answer's final `usage`; with `said` the stream is cut behind so many characters instead."""

    usage: dict[str, Any]
    said: int | None = None


def written(five: int, hour: int) -> dict[str, Any]:
    split = {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}
    return {"cache_creation_input_tokens": five + hour, "cache_creation": split, "cache_read_input_tokens": 6789}


ADVICE = {"type": "advisor_message", "model": "claude-fable-5-2", "input_tokens": 50_000, "output_tokens": 1500}
CASES = {
    "plain": Case({}),
    "cache-5m": Case(written(4321, 0)),
    "cache-1h": Case(written(0, 4321)),
    "cache-both": Case(written(345, 67)),
    "tools": Case({"output_tokens": 87}),
    "thinking": Case({"output_tokens": 5321, "output_tokens_details": {"thinking_tokens": 4800}}),
    "advisor": Case({"iterations": [{**ADVICE, "type": "message"}, ADVICE, ADVICE]}),
    "web-search": Case({"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 2}}),
    "cut": Case({}, said=1000),
}


def client_cost(model: str, usage: Mapping[str, Any]) -> float:
    """The client's formula."""
    prices = CLIENT_PRICES[model]
    hour = usage.get("cache_creation", {}).get("ephemeral_1h_input_tokens", 0)
    five = usage.get("cache_creation_input_tokens", 0) - hour
    read = usage.get("cache_read_input_tokens", 0)
    counts = (usage["input_tokens"], usage["output_tokens"], five, hour, read)
    total: float = sum(count * price / 1e6 for count, price in zip(counts, prices, strict=True))
    total += 0.01 * usage.get("server_tool_use", {}).get("web_search_requests", 0)
    advice = [each for each in usage.get("iterations", ()) if each["type"] == "advisor_message"]
    return float(total + sum(client_cost(each["model"], each) for each in advice))


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def our_cost(model: str, start: Mapping[str, Any], *rest: dict[str, Any], asked: str | None = None) -> float:
    reader = UsageReader("text/event-stream")
    reader.feed(event({"type": "message_start", "message": {"model": model, "usage": {**start, "output_tokens": 3}}}))
    for content in rest:
        reader.feed(event(content))
    found = PriceList().cost_of(reader.close(cut=True), asked)
    assert found is not None
    return float(found)


def end(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def deltas(said: int) -> list[dict[str, Any]]:
    half = {"text_delta": ("text", said // 2), "thinking_delta": ("thinking", said - said // 2)}
    return [
        {"type": "content_block_delta", "index": 0, "delta": {"type": kind, name: "x" * size}}
        for kind, (name, size) in half.items()
    ]


@pytest.mark.parametrize("model", CLIENT_PRICES)
@pytest.mark.parametrize("name", CASES)
def test_our_cost_is_the_clients(name: str, model: str) -> None:
    case = CASES[name]
    usage = {"input_tokens": 12, "output_tokens": 310, **case.usage}

    ours = our_cost(model, usage, *([end(usage)] if case.said is None else deltas(case.said)))

    expected = client_cost(model, usage if case.said is None else usage | {"output_tokens": round(case.said / 3)})
    assert round(ours, 6) == round(expected, 6)


def test_what_the_client_showed_for_a_real_exchange() -> None:
    usage = {"input_tokens": 12, "output_tokens": 10, **written(345, 0)}

    assert our_cost("claude-opus-5-5", usage, end(usage)) == pytest.approx(0.0033308, abs=5e-10)


def test_the_model_that_was_asked_for_prices_one_that_nobody_knows() -> None:
    usage = {"input_tokens": 12, "output_tokens": 10}

    assert our_cost("claude-next-9", usage, end(usage), asked="claude-opus-5-5") == pytest.approx(0.000248)


BASE = {"input_tokens": 1000, "output_tokens": 100}
DIFFERENCES = {
    "a second message_delta": (
        "The counts are cumulative, so the largest is what is billed; the client reads the first one only.",
        [end({"output_tokens": 100}), end({"output_tokens": 250})],
        {"output_tokens": 250},
    ),
    "compaction": (
        "Compaction is billed beside the answer's own counts; of the iterations the client adds an advisor's only.",
        [end({"output_tokens": 100, "iterations": [{"type": "compaction", "input_tokens": 0, "output_tokens": 900}]})],
        {"output_tokens": 1000},
    ),
}
"""Where ours is above the client's: the reason, the events, and what we count in place of it."""


@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_our_cost_is_above_the_clients(name: str) -> None:
    _, events, counted = DIFFERENCES[name]

    ours = our_cost("claude-opus-5-5", BASE, *events)

    assert round(ours, 6) == round(client_cost("claude-opus-5-5", BASE | counted), 6)
    assert ours > client_cost("claude-opus-5-5", BASE)


def test_a_long_prompt_of_haiku_5_5_has_its_higher_price() -> None:
    """As the client's: past 100,000 tokens the whole request has other prices."""
    usage = {"input_tokens": 100_001, "output_tokens": 10}

    assert our_cost("claude-haiku-5-5", usage, end(usage)) == pytest.approx((100_001 * 0.5 + 10 * 2.5) / 1e6)
