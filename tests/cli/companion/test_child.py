"""A program in the foreground: signals, exit codes and the terminal, with real processes."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest

from ccflare_cli.companion.child import run_in_foreground
from ccflare_cli.console import Refused
from harness import REPOSITORY, eventually

PYTHON = sys.executable
WRAPPER = """
import fcntl, os, sys, termios
sys.path.insert(0, sys.argv[1])
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from ccflare_cli.companion.child import run_in_foreground
code = run_in_foreground([sys.executable, "-c", sys.argv[2]], os.environ)
print("code", code, flush=True)
"""
LISTENING = """
import os, signal, sys, time
def note(number, frame):
    print(signal.Signals(number).name, *(os.get_terminal_size(0) if number == signal.SIGWINCH else ()), flush=True)
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
    signal.signal(each, note)
print("ready", flush=True)
while not os.path.exists(os.environ["UNTIL"]):
    time.sleep(0.02)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 15)", 143),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_the_exit_code_is_the_programs_or_tells_its_signal(code: str, told: int) -> None:
    before = signal.getsignal(signal.SIGTERM)

    assert run_in_foreground([PYTHON, "-c", code], os.environ) == told
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_that_cannot_be_started_is_refused() -> None:
    with pytest.raises(Refused, match="/no/such cannot be started"):
        run_in_foreground(["/no/such"], {})


class Running(NamedTuple):
    """A wrapper, the end of its terminal (or of a pipe) that we hold, and the file that ends its program."""

    process: "subprocess.Popen[bytes]"
    keyboard: int
    until: str
    shown: bytearray

    def wait_for(self, text: str) -> str:
        def look() -> bytes:
            os.set_blocking(self.keyboard, False)
            with suppress(OSError):
                self.shown.extend(os.read(self.keyboard, 4096))
            return bytes(self.shown)

        return eventually(look, lambda shown: text.encode() in shown).decode()

    def end(self) -> str:
        with open(self.until, "w"):  # noqa: PTH123
            pass
        shown = self.wait_for("code 7")
        self.process.wait(60)
        return shown


@contextmanager
def wrapped(code: str, until: str) -> Iterator[Running]:
    """The program behind a wrapper that has a terminal of its own."""
    keyboard, screen = os.openpty()
    process = subprocess.Popen(
        [PYTHON, "-c", WRAPPER, str(REPOSITORY / "addon"), code],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=os.environ | {"UNTIL": until},
        start_new_session=True,
    )
    try:
        yield Running(process, keyboard, until, bytearray())
    finally:
        process.kill()
        process.wait()
        os.close(screen)
        os.close(keyboard)


@pytest.fixture
def listening(tmp_path: object) -> Iterator[Running]:
    with wrapped(LISTENING, f"{tmp_path}/until") as running:
        running.wait_for("ready")
        yield running


def test_what_the_terminal_sends_reaches_the_program_once_and_does_not_end_the_wrapper(listening: Running) -> None:
    os.write(listening.keyboard, b"\x03")
    listening.wait_for("SIGINT")
    fcntl.ioctl(listening.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    listening.wait_for("SIGWINCH 77 33")

    assert listening.end().count("SIGINT") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_somebody_sends_to_the_wrapper_reaches_the_program(listening: Running, number: signal.Signals) -> None:
    listening.process.send_signal(number)
    listening.wait_for(number.name)

    assert listening.end().count(number.name) == 1


def test_a_program_that_is_killed_leaves_the_terminal_as_it_was(tmp_path: object) -> None:
    raw = "import os, tty; tty.setraw(0); os.kill(os.getpid(), 9)"
    keyboard, screen = os.openpty()
    before = termios.tcgetattr(screen)
    command = [PYTHON, "-c", WRAPPER, str(REPOSITORY / "addon"), raw]
    try:
        subprocess.run(command, stdin=screen, stdout=screen, stderr=screen, start_new_session=True, timeout=60)
        assert termios.tcgetattr(screen) == before
    finally:
        os.close(screen)
        os.close(keyboard)
