"""What the prompt cache did for groups of requests, and what it cost that sessions moved between accounts. Pure.

The cache belongs to an account. When a session goes to another one, what its former account had cached of the prompt
is written once more. measures.py finds the tokens of that; here they get a price: that of writing less that of reading,
which they would have been.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.reports.traffic import Keys, Traffic

METHOD = "Re-billed: written again because the former account had it cached; priced as writing less reading."
"""For people, in one line."""


class CacheUse(NamedTuple):
    """A group's use of the cache. The kinds of prompt tokens do not overlap."""

    keys: Keys
    requests: int
    uncached_tokens: int
    read_tokens: int
    written_tokens: int
    switches: int
    """Requests that had to write again what another account's cache held."""
    rebilled_tokens: int
    rebilled_usd: float
    unpriced_tokens: int
    """Those of the re-billed that are of a model without a price."""
    last_at: float | None

    @property
    def hit_rate(self) -> float | None:
        """The share of the prompts that came from the cache; None without a prompt."""
        prompt = self.uncached_tokens + self.read_tokens + self.written_tokens
        return self.read_tokens / prompt if prompt else None


def cache_uses(groups: Iterable[Traffic], prices: PriceList, *, total: bool = False) -> list[CacheUse]:
    """The use of the cache by group, or in one; of `groups`, the last key is the model, which is taken away."""
    found: dict[Keys, list[Traffic]] = defaultdict(list)
    for group in groups:
        found[() if total else group.keys[:-1]].append(group)
    return [_use(keys, parts, prices) for keys, parts in found.items()]


def _use(keys: Keys, parts: Sequence[Traffic], prices: PriceList) -> CacheUse:
    costs = [_rebilled(part, prices) for part in parts]
    return CacheUse(
        keys,
        sum(part.requests for part in parts),
        sum(part.input_tokens for part in parts),
        sum(part.cache_read_tokens for part in parts),
        sum(part.cache_creation_tokens for part in parts),
        sum(part.switches for part in parts),
        sum(part.rebilled_tokens for part in parts),
        float(sum((cost for cost in costs if cost is not None), Decimal(0))),
        sum(part.rebilled_tokens for part, cost in zip(parts, costs, strict=True) if cost is None),
        max((part.last_at for part in parts if part.last_at is not None), default=None),
    )


def _rebilled(part: Traffic, prices: PriceList) -> Decimal | None:
    """The price of one model's re-billed tokens in USD, at its standard prices; None if it has none."""
    model = part.keys[-1]
    tariff = prices.tariff(model) if model else None
    if not part.rebilled_tokens:
        return Decimal(0)
    if tariff is None:
        return None
    price = tariff.standard
    short = part.rebilled_tokens - part.rebilled_1h_tokens
    cost = short * (price.cache_write_5m - price.cache_read)
    return (cost + part.rebilled_1h_tokens * (price.cache_write_1h - price.cache_read)).scaleb(-6)
