"""What the prompt cache did for groups of requests, and what it cost that sessions moved between accounts. Pure.

The cache belongs to an account. When a session goes to another one, what its former account had cached of the prompt
is written once more. measures.py finds the tokens of that; here they get a price: that of writing less that of reading,
which they would have been. Some models' thinking belongs to the account too: another one drops it, and says nothing.
That costs an answer's quality first; its price is that of thinking so much again.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.reports.traffic import Keys, Traffic


class CacheUse(NamedTuple):
    """A group's use of the cache. The kinds of prompt tokens do not overlap."""

    keys: Keys
    requests: int
    uncached_tokens: int
    read_tokens: int
    written_tokens: int
    switches: int
    """Requests that had to write again what another account's cache held, or lost what it had thought."""
    rebilled_tokens: int
    rebilled_usd: float
    lost_thinking_tokens: int
    lost_thinking_usd: float
    unpriced_tokens: int
    """Those of both that are of a model without a price."""
    last_at: float | None

    @property
    def cost_usd(self) -> float:
        """What the moves cost."""
        return self.rebilled_usd + self.lost_thinking_usd

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
    costs = [(part, _rebilled(part, prices), _rethought(part, prices)) for part in parts]
    return CacheUse(
        keys,
        sum(part.requests for part in parts),
        sum(part.input_tokens for part in parts),
        sum(part.cache_read_tokens for part in parts),
        sum(part.cache_creation_tokens for part in parts),
        sum(part.switches for part in parts),
        sum(part.rebilled_tokens for part in parts),
        float(sum((rebilled or Decimal(0) for _, rebilled, _ in costs), Decimal(0))),
        sum(part.lost_thinking_tokens for part in parts),
        float(sum((rethought or Decimal(0) for _, _, rethought in costs), Decimal(0))),
        sum(
            part.rebilled_tokens * (rebilled is None) + part.lost_thinking_tokens * (rethought is None)
            for part, rebilled, rethought in costs
        ),
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


def _rethought(part: Traffic, prices: PriceList) -> Decimal | None:
    """The price of one model's lost thinking in USD, at its standard price for output; None if it has none."""
    model = part.keys[-1]
    tariff = prices.tariff(model) if model else None
    if not part.lost_thinking_tokens:
        return Decimal(0)
    return None if tariff is None else (part.lost_thinking_tokens * tariff.standard.output).scaleb(-6)
