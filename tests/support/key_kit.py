"""Client keys for what only asks for their limits."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Key:
    """A client key, as far as it is limited."""

    id: str = "k1"
    name: str = "laptop"
    requests_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    dollars_per_day: Decimal | None = None
    dollars_per_month: Decimal | None = None
