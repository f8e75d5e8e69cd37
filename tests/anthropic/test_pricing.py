from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.pricing import TABLE, PriceList
from ccflare_core.anthropic.usage import Message, Usage

MILLION = 1_000_000
PRICES = "input: 5, output: 25, cache_write_5m: 6.25, cache_write_1h: 10, cache_read: 0.5"


def cost(model: str | None, *, input: int = 0, output: int = 0, in_batch: bool = False, **usage: Any) -> Decimal | None:
    fields: dict[str, Any] = {"input_tokens": input, "output_tokens": output, **usage}
    return PriceList().cost(model, Usage(**fields), in_batch=in_batch)


def test_cost_is_what_claude_code_showed_for_the_same_request() -> None:
    usage = Usage(input_tokens=12, output_tokens=10, cache_read_input_tokens=6789, cache_creation_input_tokens=345)

    assert PriceList().cost("claude-opus-5-5", usage) == Decimal("0.0033308")


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-3-5-haiku-20241022", "0.8 4 1 1.6 0.08"),
        ("claude-haiku-4-5", "1 5 1.25 2 0.1"),
        ("claude-3-5-sonnet-latest", "3 15 3.75 6 0.3"),
        ("claude-3-7-sonnet-20250219", "3 15 3.75 6 0.3"),
        ("claude-sonnet-4-20250514", "3 15 3.75 6 0.3"),
        ("claude-sonnet-4-6", "3 15 3.75 6 0.3"),
        ("claude-sonnet-5", "2 10 2.5 4 0.2"),
        ("claude-sonnet-5-5", "2 10 2.5 4 0.1"),
        ("claude-opus-4-20250514", "15 75 18.75 30 1.5"),
        ("claude-opus-4-1-20250805", "15 75 18.75 30 1.5"),
        ("claude-opus-4-5", "5 25 6.25 10 0.5"),
        ("claude-opus-4-8-20260101", "5 25 6.25 10 0.5"),
        ("claude-opus-5", "5 25 6.25 10 0.5"),
        ("claude-opus-5-5", "4 20 5 8 0.2"),
        ("claude-fable-5", "10 50 12.5 20 1"),
        ("claude-mythos-5-1", "10 50 12.5 20 0.25"),
        ("claude-fable-5-2", "8 40 10 16 0.2"),
    ],
)
def test_a_million_tokens_of_each_kind_cost_the_listed_price(model: str, dollars: str) -> None:
    each = [
        cost(model, input=MILLION),
        cost(model, output=MILLION),
        cost(model, cache_creation_5m_input_tokens=MILLION),
        cost(model, cache_creation_1h_input_tokens=MILLION),
        cost(model, cache_read_input_tokens=MILLION),
    ]

    assert each == [Decimal(amount) for amount in dollars.split()]


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-opus-4-6", "180"),
        ("claude-opus-4-7", "180"),
        ("claude-opus-4-8", "60"),
        ("claude-opus-5", "60"),
        ("claude-opus-5-5", "48"),
        ("claude-fable-5-2", "96"),
        ("claude-mythos-5-2", "96"),
        ("claude-sonnet-5", None),
    ],
)
def test_fast_mode_has_its_own_price_and_is_unknown_where_there_is_none(model: str, dollars: str | None) -> None:
    fast = cost(model, input=MILLION, output=MILLION, speed="fast")

    assert fast == (Decimal(dollars) if dollars else None)
    assert cost(model, input=MILLION, speed="standard") == cost(model, input=MILLION)


@pytest.mark.parametrize(
    ("model", "used", "dollars"),
    [
        # 1,000 x 4 + 2,000 x 20 + 30,000 x 0.2 + 4,000 x 5 = 4,000 + 40,000 + 6,000 + 20,000 millionths
        ("claude-opus-5-5", "1000 2000 30000 4000 0", "0.070000"),
        # the same, of the writes 3,000 for an hour: 1,000 x 5 + 3,000 x 8 = 29,000 in place of 20,000
        ("claude-opus-5-5", "1000 2000 30000 1000 3000", "0.079000"),
        # fast: 1,000 x 8 + 2,000 x 40 + 30,000 x 0.4 + 4,000 x 10 = 140,000
        ("claude-opus-5-5", "1000 2000 30000 4000 0 speed=fast", "0.140000"),
        # in the United States: 70,000 x 1.1
        ("claude-opus-5-5", "1000 2000 30000 4000 0 inference_geo=us", "0.077000"),
        # in a batch: 70,000 / 2; in a batch in the United States: 70,000 x 1.1 / 2
        ("claude-opus-5-5", "1000 2000 30000 4000 0 service_tier=batch in_batch=1", "0.035000"),
        ("claude-opus-5-5", "1000 2000 30000 4000 0 service_tier=batch inference_geo=us in_batch=1", "0.038500"),
        # what calls itself a batch and is the answer to one message: nothing is halved
        ("claude-opus-5-5", "1000 2000 30000 4000 0 service_tier=batch", "0.070000"),
        ("claude-opus-5-5", "1000 2000 30000 4000 0 service_tier=priority in_batch=1", "0.070000"),
        # a prompt of 99,999 tokens, and of 100,002: 99,999 x 0.1 + 500 x 0.5; 100,002 x 0.5 + 500 x 2.5
        ("claude-haiku-5-5", "99999 500 0 0 0", "0.010250"),
        ("claude-haiku-5-5", "100002 500 0 0 0", "0.051251"),
        # long by its cache alone: 2 x 0.5 + 100,000 x 0.05
        ("claude-haiku-5-5", "2 0 100000 0 0", "0.005001"),
        # three searches on top: 12 x 3 + 345 x 15 = 5,211 and 3 x 10,000
        ("claude-sonnet-4-6", "12 345 0 0 0 web_search_requests=3", "0.035211"),
        # the smallest sum that is not nothing: 1 x 0.01 millionths, which six decimals do not show
        ("claude-haiku-5-5", "0 0 1 0 0", "0.000000"),
        # 999,999 x 10 + 64,000 x 50
        ("claude-fable-5", "999999 64000 0 0 0", "13.199990"),
    ],
)
def test_worked_examples(model: str, used: str, dollars: str) -> None:
    """`used`: input, output, cache read, cache write for five minutes, for an hour; then what else was told."""
    input, output, read, write_5m, write_1h = map(int, used.split()[:5])
    told = dict(word.split("=") for word in used.split()[5:])
    usage: dict[str, Any] = {
        **{name: int(value) if value.isdigit() else value for name, value in told.items()},
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_creation_5m_input_tokens": write_5m,
        "cache_creation_1h_input_tokens": write_1h,
    }

    found = cost(model, input=input, output=output, **usage)

    assert f"{found:.6f}" == dollars


