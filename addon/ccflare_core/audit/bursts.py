"""Many refusals as one entry, so that ten thousand guesses fill no log. Pure."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ccflare_core.audit.entries import By, Entry
from ccflare_core.http.addresses import Address, source_of

QUIET_SECONDS = 10.0
"""A burst is over when its source has been quiet for so long …"""
LONGEST_SECONDS = 300.0
"""… or has gone on for so long, so that one that never ends is seen too."""
_SOURCES = 1000
_REASONS = 10
_OTHERS = "others"


@dataclass(slots=True)
class _Burst:
    by: By
    action: str
    target: str
    began: float
    last: float
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, now: float) -> None:
        self.count += 1
        self.last = now
        self.reasons[reason if reason in self.reasons or len(self.reasons) < _REASONS else _OTHERS] += 1

    def entry(self) -> Entry:
        seconds = round(self.last - self.began, 1)
        return Entry.of(
            self.by, self.action, self.target, "denied", count=self.count, seconds=seconds, reasons=dict(self.reasons)
        )


class Bursts:
    """Counts refusals by who was refused and what; gives an entry for each burst that is over.

    `now` is in monotonic seconds. The addresses of an IPv6 /64 are one source, and its entry has the first of them. Of
    very many sources at once only the first have entries of their own.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], _Burst] = {}

    def add(self, by: By, action: str, target: str, reason: str, now: float) -> None:
        """Count one. The burst's entry has the target and the request of its first."""
        key = (action, by.actor, _source(by.ip))
        if key not in self._open and len(self._open) >= _SOURCES:
            by, target = By(by.actor, _OTHERS), ""
            key = (action, by.actor, _source(by.ip))
        if key not in self._open:
            self._open[key] = _Burst(by, action, target, now, now)
        self._open[key].add(reason, now)

    def over(self, now: float) -> Iterator[Entry]:
        """The entries of the bursts that are over; each is given once."""
        for key, burst in list(self._open.items()):
            if now - burst.last >= QUIET_SECONDS or now - burst.began >= LONGEST_SECONDS:
                del self._open[key]
                yield burst.entry()

    def all(self) -> Iterator[Entry]:
        """The entries of all bursts, also those that go on."""
        while self._open:
            yield self._open.popitem()[1].entry()


def _source(ip: str) -> str:
    return source_of(Address.parse(ip)) or ip
