"""Tells a receiver of OpenTelemetry what has ended: a bounded queue, and one thread that does all the rest.

The event loop only puts a value into the queue. A receiver that is slow or away costs telemetry and nothing else: what
has no room, or does not arrive, is counted as lost, and the log has one line when that begins and one when it ends.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ccflare_core.config.record_mode import Mode
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.exchange.story import Story
from ccflare_core.telemetry.finished import Finished
from ccflare_core.telemetry.measuring import Measuring
from ccflare_core.telemetry.tracing import Tracing
from ccflare_core.text import some

logger = logging.getLogger("ccflare")

MOST_WAITING: Final = 2048
MOST_BYTES: Final = 32 * 1024 * 1024
"""Of bodies in the queue, where those are told."""
BATCH: Final = 256
"""Exchanges in one request to the receiver."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of their bodies. Receivers take some 20 MiB."""
LOOK_SECONDS: Final = 1.0
METRICS_SECONDS: Final = 60.0
FLUSH_SECONDS: Final = 3.0
"""How long the end may take."""
WAY_SECONDS: Final = 0.5


class Takes(Protocol):
    """A receiver, see receiver.py. Each gives why something has not arrived, "" if it has."""

    def take_spans(self, spans: Sequence[Any]) -> str: ...
    def take_metrics(self, metrics: Any) -> str: ...
    def give_up(self) -> None: ...


class Telemetry:
    """See the module. Without `tracing` or `measuring` there are no spans, or no metrics."""

    def __init__(
        self,
        receiver: Takes,
        tracing: Tracing | None,
        measuring: Measuring | None,
        tells_content: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receiver = receiver
        self._tracing = tracing
        self._measuring = measuring
        self._tells_content = tells_content
        self._clock = clock
        self._lock = threading.Lock()
        """Held for moments, never while anything is sent."""
        self._waiting: deque[Finished] = deque()
        self._waiting_bytes = 0
        self._told: set[str] = set()
        """Why some exchanges are lost, as far as the log has it."""
        self._wake = threading.Event()
        self._is_ending = False
        self._told_at = clock()
        self._thread = threading.Thread(target=self._run, name="ccflare-telemetry", daemon=True)
        self.problem: str | None = None
        """Why nothing arrives at the moment."""
        self.lost = 0
        """Exchanges whose telemetry did not arrive, since the start."""

    @property
    def state(self) -> str:
        """Whether it arrives, as far as is known: works, or failing."""
        return "works" if self.problem is None else "failing"

    # In the event loop

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def take(self, story: Story, row: ExchangeFinished, mode: Mode) -> None:
        """This exchange has ended and was recorded so. Never waits."""
        try:
            with_bodies = mode is Mode.FULL and self._tells_content()
            finished = Finished.of(story, row, with_bodies=with_bodies)
        except Exception as error:
            self._lose_one(_inside(error))
            return
        with self._lock:
            has_room = len(self._waiting) < MOST_WAITING and self._waiting_bytes <= MOST_BYTES
            if has_room:
                self._waiting.append(finished)
                self._waiting_bytes += finished.size
        if not has_room:
            self._lose_one("the receiver is too slow")
        elif len(self._waiting) >= BATCH:
            self._wake.set()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send what is left, for so long at the most. Blocks."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._receiver.give_up()
            self._thread.join(WAY_SECONDS)

    # In the thread

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            is_last = self._is_ending
            try:
                self.tell()
            except Exception as error:  # or there would be no telemetry any more
                self._note(_inside(error))

    def tell(self) -> None:
        """Send all that waits, and the metrics when it is time. Only the thread calls it, or a test without one."""
        while batch := self._next():
            self._tell_batch(batch)
            if self._are_metrics_due():  # under load there may always be one more batch
                self._tell_metrics()
        if self._is_ending or self._are_metrics_due():
            self._tell_metrics()

    def _are_metrics_due(self) -> bool:
        return self._clock() - self._told_at >= METRICS_SECONDS

    def _tell_metrics(self) -> None:
        self._told_at = self._clock()
        if self._measuring is not None and (counted := self._measuring.counted()) is not None:
            self._note(self._receiver.take_metrics(counted))

    def _next(self) -> list[Finished]:
        batch, size = list[Finished](), 0
        with self._lock:
            while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
                batch.append(self._waiting.popleft())
                size += batch[-1].size
            self._waiting_bytes -= size
        return batch

    def _tell_batch(self, batch: Sequence[Finished]) -> None:
        spans = [span for finished in batch for span in self._spans(finished)]
        if not spans:
            return
        try:
            problem = self._receiver.take_spans(spans)
        except Exception as error:  # the batch is lost, and counts as that
            problem = _inside(error)
        self._note(problem, len(batch))

    def _spans(self, finished: Finished) -> Sequence[Any]:
        """The spans of an exchange, which is counted, too. What one is like must not end this for all others."""
        try:
            if self._measuring is not None:
                self._measuring.count(finished)
            return self._tracing.spans(finished) if self._tracing is not None else ()
        except Exception as error:
            self._lose_one(_inside(error))
            return ()

    def _note(self, problem: str, number: int = 0) -> None:
        """So many exchanges have met this problem, or have arrived."""
        before, self.problem = self.problem, problem or None
        if problem:
            self._count_lost(number)
            if before is None:
                logger.warning("OpenTelemetry does not arrive, and requests go on without it: %s", problem)
        elif before is not None:
            logger.info("OpenTelemetry arrives again; that of %s is lost", some(self.lost, "exchange"))

    def _lose_one(self, why: str) -> None:
        """One exchange is lost, which says nothing of the others. Each reason is told once."""
        self._count_lost(1)
        if why not in self._told:
            self._told.add(why)
            logger.warning("OpenTelemetry does not hear of some exchanges: %s", why)

    def _count_lost(self, number: int) -> None:
        with self._lock:
            self.lost += number


def _inside(error: Exception) -> str:
    return f"an error inside the proxy ({type(error).__name__})"
