"""The audit log's second sink: a file of JSON lines, each with its row's number and hash.

A change of the database has to be made in this file as well, so it is best shipped elsewhere. It is opened anew for
each write: whatever turns log files over may rename it.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 2.0
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class AuditFile:
    """Appends lines to a file that only its owner can read. Never raises, and never waits longer than `seconds`."""

    def __init__(self, path: Path, seconds: float = _SECONDS) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why the last write failed, as a sentence."""
        self._seconds = seconds
        self._thread: threading.Thread | None = None

    def write(self, lines: Sequence[bytes]) -> bool:
        """Append the lines in one piece; whether that worked.

        A file system that hangs cannot be interrupted, so a thread waits for it. While it does, lines are missed.
        """
        if self._thread is not None and self._thread.is_alive():
            return self._miss("it does not answer")
        outcome: list[str | None] = []
        self._thread = threading.Thread(target=self._append, args=(b"".join(lines), outcome), daemon=True)
        self._thread.start()
        self._thread.join(self._seconds)
        if not outcome:
            return self._miss("it does not answer")
        if outcome[0] is not None:
            return self._miss(outcome[0])
        self.trouble = None
        return True

    def _miss(self, why: str) -> bool:
        self.trouble = f"the second copy of the audit log, {self.path}, cannot be written ({why}): see to that file"
        return False

    def _append(self, data: bytes, outcome: list[str | None]) -> None:
        try:
            handle = os.open(self.path, _FLAGS, 0o600)
            try:
                written = os.write(handle, data)
            finally:
                os.close(handle)
            outcome.append(None if written == len(data) else "there was no room for all of it")
        except OSError as error:
            outcome.append(error.strerror or str(error))
