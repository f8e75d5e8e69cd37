"""Batches of messages: what each counts in its client's budget, first by an estimate, then by what it took.

The estimate is settled once, by whichever proxy on this database hears of it: an answer that shows the batch as ended
leaves the part of it that succeeded, and the results tell what was used. What comes later than SETTLED_WITHIN changes
nothing any more. Results may be fetched again; they are counted, and recorded with their usage, the first time only.
"""

import math
from typing import Any, Final

from peewee import Database

from ccflare_core.db.models import BatchRow, RequestRow, UsagePartRow
from ccflare_core.exchange.records import BatchDropped, BatchEnded, BatchMade, BatchRead

SETTLED_WITHIN: Final = 30 * 3_600_000
"""Milliseconds. A batch has ended after 24 hours, one way or the other."""
KEPT: Final = 62 * 86_400_000
"""Milliseconds: longer than results can be fetched, and than a month's budget looks back."""

_USAGE: Final = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation_5m_input_tokens"),
    *("cache_creation_1h_input_tokens", "thinking_tokens", "web_search_requests", "web_fetch_requests", "cost_usd"),
)


class Batches:
    """Writes what is known of batches, within whatever transaction is open."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, record: BatchMade | BatchDropped | BatchEnded | BatchRead) -> None:
        """Take one record. The row of its exchange is there, if it is to have one."""
        match record:
            case BatchMade():
                self._make(record)
            case BatchDropped():
                self._drop(record.request_id)
            case BatchEnded():
                self._end(record)
            case BatchRead():
                self._read(record)

    def _make(self, made: BatchMade) -> None:
        BatchRow.delete().where(BatchRow.made_at < made.at_ms - KEPT).execute(self._database)
        if made.id != made.request_id:
            self._drop(made.request_id)
        self._insert(made)

    def _drop(self, request_id: str) -> None:
        """Forget what stands under the exchange's own id, until there is a better one or none."""
        BatchRow.delete().where(BatchRow.id == request_id).execute(self._database)

    def _insert(self, made: BatchMade, **more: Any) -> None:
        row: dict[Any, Any] = {
            BatchRow.id: made.id,
            BatchRow.request_id: made.request_id,
            BatchRow.client_id: made.client_id,
            BatchRow.made_at: made.at_ms,
            BatchRow.tokens: made.tokens,
            BatchRow.usd: made.usd,
        }
        row.update({getattr(BatchRow, name): value for name, value in more.items()})
        BatchRow.insert(row).on_conflict_ignore().execute(self._database)

    def _end(self, ended: BatchEnded) -> None:
        is_open = (BatchRow.id == ended.id) & BatchRow.settled.is_null() & self._in_time(ended.at_ms)
        batch = BatchRow.select().where(is_open).get_or_none(self._database)
        if batch is None or not ended.requests:
            return
        share = ended.succeeded / ended.requests
        changes: dict[Any, Any] = {BatchRow.settled: "ended"}
        if batch.tokens is not None:
            changes[BatchRow.tokens] = math.ceil(batch.tokens * share)
        if batch.usd is not None:
            changes[BatchRow.usd] = batch.usd * share
        BatchRow.update(changes).where(is_open).execute(self._database)

    def _read(self, read: BatchRead) -> None:
        if BatchRow.select().where(BatchRow.id == read.id).get_or_none(self._database) is None:
            self._insert(BatchMade(*read), settled="results", settled_by=read.request_id)
            return
        settled: dict[Any, Any] = {BatchRow.settled: "results", BatchRow.settled_by: read.request_id}
        counts: dict[Any, Any] = {BatchRow.tokens: read.tokens}
        if read.usd is not None:  # else a price is not known, and the estimate is the best there is
            counts[BatchRow.usd] = read.usd
        is_unread = (BatchRow.id == read.id) & BatchRow.settled_by.is_null()
        in_time = BatchRow.update({**settled, **counts}).where(is_unread & self._in_time(read.at_ms))
        late = BatchRow.update({**settled, BatchRow.settled: "late"}).where(is_unread)
        if not (in_time.execute(self._database) or late.execute(self._database)):
            self._forget_usage(read.request_id)

    def _forget_usage(self, request_id: str) -> None:
        """The results were recorded before: what they say was used is not used again."""
        nothing = dict.fromkeys(getattr(RequestRow, name) for name in _USAGE)
        RequestRow.update(nothing).where(RequestRow.id == request_id).execute(self._database)
        UsagePartRow.delete().where(UsagePartRow.request == request_id).execute(self._database)

    def _in_time(self, at_ms: int) -> Any:
        return BatchRow.made_at >= at_ms - SETTLED_WITHIN
