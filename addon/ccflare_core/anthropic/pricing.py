"""What an answer cost: prices per model, and their sum over a `Usage` in exact decimals. Pure.

A model that is not in the table has no price, and a cost that is not known is None, never 0. price_files.py reads
more prices from a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final, NamedTuple

from ccflare_core.anthropic.usage import Message, Reading, Usage

WEB_SEARCH: Final = Decimal("0.01")
"""USD per search."""

US_FACTOR: Final = Decimal("1.1")
"""Times the tokens' price when the answer was made in the United States on request (`inference_geo: us`)."""

BATCH_FACTOR: Final = Decimal("0.5")
"""Times the tokens' price of a message in a batch, if it was served as one (`service_tier: batch`)."""

_VARIANT = re.compile(r"([-@]\d{8}|-latest)?(\[1m\])?$")


class Price(NamedTuple):
    """USD per million tokens."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal


class Long(NamedTuple):
    """The price of a whole request whose prompt has more than `above` tokens, cached ones included."""

    above: int
    price: Price


class Tariff(NamedTuple):
    """All prices of one model; None where a model has no such price."""

    standard: Price
    long: Long | None = None
    fast: Price | None = None


def _price(text: str) -> Price:
    return Price(*(Decimal(amount) for amount in text.split("/")))


_SONNET = Tariff(_price("3/15/3.75/6/.3"))
_OPUS_4 = Tariff(_price("15/75/18.75/30/1.5"))
_OPUS_4_6 = Tariff(_price("5/25/6.25/10/.5"), fast=_price("30/150/37.5/60/3"))
_OPUS_5 = Tariff(_price("5/25/6.25/10/.5"), fast=_price("10/50/12.5/20/1"))
_FABLE_5 = Tariff(_price("10/50/12.5/20/1"))
_FABLE_5_1 = Tariff(_price("10/50/12.5/20/.25"))
_FABLE_5_2 = Tariff(_price("8/40/10/16/.2"), fast=_price("16/80/20/32/.4"))

TABLE: Final[Mapping[str, Tariff]] = {
    "claude-3-5-haiku": Tariff(_price(".8/4/1/1.6/.08")),
    "claude-haiku-4-5": Tariff(_price("1/5/1.25/2/.1")),
    "claude-haiku-5-5": Tariff(_price(".1/.5/.125/.2/.01"), long=Long(100_000, _price(".5/2.5/.625/1/.05"))),
    "claude-3-5-sonnet": _SONNET,
    "claude-3-7-sonnet": _SONNET,
    "claude-sonnet-4": _SONNET,
    "claude-sonnet-4-0": _SONNET,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-6": _SONNET,
    "claude-sonnet-5": Tariff(_price("2/10/2.5/4/.2")),
    "claude-sonnet-5-5": Tariff(_price("2/10/2.5/4/.1")),
    "claude-opus-4": _OPUS_4,
    "claude-opus-4-0": _OPUS_4,
    "claude-opus-4-1": _OPUS_4,
    "claude-opus-4-5": Tariff(_price("5/25/6.25/10/.5")),
    "claude-opus-4-6": _OPUS_4_6,
    "claude-opus-4-7": _OPUS_4_6,
    "claude-opus-4-8": _OPUS_5,
    "claude-opus-5": _OPUS_5,
    "claude-opus-5-5": Tariff(_price("4/20/5/8/.2"), fast=_price("8/40/10/16/.4")),
    "claude-fable-5": _FABLE_5,
    "claude-fable-5-1": _FABLE_5_1,
    "claude-fable-5-2": _FABLE_5_2,
    "claude-mythos-5": _FABLE_5,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-mythos-5-2": _FABLE_5_2,
}
"""Input / output / cache write for 5 minutes / for 1 hour / cache read, in USD per million tokens.

The catalog that Claude Code 2.1.330 holds.
"""

TABLE_DATE: Final = "2026-11"
"""When that was read."""


class PriceList:
    """The prices in force: the table above, with `extra` models added or replaced."""

    def __init__(self, extra: Mapping[str, Tariff] | None = None) -> None:
        self._tariffs = {**TABLE, **(extra or {})}

    @property
    def tariffs(self) -> Mapping[str, Tariff]:
        """The prices by model."""
        return self._tariffs

    def tariff(self, model: str) -> Tariff | None:
        """The model's prices: under its own name, or else under the name without its date."""
        name = self.name_of(model)
        return None if name is None else self._tariffs[name]

    def name_of(self, model: str) -> str | None:
        """What the prices call the model; None if they do not have it."""
        if model in self._tariffs:
            return model
        name = _VARIANT.sub("", model)
        return name if name in self._tariffs else None

    def cost(self, model: str | None, usage: Usage, *, in_batch: bool = False) -> Decimal | None:
        """What `usage` cost in USD, exactly; None if the model, its mode or the tokens are not known."""
        tariff = self.tariff(model) if model else None
        if tariff is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        read = usage.cache_read_input_tokens or 0
        write_1h = usage.cache_creation_1h_input_tokens or 0
        # What is not said to be for one hour is for five minutes, the API's default.
        unsplit = (usage.cache_creation_input_tokens or 0) - write_1h
        write_5m = max(usage.cache_creation_5m_input_tokens or 0, unsplit)
        price = _price_for(tariff, usage.speed, usage.input_tokens + read + write_1h + write_5m)
        if price is None:
            return None
        tokens = Price(*map(Decimal, (usage.input_tokens, usage.output_tokens, write_5m, write_1h, read)))
        total = sum([count * each for count, each in zip(tokens, price, strict=True)], Decimal(0))
        if usage.inference_geo == "us":
            total *= US_FACTOR
        if in_batch and usage.service_tier in (None, "batch"):
            total *= BATCH_FACTOR
        return total.scaleb(-6) + WEB_SEARCH * (usage.web_search_requests or 0)

    def at_most(self, model: str | None, usage: Usage, *, in_batch: bool = False) -> Decimal:
        """What `usage` cost; what the dearest model would have cost where nobody knows this one's price."""
        cost = self.cost(model, usage, in_batch=in_batch)
        if cost is not None:
            return cost
        costs = (self.cost(name, usage, in_batch=in_batch) for name in self._tariffs)
        return max((each for each in costs if each is not None), default=Decimal())

    def cost_of(self, reading: Reading, asked: str | None) -> Decimal | None:
        """What an answer cost with all its parts. The model that was asked for prices one that nobody knows."""
        model = reading.model if reading.model and self.tariff(reading.model) else asked or reading.model
        told = reading if model == reading.model else replace(reading, model=model)
        return self.total(told.messages(asked))

    def total(self, messages: Iterable[Message]) -> Decimal | None:
        """What the messages cost together; None if the cost of one is not known."""
        costs = [self.cost(message.model, message.usage, in_batch=message.in_batch) for message in messages]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _price_for(tariff: Tariff, speed: str | None, prompt_tokens: int) -> Price | None:
    if speed == "fast":
        return tariff.fast
    if tariff.long and prompt_tokens > tariff.long.above:
        return tariff.long.price
    return tariff.standard
