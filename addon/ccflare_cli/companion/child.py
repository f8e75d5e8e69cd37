"""A program in the terminal's foreground: it gets the signals, its exit code is passed on, the terminal stays whole."""

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from ccflare_cli.console import Refused

_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
"""What a terminal sends to everything in its foreground by itself."""
_PASSED_ON = (*_OF_TERMINAL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_BY_SIGNAL = 128
"""What shells add to the number of the signal that has ended a program."""


class Child:
    """One that runs. It has our streams and our group of processes, so Ctrl-Z and `fg` hold for both."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        """Raises Refused if it cannot be started."""
        try:
            self._process = subprocess.Popen(words, env=environ)  # noqa: S603
        except OSError as error:
            raise Refused(f"{words[0]} cannot be started: {error.strerror}.") from None

    def wait(self) -> int:
        """Its exit code once it has ended, or as a shell says it if a signal was its end."""
        code = self._process.wait()
        return code if code >= 0 else _BY_SIGNAL - code

    def pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """A signal has come: the program gets it too, unless the terminal has sent it to both."""
        if number in _OF_TERMINAL and _is_in_foreground():
            return
        self._process.send_signal(number)


def run_in_foreground(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run it to its end and give its exit code. Raises Refused if it cannot be started. For the main thread alone."""
    with _kept_terminal(), _waiting_signals() as waiting:
        child = Child(words, environ)
        for number in _PASSED_ON:
            signal.signal(number, child.pass_on)
        for early in waiting:  # they came before there was anybody to get them
            child.pass_on(early)
        return child.wait()


@contextmanager
def _waiting_signals() -> Iterator[list[int]]:
    """Signals end nothing in the block: they are noted, until somebody else handles them."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: noted.append(number)) for number in _PASSED_ON}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Whether this process is one of those that the terminal sends signals to."""
    with suppress(OSError, ValueError, AttributeError):
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        finally:
            os.close(descriptor)
    return False


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """After the block the terminal is as before: a program that was killed leaves it as it had it."""
    try:
        before = termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ else None
    except (termios.error, OSError, ValueError):
        before = None
    try:
        yield
    finally:
        if before is not None and sys.__stdin__ and _is_in_foreground():
            with suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(sys.__stdin__.fileno(), termios.TCSADRAIN, before)
