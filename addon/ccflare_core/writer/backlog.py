"""The bounded queue of records that wait for the database, between the threads that put and the one that takes.

When a bound is reached, bodies go first. Only when no body is left, and the database has been unusable for so
long that `max_rows` rows wait, does the oldest row go, so that memory stays bounded. Both losses are counted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from ccflare_core.exchange.records import Payload, Record

Marker = Future[bool]
"""Stands in the line and is told True once everything before it is in the database."""

_BATCH_ROWS = 500
"""So a killed process loses at most so many of a batch that is being written."""
_BATCH_BYTES = 4 * 1024 * 1024


class _Waiting(NamedTuple):
    item: Record | Marker
    since: float


class Backlog:
    """A line of records, first in first out. Every method is quick and may be called from any thread."""

    def __init__(self, max_rows: int, max_payload_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_rows = max_rows
        self._max_payload_bytes = max_payload_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._line: deque[_Waiting] = deque()
        self._taken_since: float | None = None  # when the oldest of what was taken and is not done was put
        self._payloads_in_line = 0
        self._payload_bytes = 0  # in the line, and taken but not yet done
        self.dropped_payloads = 0
        """Bodies that were left out because a bound was reached."""
        self.dropped_rows = 0
        """Rows that are lost for good."""

    def __len__(self) -> int:
        return len(self._line)

    @property
    def records(self) -> int:
        """How many wait, without the markers between them."""
        with self._lock:
            return sum(not isinstance(waiting.item, Future) for waiting in self._line)

    @property
    def lag(self) -> float:
        """For how many seconds the oldest record that is not done has waited; 0 without one."""
        with self._lock:
            since = self._line[0].since if self._taken_since is None and self._line else self._taken_since
            return 0.0 if since is None else max(0.0, self._clock() - since)

    @property
    def has_full_batch(self) -> bool:
        """Whether waiting for more would make no larger batch."""
        return len(self._line) >= _BATCH_ROWS or self._payload_bytes >= _BATCH_BYTES

    def put(self, record: Record) -> None:
        """Stand it in the line, or leave a body out, or let the oldest row go, as the bounds demand."""
        with self._lock:
            if isinstance(record, Payload):
                if not self._has_room(record):
                    self.dropped_payloads += 1
                    return
                self._payloads_in_line += 1
                self._payload_bytes += len(record.body)
            elif len(self._line) >= self._max_rows:
                self._make_room()
            self._line.append(_Waiting(record, self._clock()))

    def mark(self, marker: Marker) -> None:
        """Stand the marker in the line."""
        with self._lock:
            self._line.append(_Waiting(marker, self._clock()))

    def take(self) -> tuple[list[Record], list[Marker]]:
        """The next batch, and the markers that directly follow it. The bodies count until `done`."""
        batch: list[Record] = []
        markers: list[Marker] = []
        size = 0
        with self._lock:
            while self._line and len(batch) < _BATCH_ROWS and size < _BATCH_BYTES:
                item, since = self._line[0]
                if isinstance(item, Future):
                    markers.append(item)
                elif markers:
                    break
                else:
                    batch.append(item)
                    self._taken_since = since if self._taken_since is None else self._taken_since
                    if isinstance(item, Payload):
                        size += len(item.body)
                        self._payloads_in_line -= 1
                self._line.popleft()
        return batch, markers

    def done(self, batch: list[Record]) -> None:
        """Stop counting the bodies of a batch that was taken: it is written, or given up."""
        with self._lock:
            self._payload_bytes -= sum(len(item.body) for item in batch if isinstance(item, Payload))
            self._taken_since = None

    def lose(self, count: int) -> None:
        """Count rows that were lost after they were taken."""
        with self._lock:
            self.dropped_rows += count

    def _has_room(self, payload: Payload) -> bool:
        fits = self._payload_bytes + len(payload.body) <= self._max_payload_bytes
        return fits and len(self._line) < self._max_rows

    def _make_room(self) -> None:
        if self._payloads_in_line:
            kept = [waiting for waiting in self._line if not isinstance(waiting.item, Payload)]
            gone = sum(len(waiting.item.body) for waiting in self._line if isinstance(waiting.item, Payload))
            self.dropped_payloads += self._payloads_in_line
            self._payloads_in_line = 0
            self._payload_bytes -= gone
            self._line = deque(kept)
            return
        for index, waiting in enumerate(self._line):
            if not isinstance(waiting.item, Future):
                del self._line[index]
                self.dropped_rows += 1
                return
