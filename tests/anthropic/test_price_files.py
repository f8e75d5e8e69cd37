from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.anthropic import price_files
from ccflare_core.anthropic.pricing import TABLE, PriceList
from ccflare_core.anthropic.usage import Usage
from ccflare_core.errors import ConfigError

MILLION = 1_000_000
PRICES = "input: 5, output: 25, cache_write_5m: 6.25, cache_write_1h: 10, cache_read: 0.5"


def cost(model: str, *, input: int, prices: PriceList, **usage: Any) -> Decimal | None:
    return prices.cost(model, Usage(input_tokens=input, output_tokens=0, **usage))


def load(tmp_path: Path, text: str) -> PriceList:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return price_files.load(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [problem.removeprefix(f"{tmp_path}/prices.yaml ") for problem in caught.value.problems]


def test_a_file_adds_models_and_replaces_prices(tmp_path: Path) -> None:
    prices = load(
        tmp_path,
        f"# ours\nclaude-opus-6: {{{PRICES}}}\nclaude-opus-5-5: {{{PRICES.replace('5,', '7,', 1)}}}\n",
    )

    assert cost("claude-opus-6-20270101", input=MILLION, prices=prices) == Decimal(5)
    assert cost("claude-opus-5-5", input=MILLION, prices=prices) == Decimal(7)
    assert cost("claude-sonnet-5", input=MILLION, prices=prices) == Decimal(2)


def test_a_dated_model_in_the_file_comes_before_the_undated_one(tmp_path: Path) -> None:
    prices = load(tmp_path, f"claude-opus-5-20261001: {{{PRICES.replace('5,', '9,', 1)}}}\n")

    assert cost("claude-opus-5-20261001", input=MILLION, prices=prices) == Decimal(9)
    assert cost("claude-opus-5", input=MILLION, prices=prices) == Decimal(5)


def test_a_file_may_give_long_and_fast_prices(tmp_path: Path) -> None:
    tenfold = PRICES.replace("5,", "50,", 1)
    prices = load(tmp_path, f"m: {{{PRICES}, long: {{above: 10, {tenfold}}}, fast: {{{tenfold}}}}}\n")

    assert cost("m", input=10, prices=prices) == Decimal("0.00005")
    assert cost("m", input=11, prices=prices) == Decimal("0.00055")
    assert cost("m", input=10, speed="fast", prices=prices) == Decimal("0.0005")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
def test_an_empty_file_and_no_file_change_nothing(tmp_path: Path, text: str) -> None:
    assert cost("claude-opus-5", input=MILLION, prices=load(tmp_path, text)) == Decimal(5)
    assert cost("claude-opus-5", input=MILLION, prices=price_files.load(None)) == Decimal(5)


def test_all_mistakes_are_told_with_their_lines(tmp_path: Path) -> None:
    text = f"a: 3\nb:\n  input: -1\n  ouput: 2\nc: {{{PRICES}, long: {{above: 1e5, {PRICES}}}}}\nc: {{}}\n? [d]\n: 1\n"

    assert mistakes(tmp_path, text) == [
        "line 1: a must hold names and values, one `name: value` a line.",
        "line 3: b lacks output, cache_write_5m, cache_write_1h, cache_read; none has a default.",
        "line 3: input of b must be USD per million tokens, such as 2.5.",
        "line 4: b has no ouput; what may stand here is "
        "input, output, cache_write_5m, cache_write_1h, cache_read, long, fast.",
        "line 5: above of long of c must be a whole number of tokens, such as 200000.",
        "line 6: c stands twice in the file; remove one.",
        "line 7: a name in the file must be plain text.",
    ]


@pytest.mark.parametrize("amount", ["-1", ".inf", ".nan", "1e3", "1_000", "five", "[1]", "''", "12345678", "٣"])
def test_an_amount_must_be_a_plain_number(tmp_path: Path, amount: str) -> None:
    text = f"m: {{{PRICES.replace('0.5', amount)}}}\n"

    assert mistakes(tmp_path, text) == ["line 1: cache_read of m must be USD per million tokens, such as 2.5."]


@pytest.mark.parametrize("text", ["a: [\n", "a: b: c\n", "[" * 5000, "a: \x01\n", "a: *nobody\n", "--- 1\n--- 2\n"])
def test_a_file_that_is_not_yaml_is_one_mistake(tmp_path: Path, text: str) -> None:
    [problem] = mistakes(tmp_path, text)

    assert "this is not YAML (" in problem


def test_a_file_that_is_missing_or_too_long_is_one_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: the file cannot be read \(No such file"):
        price_files.load(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="is longer than 256 KiB: shorten it"):
        load(tmp_path, "#" * (256 * 1024 + 1))


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    text = price_files.written(TABLE, "2026-11-24", "a test")

    read = price_files.parse(text.encode(), "prices.yaml")

    assert (read.tariffs, read.dated) == (dict(TABLE), "2026-11-24")


@pytest.mark.parametrize("dated", ["today", "2026", "[1]", "26-11-24"])
def test_a_date_must_be_one(tmp_path: Path, dated: str) -> None:
    assert mistakes(tmp_path, f"dated: {dated}\n") == ["line 1: dated must be a date such as 2026-11-24."]


CATALOG = """{
  "sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of many"},
  "claude-opus-6": {"input_cost_per_token": 5e-06, "output_cost_per_token": 2.5e-05,
    "cache_creation_input_token_cost": 6.25e-06, "cache_creation_input_token_cost_above_1hr": 1e-05,
    "cache_read_input_token_cost": 5e-07, "litellm_provider": "anthropic", "max_tokens": 64000},
  "claude-long-6": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
    "cache_creation_input_token_cost": 3.75e-06, "cache_creation_input_token_cost_above_1hr": 6e-06,
    "cache_read_input_token_cost": 3e-07, "litellm_provider": "anthropic",
    "input_cost_per_token_above_200k_tokens": 6e-06, "output_cost_per_token_above_200k_tokens": 2.25e-05,
    "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06,
    "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05,
    "cache_read_input_token_cost_above_200k_tokens": 6e-07},
  "claude-half-6": {"input_cost_per_token": 1e-06, "output_cost_per_token": 5e-06, "litellm_provider": "anthropic"},
  "claude-wild-6": {"input_cost_per_token": -1, "output_cost_per_token": "5", "litellm_provider": "anthropic"},
  "bedrock/claude-opus-6": {"input_cost_per_token": 9e-06, "litellm_provider": "bedrock"}
}"""


def test_the_published_catalog_is_read_for_complete_claude_models() -> None:
    read = price_files.parse_source(CATALOG.encode(), "catalog.json")

    assert sorted(read.tariffs) == ["claude-long-6", "claude-opus-6"]
    assert read.left_out == 2
    prices = PriceList(read.tariffs)
    assert cost("claude-opus-6", input=MILLION, prices=prices) == Decimal(5)
    assert cost("claude-long-6", input=200_000, prices=prices) == Decimal("0.6")
    assert cost("claude-long-6", input=MILLION, prices=prices) == Decimal(6)


@pytest.mark.parametrize("text", ["{", "{}", '{"claude-x": 1}', '{"a": {"litellm_provider": "anthropic"}}', "{" * 9999])
def test_another_json_file_is_one_mistake(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        price_files.parse_source(text.encode(), "catalog.json")
    assert len(caught.value.problems) == 1


def test_a_change_of_the_file_is_seen_and_a_broken_one_keeps_the_old_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    told: list[str] = []
    path.write_text(f"claude-opus-6: {{{PRICES}}}\n")
    watch = price_files.watch(lambda: path, told.append)
    watch.start()

    assert watch.look() is None
    path.write_text(f"claude-opus-6: {{{PRICES.replace('5,', '7,', 1)}}}\n# longer\n")
    seen = watch.look()
    assert seen is not None
    assert cost("claude-opus-6", input=MILLION, prices=seen) == Decimal(7)
    path.write_text("claude-opus-6: [")
    assert (watch.look(), watch.look()) == (None, None)
    assert len(told) == 1
