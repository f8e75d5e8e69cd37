"""The log in a file of its own, beside the terminal's: turned over by size and age, compressed, written by a thread.

What it gets is what the terminal shows, so what is kept out of that is kept out of this. A message costs whoever logs
it no more than its formatting; a disk that is slow or full costs nobody anything but the messages.
"""

import atexit
import contextlib
import errno
import gzip
import io
import logging
import os
import queue
import re
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import NamedTuple

from ccflare_core.errors import ConfigError
from ccflare_core.files import draft

logger = logging.getLogger("ccflare")

DAY = 86_400
WAITING_MESSAGES = 10_000
"""How many may wait for the disk; further ones are left out."""
END_SECONDS = 3.0
"""How long the last ones may take at the end."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d:?\d\d")


class Bounds(NamedTuple):
    """When a file is turned over, and how many older ones are kept."""

    size: int
    days: int
    kept: int


class LineFormatter(logging.Formatter):
    """A record as text with its date; what follows its first line is indented, so that it cannot pass for another."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several of which only the first begins at the margin."""
        text = super().format(record).replace("\n", "\n    ")
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class LogFile:
    """The file and the thread that writes it; see the module. Raises ConfigError if it cannot be written."""

    def __init__(
        self, path: Path, bounds: Bounds, formatter: logging.Formatter, shows: Callable[[logging.LogRecord], bool]
    ) -> None:
        """`shows` tells whether a message is on the terminal too."""
        try:
            self._writing = TurnedFile(path, bounds)
        except OSError as error:
            why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
            remedy = "name a file in a folder that you can write to"
            raise ConfigError(f"ccflare_log_file: {path} cannot be written ({why}); {remedy}") from error
        waiting: queue.Queue[logging.LogRecord] = queue.Queue(WAITING_MESSAGES)
        self._taking = MessageQueue(waiting)
        self._taking.setFormatter(formatter)
        self._taking.addFilter(shows)
        self._listener = QueueListener(waiting, self._writing)

    def start(self) -> None:
        """Take all that is logged from now on, until the process ends."""
        self._listener.start()
        logging.getLogger().addHandler(self._taking)
        atexit.register(self.close)

    def close(self) -> None:
        """Take no more, and wait a little for what is on its way."""
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self._taking)
        ending = threading.Thread(target=self._end, daemon=True)  # a disk that hangs must not keep the process
        ending.start()
        ending.join(END_SECONDS)

    def _end(self) -> None:
        self._listener.stop()
        self._writing.close()


class MessageQueue(QueueHandler):
    """Formats each message where it is logged, and never waits."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._left_out = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Leave it out if too many wait, and say so in its place as soon as there is room again."""
        try:
            if self._left_out:
                note = logging.makeLogRecord({"name": record.name, "levelno": logging.WARNING, "levelname": "WARNING"})
                note.created, note.msg = (
                    record.created,
                    f"{self._left_out} messages are missing here: the disk was slow",
                )
                self.queue.put_nowait(self.prepare(note))
                self._left_out = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self._left_out += 1


class TurnedFile(RotatingFileHandler):
    """Writes lines to a file that is its owner's alone, and turns it over. That it cannot is told once."""

    def __init__(self, path: Path, bounds: Bounds, wall: Callable[[], float] = time.time) -> None:  # noqa: TID251
        self._seconds = bounds.days * DAY
        self._wall = wall
        self._trouble = self._told = ""
        super().__init__(path, maxBytes=bounds.size, backupCount=bounds.kept, encoding="utf-8")
        self.namer = "{}.gz".format
        self.rotator = compress
        self._begun = self._first_moment()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. Never raises."""
        self._trouble = ""
        super().emit(record)
        if bool(self._trouble) == bool(self._told):
            return
        self._told = self._trouble
        if self._trouble:
            logger.warning("the log file %s cannot be written (%s): see to it", self.baseFilename, self._trouble)
        else:
            logger.warning("the log file %s is written again; some messages are missing in it", self.baseFilename)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on with the file opened anew: what could not be written would stay in the way of what comes next."""
        problem = sys.exc_info()[1]
        self._trouble = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Whether the file is too large for one more line, or too old."""
        return bool(super().shouldRollover(record)) or self._wall() - self._begun >= self._seconds

    def doRollover(self) -> None:
        """Compress the file, drop the oldest one, and begin anew."""
        super().doRollover()
        self._begun = self._wall()

    def _open(self) -> io.TextIOWrapper:
        # Path.open takes no opener.
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=open_private)

    def _first_moment(self) -> float:
        """When the first line of the file was written; now, if there is none."""
        with Path(self.baseFilename).open("rb") as file:
            found = _MOMENT.search(file.read(100))
        return datetime.fromisoformat(found[0].decode()).timestamp() if found else self._wall()


def open_private(path: str, flags: int) -> int:
    """Open a regular file that only its owner can read from now on. Raises OSError."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        if status.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it belongs to another user")  # who could read it, were we root
        if status.st_nlink > 1:
            raise OSError(errno.EPERM, "it has a second name somewhere")  # by which it may be something else
        if status.st_mode & 0o077:
            os.fchmod(handle, 0o600)
    except BaseException:
        os.close(handle)
        raise
    return handle


def compress(source: str, target: str) -> None:
    """Put the file's lines compressed under the other name, and take the file away."""
    with draft(Path(target)) as packed:
        with Path(source).open("rb") as lines, gzip.open(packed, "wb") as out:
            shutil.copyfileobj(lines, out)
        packed.replace(target)
    Path(source).unlink()
