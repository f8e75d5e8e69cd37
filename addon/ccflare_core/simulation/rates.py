"""What tokens cost, as fast as a simulation needs it: the price list's own prices as floats, in USD a token. Pure."""

from functools import lru_cache
from typing import NamedTuple

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.simulation.turns import Tokens


class Rate(NamedTuple):
    """USD for one token of each kind, in the order of Tokens."""

    input: float
    output: float
    written_5m: float
    written_1h: float
    read: float

    def of(self, tokens: Tokens) -> float:
        """What these cost."""
        return sum(rate * number for rate, number in zip(self, tokens, strict=True))

    def again(self, tokens: int, *, is_long: bool) -> float:
        """What it costs that these are written into the cache once more instead of read."""
        return tokens * ((self.written_1h if is_long else self.written_5m) - self.read)


class Rates:
    """The standard prices of models. A model without a price costs what the dearest one does."""

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices
        self.of = lru_cache(256)(self._of)

    def _of(self, model: str | None) -> Rate:
        tariff = self._prices.tariff(model) if model else None
        if tariff is None:
            tariff = max(self._prices.tariffs.values(), key=lambda each: each.standard.output)
        price = tariff.standard
        columns = (price.input, price.output, price.cache_write_5m, price.cache_write_1h, price.cache_read)
        return Rate(*(float(column) / 1e6 for column in columns))

    def is_known(self, model: str | None) -> bool:
        """Whether the model has a price."""
        return bool(model) and self._prices.tariff(model or "") is not None