def test_messages_of_a_batch_have_a_price_each() -> None:
    haiku, opus = Usage(1_000_000, 0, service_tier="batch"), Usage(0, 1_000_000, service_tier="batch")
    messages = [Message("claude-haiku-4-5", haiku, in_batch=True), Message("claude-opus-4-5", opus, in_batch=True)]

    # 1 / 2 + 25 / 2
    assert PriceList().total(messages) == Decimal(13)
    assert PriceList().total([*messages, Message("claude-unknown", haiku)]) is None


@pytest.mark.parametrize("speed", ["standard", None])
def test_a_long_prompt_costs_more_from_the_first_token_past_the_threshold(speed: str | None) -> None:
    at = cost("claude-haiku-5-5", input=60_000, output=MILLION, cache_read_input_tokens=40_000, speed=speed)
    past = cost("claude-haiku-5-5", input=60_001, output=MILLION, cache_read_input_tokens=40_000, speed=speed)

    assert at == Decimal("0.006") + Decimal("0.5") + Decimal("0.0004")
    assert past == Decimal("0.0300005") + Decimal("2.5") + Decimal("0.002")


def test_cache_writes_count_towards_a_long_prompt_once() -> None:
    split: dict[str, Any] = {"cache_creation_input_tokens": 100_000, "cache_creation_5m_input_tokens": 100_000}

    assert cost("claude-haiku-5-5", **split) == Decimal("0.0125")
    assert cost("claude-haiku-5-5", input=1, **split) == Decimal("0.0625005")


@pytest.mark.parametrize(
    ("total", "five_minutes", "one_hour", "dollars"),
    [
        (MILLION, None, None, "5"),
        (MILLION, 0, MILLION, "8"),
        (MILLION, 250_000, 750_000, "7.25"),
        (MILLION, None, 750_000, "7.25"),
        (None, 250_000, 750_000, "7.25"),
        (0, 0, 0, "0"),
    ],
)
def test_cache_writes_without_a_split_are_for_five_minutes(
    total: int | None, five_minutes: int | None, one_hour: int | None, dollars: str
) -> None:
    written = cost(
        "claude-opus-5-5",
        cache_creation_input_tokens=total,
        cache_creation_5m_input_tokens=five_minutes,
        cache_creation_1h_input_tokens=one_hour,
    )

    assert written == Decimal(dollars)


def test_inference_in_the_us_adds_a_tenth_to_tokens_and_nothing_to_searches() -> None:
    assert cost("claude-sonnet-5", input=MILLION, inference_geo="us") == Decimal("2.2")
    assert cost("claude-sonnet-5", input=MILLION, inference_geo="global") == Decimal(2)
    assert cost("claude-sonnet-5", inference_geo="us", web_search_requests=3) == Decimal("0.03")


@pytest.mark.parametrize(
    "model", [None, "", "gpt-5", "claude-opus-4-9", "claude-opus-4-80", "claude-opus-5-5-turbo", "opus"]
)
def test_a_model_that_is_not_listed_has_no_cost(model: str | None) -> None:
    assert cost(model, input=MILLION) is None


@pytest.mark.parametrize("model", ["claude-opus-5-5@20260801", "claude-opus-5-5[1m]", "claude-opus-5-5-20260801[1m]"])
def test_other_spellings_of_a_model_have_its_price(model: str) -> None:
    assert cost(model, input=MILLION) == Decimal(4)


def test_tokens_that_nobody_counted_have_no_cost() -> None:
    assert PriceList().cost("claude-opus-5", Usage()) is None
    assert PriceList().cost("claude-opus-5", Usage(input_tokens=12)) is None
    assert cost("claude-opus-5") == 0


@given(st.sampled_from(sorted(TABLE)), st.lists(st.integers(0, 10**11), min_size=5, max_size=5))
def test_cost_is_exact_in_integers(model: str, counts: list[int]) -> None:
    names = (
        "input",
        "output",
        "cache_creation_5m_input_tokens",
        "cache_creation_1h_input_tokens",
        "cache_read_input_tokens",
    )

    usage: dict[str, Any] = dict(zip(names, counts, strict=True))
    total = cost(model, **usage)

    tariff = TABLE[model]
    is_long = tariff.long is not None and sum(counts) - counts[1] > tariff.long.above
    price = tariff.long.price if tariff.long and is_long else tariff.standard
    assert total is not None
    assert int(total * 10**10) == sum(n * int(each * 10**4) for n, each in zip(counts, price, strict=True))
