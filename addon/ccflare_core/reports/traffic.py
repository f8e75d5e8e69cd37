"""What the requests of a period, or of a group in it, add up to. Pure.

The database adds up. Local minutes, hours and days, percentiles and the order of groups are decided here.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ccflare_core.reports.measures import milliseconds

Keys = tuple[str | None, ...]

_DAY = 86_400
_MOST_MINUTES, _MOST_5MIN, _MOST_HOURS = 2 * 3600, 6 * 3600, 3 * _DAY
"""How long a period is at most, in seconds, that is split into these."""


class Period(NamedTuple):
    """From `since` up to, not including, `until`: seconds since the epoch."""

    since: float
    until: float

    def bounds_ms(self) -> tuple[int, int]:
        """Both ends as the database has them."""
        return math.ceil(self.since * 1000), math.ceil(self.until * 1000)


class By(StrEnum):
    """What the traffic can be split by."""

    MINUTE = "minute"
    FIVE_MINUTES = "5min"
    HOUR = "hour"
    DAY = "day"
    ACCOUNT = "account"
    MODEL = "model"
    SESSION = "session"
    PROJECT = "project"
    AGENT = "agent"
    CLIENT = "client"
    ADDRESS = "address"
    TAG = "tag"

    @property
    def is_time(self) -> bool:
        return self in _SECONDS

    @property
    def seconds(self) -> int:
        """The length of a step of time; 0 of what is no time."""
        return _SECONDS.get(self, 0)

    @property
    def words(self) -> str:
        """How it stands in a heading."""
        return "5 minutes" if self is By.FIVE_MINUTES else self.value


_SECONDS = {By.MINUTE: 60, By.FIVE_MINUTES: 300, By.HOUR: 3600, By.DAY: _DAY}


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
    the requests that ended ok. `cost_usd` is the known part; `unknown_costs` requests come on top. Of `estimated`
    requests the output is an estimate. The `rebilled` tokens (those of a 1 h cache are among them) and the
    `lost_thinking_tokens` are told of the cache alone, see measures.py.
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
    estimated: int = 0
    switches: int = 0
    rebilled_tokens: int = 0
    rebilled_1h_tokens: int = 0
    lost_thinking_tokens: int = 0
    first_at: float | None = None
    last_at: float | None = None
    latency: Spread = NOT_MEASURED
    first_byte: Spread = NOT_MEASURED

    @property
    def finished(self) -> int:
        """Those that count for the success rate: neither open, nor left by the client, nor refused by us."""
        return self.requests - self.open - self.client_aborts - self.refused

    @property
    def errors(self) -> int:
        """The finished that did not end ok."""
        return self.finished - self.ok

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
    """Both percentiles of the codes of durations (measures.py), by the nearest rank."""
    return Spread(_percentile(histogram, 0.5), _percentile(histogram, 0.95))


def _percentile(histogram: Counter[int], share: float) -> float | None:
    rank = math.ceil(share * histogram.total())
    for code in sorted(histogram):
        rank -= histogram[code]
        if rank <= 0:
            return milliseconds(code) / 1000
    return None


class Stretch(NamedTuple):
    """A part of a period in which the local clock is `ahead` seconds before UTC."""

    period: Period
    ahead: int


def stretches(period: Period) -> list[Stretch]:
    """The period, cut where the local clock is changed."""
    found: list[Stretch] = []
    start = at = period.since
    while at < period.until:
        following = min(at + _DAY, period.until)
        if _ahead(following) != _ahead(at):
            change = _change(at, following)
            found.append(Stretch(Period(start, change), _ahead(at)))
            start = change
        at = following
    return [*found, Stretch(Period(start, period.until), _ahead(start))] if start < period.until else found


def clock_of(period: Period) -> By:
    """By what a period is split along time, so that it has at most about a hundred steps, unless it is of months."""
    length = math.floor(period.until - period.since)  # the present's fraction of a second makes nothing longer
    for most, step in ((_MOST_MINUTES, By.MINUTE), (_MOST_5MIN, By.FIVE_MINUTES), (_MOST_HOURS, By.HOUR)):
        if length <= most:
            return step
    return By.DAY


def labels(period: Period, by: By) -> list[str]:
    """The local minutes, hours or days that the period touches, in order."""
    found: dict[str, None] = {}
    for part, ahead in stretches(period):
        first, last = (math.floor((at + ahead) / by.seconds) for at in part)
        is_touched = (part.until + ahead) % by.seconds > 0
        found |= dict.fromkeys(label(number, by) for number in range(first, last + is_touched))
    return [*found]


def label(number: int, by: By) -> str:
    """`2026-11-24 14:00` or `2026-11-24`: the name of the local step of time that has this number since the epoch."""
    return time.strftime(label_format(by), time.gmtime(number * by.seconds))


def label_format(by: By) -> str:
    """What strftime and strptime take for these names."""
    return "%Y-%m-%d" if by is By.DAY else "%Y-%m-%d %H:%M"


def _ahead(at: float) -> int:
    return time.localtime(at).tm_gmtoff


def _change(before: float, after: float) -> float:
    """The first whole second between the two at which the clock shows the time of `after`."""
    low, high = math.floor(before), math.ceil(after)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _ahead(middle) == _ahead(after) else (middle, high)
    return min(float(high), after)


def ordered(groups: Sequence[Traffic], by: Sequence[By]) -> list[Traffic]:
    """Groups as people look for them: by time if the split is by time, the latest sessions, else the busiest.

    With a second split, the rows of one first key stay together.
    """
    if len(by) == 1 and by[0] is By.SESSION:
        return sorted(groups, key=lambda group: -(group.last_at or 0))
    if len(by) == 1 and not by[0].is_time:
        return sorted(groups, key=lambda group: (-group.requests, group.keys[0] or ""))
    return sorted(groups, key=lambda group: [(key is None, key or "") for key in group.keys])
