"""The load generator of scripts/bench: reads a job as JSON, sends it, prints as JSON what it saw.

A process of its own, so that it takes nothing from the measured program but its share of the machine. It imports the
standard library alone, starts in 60 ms, and of an answer it reads no more than where it ends: some 50 microseconds
a request. Every answer that is no whole 200 is counted as failed. Count and time are bounded.
"""

import asyncio
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

_STAMP = re.compile(rb"@(\d{6,})@")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_HEAD, _CHUNKS = -2, -1


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What to send. In it, NUMBER stands for the number of the connection, or of the request.

    With a `turn` each connection is a conversation: its body has everything that was said before in GROWTH's place,
    as an agent's requests have.
    """

    port: int
    head: str
    """The request's head with the empty line, and LENGTH in it."""
    body: str
    turn: str = ""
    """What each request of a conversation adds; NUMBER is that of the request there."""
    connections: int = 1
    seconds: float = 60.0
    """How long requests are begun, from the end of the warm-up."""
    warmup: float = 0.0
    """Seconds at the start of which nothing is counted."""
    most: int = 1_000_000
    """Requests at most."""
    fresh: bool = False
    """A new connection for every request."""
    rate: float = 0.0
    """Requests per second, whatever is still open; 0 sends the next one when one was answered."""
    stagger: float = 0.0
    """Seconds between the starts of two connections."""
    stamped: bool = False
    """The events say when they were sent."""
    unique: bool = False
    """NUMBER is that of the request: no two are alike."""
    patience: float = 30.0
    """Seconds after which requests that are still open have failed."""


NUMBER, GROWTH, LENGTH = "########", "@growth@", "@length@"


