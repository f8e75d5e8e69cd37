"""mitmproxy's console with our addon, in a pseudo terminal: it starts, serves, shows, and leaves when it is told to."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import FakeUpstream
from harness import Proxy, claude_request, eventually, via_base_url

LINES, COLUMNS = 40, 120
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x0e\x0f]")
TERMINAL: Mapping[str, str] = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Console(Proxy):
    """The console in a terminal of its own. What it draws is its log."""

    def __init__(self, upstream: FakeUpstream, folder: Path, **options: Any) -> None:
        super().__init__(upstream, folder=folder, program="mitmproxy", environment=TERMINAL, **options)
        self._keyboard, self._screen = pty.openpty()
        self._is_left = threading.Event()
        self._reader = threading.Thread(target=self._copy_screen, daemon=True)
        self._resources.callback(self.leave)
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=self._screen,
            stdout=self._screen,
            stderr=self._screen,
            env=self._environment,
            cwd=self.folder,
            start_new_session=True,
        )
        os.close(self._screen)
        self._reader.start()
        return process

    def _copy_screen(self) -> None:
        """Take what it draws, until it has gone: a full terminal would stop it."""
        with self.log_file.open("ab", buffering=0) as log, contextlib.suppress(OSError):
            while not self._is_left.is_set():
                if select.select([self._keyboard], [], [], 0.1)[0]:
                    log.write(os.read(self._keyboard, 65536))

    def leave(self) -> None:
        """Close the terminal, as one closes a window."""
        if not self._is_left.is_set():
            self._is_left.set()
            if self._reader.is_alive():
                self._reader.join(30)
            os.close(self._keyboard)

    def press(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def shown(self, text: str) -> None:
        """Wait until it has drawn this, in whatever colours."""
        eventually(lambda: CONTROL.sub("", self.log()), lambda drawn: text in drawn)

    def wait(self) -> int:
        return self._running().wait(60)


@pytest.fixture
def console(upstream: FakeUpstream, tmp_path: Path) -> Iterator[Console]:
    console = Console(upstream, tmp_path, ccflare_log_level="debug")
    console.add_api_key("one", "sk-ant-api03-one")
    with console:
        yield console


def ends_well(console: Console) -> bool:
    """Whether it ended with status 0, without an error, and has written down that its run is over."""
    status = console.wait()
    (run,) = console.rows("SELECT ended_at FROM runs")
    return status == 0 and run["ended_at"] is not None and "Traceback" not in console.log()


def test_the_console_serves_shows_and_leaves_by_its_keys(console: Console) -> None:
    with via_base_url(console) as client:
        assert client.request(*claude_request()).status == 200
    console.shown("/v1/messages")

    console.press("q")
    console.shown("Quit (")
    console.press("y")

    assert ends_well(console)


def test_the_console_leaves_by_a_signal(console: Console) -> None:
    console.stop(signal.SIGTERM)

    assert ends_well(console)


def test_the_console_leaves_when_its_terminal_has_gone(console: Console) -> None:
    """It reads nothing from there without end, and would not see the signal by itself."""
    with via_base_url(console) as client:
        assert client.request(*claude_request()).status == 200
    console.shown("/v1/messages")

    console.leave()
    os.kill(console.pid, signal.SIGHUP)

    assert ends_well(console)
    (row,) = console.rows("SELECT outcome FROM requests")
    assert row["outcome"] == "ok"


def test_the_consoles_screen_gets_no_log_line(console: Console) -> None:
    """With ccflare_log_level=debug, which in a terminal shows what the event log has here."""
    with via_base_url(console) as client:
        client.request(*claude_request())
    console.shown("/v1/messages")

    assert "[debug]" not in console.log()


def test_the_console_says_why_it_does_not_start(upstream: FakeUpstream, tmp_path: Path) -> None:
    console = Console(upstream, tmp_path, ccflare_hold_seconds="soon")

    with pytest.raises(RuntimeError, match="ended with 1"):
        console.start()

    assert "ccflare: ccflare_hold_seconds: " in console.log()
    assert "Traceback" not in console.log()
    console.close()
