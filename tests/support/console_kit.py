"""mitmproxy's console in a pseudo terminal of its own, driven by keys."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fake_upstream import FakeUpstream
from harness import Proxy, eventually

LINES, COLUMNS = 40, 120
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x0e\x0f]")
TERMINAL: Mapping[str, str] = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Console(Proxy):
    """The console in a terminal of its own. What it draws is its log."""

    def __init__(self, upstream: FakeUpstream | None, folder: Path, **options: Any) -> None:
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
