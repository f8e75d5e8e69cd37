"""What is answered: the steps of an answer, and what HTTP/1.1 makes of them."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from typing import NamedTuple

from fake_upstream.request import Header


class Wait(NamedTuple):
    """Do nothing for a while. Successive waits keep their pace: each counts from the one before."""

    seconds: float


class Cut(NamedTuple):
    """End the connection here: a FIN, a RST with `reset`, or on HTTP/2 with `stream` only a RST_STREAM."""

    reset: bool = False
    stream: bool = False


class Gate:
    """Holds an answer at one point until the test opens it; `reached` is set when the answer got there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._is_open = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        return self._is_open

    def open(self) -> None:
        """Let everything held here go on, now and later."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def passes(self, resume: Callable[[], None]) -> bool:
        """Whether the way is free; if not, `resume` is called once it is, from the opener's thread."""
        with self._lock:
            is_free = self._is_open
            if not is_free:
                self._waiting.append(resume)
        self.reached.set()
        return is_free


# A callable makes its bytes at the moment they are sent.
Step = bytes | Wait | Gate | Cut | Callable[[], bytes]


@dataclass(frozen=True)
class Answer:
    """A scripted answer: what happens before the head, the head, and the body's chunks, a write for each.

    Without a content-length the body is chunked (HTTP/1.1). With `raw` there is no head and no framing: the
    chunks are the bytes on the wire. `close` ends the connection after the answer, without having said so.
    """

    status: int = 200
    headers: tuple[Header, ...] = ()
    chunks: tuple[Step, ...] = ()
    before: tuple[Step, ...] = ()
    close: bool = False
    raw: bool = False

    @cached_property
    def is_chunked(self) -> bool:
        """Whether HTTP/1.1 needs chunked framing for it."""
        has_body = self.status >= 200 and self.status not in (204, 304)
        return has_body and not self.raw and self.header(b"content-length") is None

    @cached_property
    def is_whole(self) -> bool:
        """Whether it is a head and one known body, which go out in one write."""
        return (
            not (self.before or self.close or self.raw or self.is_chunked)
            and len(self.chunks) <= 1
            and all(type(chunk) is bytes for chunk in self.chunks)
        )

    @cached_property
    def head(self) -> bytes:
        """The HTTP/1.1 head without its `request-id` line and its end."""
        lines = [
            b"HTTP/1.1 %d %s" % (self.status, reason(self.status)),
            b"Date: " + formatdate(usegmt=True).encode(),
        ]
        lines += [name + b": " + value for name, value in self.headers if name.lower() != b"request-id"]
        if self.is_chunked:
            lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n"

    @cached_property
    def frames(self) -> tuple[Step, ...]:
        """The chunks as HTTP/1.1 carries them."""
        return tuple(_frame(chunk) for chunk in self.chunks) if self.is_chunked else self.chunks

    @cached_property
    def request_id(self) -> str:
        """The `request-id` it was given, "" if each request gets a new one."""
        return (self.header(b"request-id") or b"").decode()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def reason(status: int) -> bytes:
    with contextlib.suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b""  # 529 has no name


def _frame(step: Step) -> Step:
    if isinstance(step, bytes):
        return b"%x\r\n%s\r\n" % (len(step), step) if step else b""
    if callable(step):
        return lambda: b"%x\r\n%s\r\n" % (len(data := step()), data)
    return step
