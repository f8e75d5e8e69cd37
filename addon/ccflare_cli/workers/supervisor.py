"""Starts the workers, keeps as many as are wanted, passes signals on, and writes what they say into one log."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from ccflare_cli.workers.rules import Lines, Rests, ended, exit_code
from ccflare_core.process import leave_lost_terminal
from ccflare_core.workers import GO, PREPARED, SERVING, STOP, VARIABLE, Place

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OUT = 1
_PIECE = 64 * 1024
_LAST_WORDS_SECONDS = 5.0
"""How long a program that a worker has started may hold on to the worker's log."""


class Worker:
    """One process, from its start to its end."""

    def __init__(
        self, number: int, process: Process, says: StreamReader, ways: tuple[StreamReader, StreamWriter], log: "Log"
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.serves = False
        self._process = process
        self._hears, self._tells = ways
        self._begun_at = asyncio.get_running_loop().time()
        self._says = says
        self._writing = asyncio.ensure_future(self._write_down(log))

    @classmethod
    async def start(
        cls,
        number: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: "Log",
        *,
        is_first: bool,
        folder: str = "",
    ) -> Self:
        """A worker whose terminal's signals come through the supervisor alone. Raises OSError."""
        own, theirs = socket.socketpair()
        with theirs:
            place = Place(number, is_first, theirs.fileno(), folder)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                env={**environ, VARIABLE: str(place)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        says = process.stdout or StreamReader()
        return cls(number, process, says, await asyncio.open_connection(sock=own), log)

    async def is_prepared(self) -> bool:
        """Whether it could serve, once that is known; False if it has ended."""
        return await self._hear() == PREPARED

    async def go(self) -> bool:
        """Have it listen; whether it does."""
        self.tell(GO)
        self.serves = await self._hear() == SERVING
        return self.serves

    def tell(self, word: bytes) -> None:
        """Send it a message, which may be too late."""
        with contextlib.suppress(OSError):
            self._tells.write(word)

    async def end(self) -> tuple[int, float]:
        """Its exit code, and how long it has lived, once it has ended and all that it wrote is written down."""
        code = await self._process.wait()
        lived = asyncio.get_running_loop().time() - self._begun_at
        self.serves = False
        await asyncio.wait({self._writing}, timeout=_LAST_WORDS_SECONDS)
        self._writing.cancel()
        self._tells.close()
        return code, lived

    async def _hear(self) -> bytes:
        try:
            return await self._hears.read(1)
        except ConnectionError:
            return b""

    async def _write_down(self, log: "Log") -> None:
        while data := await self._says.read(_PIECE):
            log.take(self.number, data)
        log.take(self.number, b"")


class Log:
    """Standard output, for all of them."""

    def __init__(self, on_broken: Callable[[], None]) -> None:
        """`on_broken` is called once if nobody takes it any more."""
        self.is_broken = False
        self._lines = Lines()
        self._on_broken = on_broken

    def take(self, number: int, data: bytes) -> None:
        """Write down what a worker has written, line by line."""
        self._write(b"".join(self._lines.take(number, data)))

    def say(self, sentence: str) -> None:
        """Write a line of our own."""
        self._write(self._lines.own(f"ccflare: {sentence}"))

    def _write(self, data: bytes) -> None:
        while data and not self.is_broken:
            try:
                data = data[os.write(_OUT, data) :]
            except BlockingIOError:
                select.select([], [_OUT], [])
            except OSError:
                self.is_broken = True
                self._on_broken()


class Supervisor:
    """All workers of one proxy."""

    def __init__(self, command: Sequence[str], count: int, environ: Mapping[str, str]) -> None:
        self._command = command
        self._count = count
        self._environ = environ
        self._log = Log(self.stop)
        self._workers: dict[int, Worker] = {}
        self._codes: dict[int, int] = {}
        self._stop = asyncio.Event()
        self._folder = ""

    async def run(self) -> int:
        """Serve until a signal, or until no worker can be started; the exit code."""
        with tempfile.TemporaryDirectory(prefix="ccflare-", ignore_cleanup_errors=True) as self._folder:
            return await self._run()

    async def _run(self) -> int:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        if await self._open():
            pids = ", ".join(str(worker.pid) for worker in self._workers.values())
            self._log.say(f"{self._count} workers serve (pids {pids})")
        await asyncio.gather(*(self._keep(worker) for worker in [*self._workers.values()]))
        return exit_code([code for _, code in sorted(self._codes.items())]) or int(self._log.is_broken)

    def stop(self) -> None:
        """Have all end; the second time without waiting for open answers."""
        leave_lost_terminal()
        self._stop.set()
        for worker in self._workers.values():
            worker.tell(STOP)

    async def _open(self) -> bool:
        """Whether all serve. The first one starts alone, so that a mistake is told once; then they begin together."""
        first = await self._start(1, is_first=True)
        if not await first.is_prepared():
            return self._fail()
        others = [await self._start(number) for number in range(2, self._count + 1)]
        if not all([await worker.is_prepared() for worker in others]):
            return self._fail()
        if not all(await asyncio.gather(*(worker.go() for worker in (first, *others)))):
            return self._fail()
        return not self._stop.is_set()

    def _fail(self) -> bool:
        if not self._stop.is_set():
            self.stop()
        return False

    async def _start(self, number: int, *, is_first: bool = False) -> Worker:
        worker = await Worker.start(
            number, self._command, self._environ, self._log, is_first=is_first, folder=self._folder
        )
        self._workers[number] = worker
        if self._stop.is_set():
            worker.tell(STOP)
        return worker

    async def _keep(self, worker: Worker) -> None:
        """See to it that this worker has a successor whenever it ends, until the stop."""
        rests = Rests()
        while True:
            has_served = worker.serves
            code, lived = await worker.end()
            self._codes[worker.number] = code
            if self._stop.is_set():
                return
            if not has_served and not any(each.serves for each in self._workers.values()):
                self._log.say("no worker serves, and the next one has ended before it did: see what it says above")
                self.stop()
                return
            pause = rests.after(lived)
            when = f"in {pause:.0f} s" if pause else "now"
            self._log.say(f"worker {worker.number} (pid {worker.pid}) has ended {ended(code)}; another starts {when}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            if self._stop.is_set():
                return
            worker = await self._start(worker.number)
            if await worker.is_prepared() and await worker.go():
                self._log.say(f"worker {worker.number} serves again (pid {worker.pid})")
