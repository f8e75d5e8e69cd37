"""Slows down sources that fail to present a valid key, by address, in bounded memory. Pure."""

from collections import OrderedDict
from dataclasses import dataclass
from math import ceil

from ccflare_core.http.addresses import Address, source_of

FREE = 10
"""Failures in a row that cost nothing: a person has to find out about a wrong setting."""
LONGEST_WAIT = 60
"""Seconds. Claude Code gives up at once on more (measured)."""
CALM = 60.0
"""Seconds without a failure that end a burst."""
FORGET = 900.0
"""Seconds after which the failures of a source are forgotten."""
_REPORT_SECONDS = 3600.0
_MOST_SOURCES = 4096


@dataclass(slots=True)
class _Record:
    last: float
    failures: int = 0
    until: float = 0.0
    unreported: int = 0
    reported_at: float = float("-inf")


class Throttle:
    """Counts failures. Success does not end a wait, since a source may be many people; nor does a wait keep a valid
    key from anybody. Times are monotonic seconds.
    """

    def __init__(self, most: int = _MOST_SOURCES) -> None:
        self._most = most
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def wait(self, address: str, now: float) -> int:
        """How many seconds a failure from this address has to wait at `now`; 0: it gets its answer."""
        record = self._records.get(source_of(Address.parse(address)))
        return ceil(record.until - now) if record is not None and now < record.until else 0

    def count(self, address: str, now: float) -> int:
        """Count one more failure from this address. Gives the number since the last report if one is due, else 0."""
        record = self._record(source_of(Address.parse(address)), now)
        is_new = now - record.last >= CALM or record.reported_at == float("-inf")
        record.last = now
        record.unreported += 1
        if now >= record.until:
            record.failures += 1
            if record.failures >= FREE:
                record.until = now + min(2 ** min(record.failures - FREE, 16), LONGEST_WAIT)
        return self._due(record, now, is_new=is_new)

    def _record(self, source: str, now: float) -> _Record:
        record = self._records.get(source)
        if record is None or now - record.last >= FORGET:
            record = self._records[source] = _Record(now)
        self._records.move_to_end(source)
        if len(self._records) > self._most:
            self._records.popitem(last=False)
        return record

    def _due(self, record: _Record, now: float, *, is_new: bool) -> int:
        if not is_new and now - record.reported_at < _REPORT_SECONDS:
            return 0
        number, record.unreported, record.reported_at = record.unreported, 0, now
        return number