class Load:
    """One job being done."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sent = self.completed = self.counted = self.failed = 0
        self.trouble = ""
        self.first: list[int] = []
        """Nanoseconds from a request to the first byte of its answer's body."""
        self.delays: list[int] = []
        """Nanoseconds from a stamp to its arrival."""
        self.idle: asyncio.Queue[Connection] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self.counts_from = self._began + job.warmup
        self.ends = self.counts_from + job.seconds
        self._last = self._began
        self._over = asyncio.Event()
        self._connecting: set[asyncio.Task[Any]] = set()

    async def run(self) -> dict[str, object]:
        """Do it, and say what was seen."""
        for number in range(self.job.connections):
            self._loop.call_later(number * self.job.stagger, self.connect, number)
        if self.job.rate:
            await self._pace()
        try:
            await asyncio.wait_for(self._over.wait(), self.job.warmup + self.job.seconds + self.job.patience)
        except TimeoutError:
            self.fail("no answer in time", self.sent - self.completed - self.failed)
        return self._report()

    def connect(self, number: int) -> None:
        """Open a connection; it begins by itself, unless requests are paced."""
        connecting = self._loop.create_connection(lambda: Connection(self, number), "127.0.0.1", self.job.port)
        task = self._loop.create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def may_send(self) -> bool:
        """Whether another request may begin; it is counted as sent then."""
        if self.sent >= self.job.most or time.monotonic() >= self.ends:
            self._check_end()
            return False
        self.sent += 1
        return True

    def note(self, first: int) -> None:
        """A whole answer is here."""
        self.completed += 1
        self._last = time.monotonic()
        if self.counts_from <= self._last <= self.ends:
            self.counted += 1
            self.first.append(first)
        self._check_end()

    def fail(self, why: str, count: int = 1) -> None:
        """Requests that got no good answer."""
        self.failed += count
        self.trouble = self.trouble or why
        self._check_end()

    def _connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.sent += 1
            self.fail(str(error))

    def _check_end(self) -> None:
        is_last = self.sent >= self.job.most or time.monotonic() >= self.ends
        if is_last and self.completed + self.failed >= self.sent:
            self._over.set()

    async def _pace(self) -> None:
        for beat in range(self.job.most):
            await asyncio.sleep(self._began + 0.2 + beat / self.job.rate - time.monotonic())
            connection = await asyncio.wait_for(self.idle.get(), self.job.patience)
            if not self.may_send():
                return
            connection.send()

    def _report(self) -> dict[str, object]:
        first, delays = sorted(self.first), sorted(self.delays)
        return {
            "completed": self.completed,
            "counted": self.counted,
            "seconds": max(min(self._last, self.ends) - self.counts_from, 1e-9),
            "failed": self.failed,
            "trouble": self.trouble,
            "first_ms": [percentile(first, p) / 1e6 for p in (50, 99)],
            "delay_ms": [percentile(delays, p) / 1e6 for p in (50, 99)],
            "stamps": len(delays),
            "window": [self.counts_from, self._last],
        }


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._number = number
        self._transport: asyncio.Transport
        self._head, self._before, self._after = self._parts(number)
        self._said = b""
        self._data = self._make()
        self._pending = b""
        self._line = b""  # the beginning of an event's line whose rest has not come yet
        self._left = _HEAD
        self._is_open = False
        self._at = self._first = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._next()

    def send(self) -> None:
        """Send a request; the load has counted it."""
        if self._load.job.unique:
            self._head, self._before, self._after = self._parts(self._load.sent)
            self._data = self._make()
        elif self._load.job.turn:
            self._said += numbered(self._load.job.turn, self._load.sent)
            self._data = self._make()
        self._left, self._pending, self._line, self._first, self._is_open = _HEAD, b"", b"", 0, True
        self._at = time.monotonic_ns()
        self._transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._left == _HEAD:
            head, end, data = (self._pending + data).partition(b"\r\n\r\n")
            if not end:
                self._pending = head
                return
            self._start(head)
        if data and not self._first:
            self._first = now - self._at
        if self._left == _CHUNKS:
            if self._load.job.stamped:
                self._read_stamps(data, now)
            self._pending = (self._pending + data)[-len(_LAST_CHUNK) :]
            if self._pending == _LAST_CHUNK:
                self._end()
        elif self._left >= 0:
            self._left -= len(data)
            if self._left == 0:
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_open:
            self._load.fail(f"the connection was lost: {exc or 'closed'}")

    def _parts(self, number: int) -> tuple[bytes, bytes, bytes]:
        """The head, and the body before and after what has been said."""
        job = self._load.job
        before, _, after = job.body.partition(GROWTH)
        return numbered(job.head, number), numbered(before, number), after.encode()

    def _make(self) -> bytes:
        after = self._after.replace(NUMBER.encode(), b"%08x" % self._load.sent)
        body = b"".join((self._before, self._said, after))
        return self._head.replace(LENGTH.encode(), b"%d" % len(body)) + body

    def _next(self) -> None:
        if self._load.job.rate:
            self._load.idle.put_nowait(self)
        elif self._load.may_send():
            self.send()
        else:
            self._transport.close()

    def _start(self, head: bytes) -> None:
        self._pending = b""
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else _CHUNKS
        if head[9:12] != b"200":
            self._is_open = False
            self._load.fail(head[:200].decode("latin-1"))
            self._transport.abort()

    def _read_stamps(self, data: bytes, now: int) -> None:
        data = self._line + data
        self._line = data[data.rfind(b"\n") + 1 :]
        if now >= self._load.counts_from * 1e9:
            self._load.delays += [now - int(stamp) for stamp in _STAMP.findall(data)]

    def _end(self) -> None:
        self._is_open = False
        self._load.note(self._first)
        if self._load.job.fresh:
            self._transport.close()
            self._load.connect(self._number)
        else:
            self._next()


def numbered(text: str, number: int) -> bytes:
    """The text with a number in its places."""
    return text.replace(NUMBER, f"{number:08x}").encode()


def percentile(ordered: Sequence[int], percent: int) -> float:
    """The value below which so many per cent of an ordered list lie; 0 if it is empty."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


async def main() -> None:
    """Do the job on standard input."""
    print(json.dumps(await Load(Job(**json.load(sys.stdin))).run()))


if __name__ == "__main__":
    asyncio.run(main())
