"""What may be started as workers, when one that has ended gets a successor, and whose line is whose. Pure."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from ccflare_core.errors import ConfigError
from ccflare_core.workers import MOST

OPTION: Final = "--workers"
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A worker that has lived so long has not ended for the same reason as the one before it."""
_LONGEST_LINE: Final = 1024 * 1024
_BY_SIGNAL: Final = 128
"""What shells add to the number of the signal that has ended a program."""


class Wanted(NamedTuple):
    """How many workers, and mitmdump's words for each of them."""

    workers: int
    words: tuple[str, ...]


def is_asked(words: Sequence[str]) -> bool:
    """Whether workers are asked for."""
    return any(word == OPTION or word.startswith(f"{OPTION}=") for word in words)


def read(words: Sequence[str], programs: Sequence[str], platform: str) -> Wanted:
    """What is wanted. Raises ConfigError: `programs` have a page or a screen, of which there cannot be several."""
    if words[0] in programs:
        raise ConfigError(f"{OPTION} is for the proxy alone: `{words[0]}` shows what goes through one process")
    if platform != "linux":
        raise ConfigError(
            f"{OPTION} takes Linux, whose kernel deals connections out to several listeners; leave it out"
        )
    at = next(place for place, word in enumerate(words) if is_asked([word]))
    _, has_value, number = words[at].partition("=")
    after = at + 1 if has_value else at + 2
    number = number if has_value else "".join(words[at + 1 : after])
    rest = (*words[:at], *words[after:])
    if is_asked(rest):
        raise ConfigError(f"{OPTION} stands there twice; leave one of them out")
    if not (number.isdecimal() and number.isascii() and 1 <= int(number) <= MOST):
        raise ConfigError(f"{OPTION} takes a number from 1 to {MOST}, one for each core that is to serve")
    return Wanted(int(number), rest)


class Rests:
    """How long to wait before the next worker takes a place: longer each time, until one has lived for a while."""

    def __init__(self) -> None:
        self._next = 0.0

    def after(self, lived: float) -> float:
        """Seconds to wait after a worker that has lived for so long. The first is replaced at once."""
        if lived >= STEADY_SECONDS:
            self._next = 0.0
        pause = self._next
        self._next = min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
        return pause


def exit_code(codes: Sequence[int]) -> int:
    """That of the first that has failed, or as a shell says it if a signal was its end; 0 if none has."""
    failed = next((code for code in codes if code), 0)
    return failed if failed >= 0 else _BY_SIGNAL - failed


def ended(code: int) -> str:
    """How a worker has ended, in words."""
    if code >= 0:
        return f"with code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


class Lines:
    """Puts what workers write together, line by line, each with its worker's number."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._begun: dict[int, bytes] = {}
        self._is_json = False

    def take(self, number: int, data: bytes) -> Iterator[bytes]:
        """The lines that are whole with this; no data is the end of a worker, and of its last line."""
        *lines, rest = (self._begun.pop(number, b"") + data).split(b"\n")
        if rest and (not data or len(rest) > _LONGEST_LINE):
            lines, rest = [*lines, rest], b""
        if rest:
            self._begun[number] = rest
        for line in lines:
            yield self._numbered(number, line)

    def own(self, sentence: str) -> bytes:
        """A line of the supervisor's, in the form that the workers' lines have."""
        if not self._is_json:
            return f"[{self._now().astimezone():%H:%M:%S.%f}".encode()[:-3] + f"] {sentence}\n".encode()
        moment = self._now().isoformat(timespec="milliseconds")
        entry = {"ts": moment, "level": "INFO", "logger": "ccflare", "msg": sentence}
        return json.dumps(entry).encode() + b"\n"

    def _numbered(self, number: int, line: bytes) -> bytes:
        self._is_json = line.startswith(b"{") and line.endswith(b"}")
        if self._is_json:
            return b'{"worker": %d, %s\n' % (number, line[1:])
        return b"[%d] %s\n" % (number, line)
