"""Claude Code as a person has it in front of them: in a terminal, asked by keys, read off the screen."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import eventually

_STEERING = re.compile(r"\x1b\[[0-9;:?<>=]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()=>][A-Z0-9]?|\s")
_KNOWN = {"hasCompletedOnboarding": True, "theme": "dark", "numStartups": 5}
"""What it asks for at its first start."""


class Terminal:
    """What it has shown so far, without colours, places and blanks; and its keyboard."""

    def __init__(self, keyboard: int) -> None:
        self._keyboard = keyboard
        self._shown = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._keyboard, 65536)
            except OSError:  # it has ended
                return
            self._shown += data

    @property
    def text(self) -> str:
        """All that was shown, the old with the new."""
        return _STEERING.sub("", self._shown.decode("utf-8", "replace"))

    def wait_for(self, *words: str, times: int = 1) -> None:
        """Return once it has shown all of these words so often."""
        wanted = ["".join(word.split()) for word in words]
        eventually(lambda: self.text, lambda text: all(text.count(word) >= times for word in wanted))

    def say(self, prompt: str) -> None:
        """Type this, and send it once it stands there."""
        os.write(self._keyboard, prompt.encode())
        self.wait_for(prompt)
        os.write(self._keyboard, b"\r")


@contextmanager
def running(program: Path, home: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """It in a folder that it trusts, ready for a prompt."""
    trusted = {str(home): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}}
    (home / ".claude.json").write_text(json.dumps({**_KNOWN, "projects": trusted}))
    keyboard, screen = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [str(program)],
        cwd=home,
        env={**environment, "TERM": "xterm-256color"},
        stdin=screen,
        stdout=screen,
        stderr=screen,
        start_new_session=True,
    )
    os.close(screen)
    try:
        terminal = Terminal(keyboard)
        terminal.wait_for("❯")
        yield terminal
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        os.close(keyboard)
