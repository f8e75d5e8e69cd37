"""What the requests of a period, or of a group in it, add up to. Pure.

The database adds up. Local hours and days, percentiles and the order of groups are decided here.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Keys = tuple[str | None, ...]


class Period(NamedTuple):
    """From `since` up to, not including, `until`: seconds since the epoch."""

    since: float
    until: float

    def bounds_ms(self) -> tuple[int, int]:
        """Both ends as the database has them."""
        return math.ceil(self.since * 1000), math.ceil(self.until * 1000)


class By(StrEnum):
    """What the traffic can be split by."""

    HOUR = "hour"
    DAY = "day"
    ACCOUNT = "account"
    MODEL = "model"
    SESSION = "session"
    CLIENT = "client"

    @property
    def is_time(self) -> bool:
        return self in (By.HOUR, By.DAY)


class Spread(NamedTuple):
    """The median and the 95th percentile in seconds; None without a measurement."""

    p50: float | None = None
    p95: float | None = None


NOT_MEASURED = Spread()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What became of the inference requests of a period, or of one group in it.

    `keys` name the group (None: the requests have no such value). Times are seconds. The kinds of input
    tokens do not overlap: `input_tokens` are those that the cache did not touch. The latencies are those of
    the requests that ended ok. `cost_usd` is the known part; `unknown_costs` requests come on top.
    """

    keys: Keys = ()
    requests: int = 0
    open: int = 0
    ok: int = 0
    client_aborts: int = 0
    refused: int = 0
    moved: int = 0
    failovers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    thinking_tokens: int = 0
    web_searches: int = 0
    cost_usd: float = 0.0
    unknown_costs: int = 0
    first_at: float | None = None
    last_at: float | None = None
    latency: Spread = NOT_MEASURED
    first_byte: Spread = NOT_MEASURED

    @property
    def finished(self) -> int:
        """Those that count for the success rate: neither open, nor left by the client, nor refused by us."""
        return self.requests - self.open - self.client_aborts - self.refused

    @property
    def success_rate(self) -> float | None:
        """The share of the finished that ended ok; None if none finished."""
        return self.ok / self.finished if self.finished else None

    @property
    def prompt_tokens(self) -> int:
        """All that was sent to the model, from the cache or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    @property
    def cache_hit_rate(self) -> float | None:
        """The share of the prompts that came from the cache, so never more than 1."""
        return self.cache_read_tokens / self.prompt_tokens if self.prompt_tokens else None


def spread(histogram: Counter[int]) -> Spread:
    """Both percentiles of a histogram of milliseconds, by the nearest rank."""
    return Spread(_percentile(histogram, 0.5), _percentile(histogram, 0.95))


def _percentile(histogram: Counter[int], share: float) -> float | None:
    rank = math.ceil(share * histogram.total())
    for ms in sorted(histogram):
        rank -= histogram[ms]
        if rank <= 0:
            return ms / 1000
    return None


def slices(period: Period, by: By) -> Iterator[tuple[str, Period]]:
    """The local hours (`2026-11-24 14:00`) or days that the period touches, those at its ends cut to it."""
    start = period.since
    while start < period.until:
        here = time.localtime(start)
        until = _next_hour(start, here) if by is By.HOUR else _next_day(start, here)
        label = time.strftime("%Y-%m-%d %H:00" if by is By.HOUR else "%Y-%m-%d", here)
        yield label, Period(start, min(until, period.until))
        start = until


def _next_hour(at: float, here: time.struct_time) -> float:
    return at - at % 1 + 3600 - here.tm_min * 60 - here.tm_sec


def _next_day(at: float, here: time.struct_time) -> float:
    midnight = time.mktime((here.tm_year, here.tm_mon, here.tm_mday + 1, 0, 0, 0, 0, 0, -1))
    return max(midnight, at + 60)  # where clocks go forward at midnight, mktime may answer the hour before


def ordered(groups: Sequence[Traffic], by: Sequence[By]) -> list[Traffic]:
    """Groups as people look for them: by time if the split is by time, the latest sessions, else the busiest.

    With a second split, the rows of one first key stay together.
    """
    if len(by) == 1 and by[0] is By.SESSION:
        return sorted(groups, key=lambda group: -(group.last_at or 0))
    if len(by) == 1 and not by[0].is_time:
        return sorted(groups, key=lambda group: (-group.requests, group.keys[0] or ""))
    return sorted(groups, key=lambda group: [(key is None, key or "") for key in group.keys])
