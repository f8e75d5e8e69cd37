"""How an answer is played, step by step, on any version of HTTP."""

import asyncio
import contextlib
import itertools
import socket
import struct
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from fake_upstream.answer import Answer, Cut, Gate, Step, Wait
from fake_upstream.request import Request

if TYPE_CHECKING:
    from fake_upstream.server import FakeUpstream


class Channel(Protocol):
    """Where an exchange writes: one HTTP/1.1 connection or one HTTP/2 stream."""

    blocked: bool

    def steps(self, answer: Answer) -> tuple[Step, ...]: ...
    def start(self, request: Request, answer: Answer) -> None: ...
    def write(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def finish(self, answer: Answer) -> None: ...
    def cut(self, cut: Cut) -> None: ...


class _Mark(Enum):
    HEAD = "the head goes out"
    END = "the answer is whole"


class Exchange:
    """One request being answered: plays the steps until one has to wait, and again when that is over."""

    def __init__(self, upstream: "FakeUpstream", channel: Channel, request: Request, answer: Answer) -> None:
        self._upstream = upstream
        self._channel = channel
        self._request = request
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._held = False  # at a wait or a gate: a connection that takes bytes again must not skip it
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        body = () if request.method == "HEAD" else channel.steps(answer)
        head = () if answer.raw else (_Mark.HEAD,)
        self._steps = itertools.chain(answer.before, head, body, (_Mark.END,))

    def play(self) -> None:
        """Go on until something has to be waited for, or the end."""
        if self._over or self._held or self._channel.blocked:
            return
        for step in self._steps:
            if type(step) is bytes:
                self._channel.write(step)
            elif not self._passes(step):
                break
            if self._channel.blocked:
                break
        if not self._over:
            self._channel.flush()

    def abort(self) -> None:
        """The client is gone."""
        if not self._over:
            self._end(aborted=True)

    def _passes(self, step: Step | _Mark) -> bool:
        """Whether the next step may follow at once."""
        match step:
            case _Mark.HEAD:
                self._channel.start(self._request, self._answer)
                return True
            case _Mark.END:
                self._end(aborted=False)
                self._channel.finish(self._answer)
                return False
            case Wait(seconds):
                self._due = (self._due or self._loop.time()) + seconds
                self._held = True
                self._timer = self._loop.call_at(self._due, self._go_on)
                return False
            case Gate():
                self._due = None
                self._channel.flush()
                self._held = not step.passes(self._wake)
                return not self._held
            case Cut():
                self._channel.flush()
                self._end(aborted=False)
                self._channel.cut(step)
                return False
        self._channel.write(step())  # type: ignore[operator]
        return True

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        self._held = False
        self.play()

    def _end(self, *, aborted: bool) -> None:
        self._over = True
        if self._timer:
            self._timer.cancel()
        self._upstream.note_end(self._request, aborted=aborted)


def reset_connection(transport: asyncio.Transport) -> None:
    """Close with a RST."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
