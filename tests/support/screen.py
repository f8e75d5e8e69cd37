"""A terminal of a given width, for what writes to one: a real pseudo terminal, read as it is written to."""

import fcntl
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """`stream` writes to it."""

    def __init__(self, stream: TextIO, keyboard: int) -> None:
        self.stream = stream
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, args=(keyboard,), daemon=True)
        self._reader.start()

    def _read(self, keyboard: int) -> None:
        while True:
            try:
                data = os.read(keyboard, 65536)
            except OSError:  # nobody has it open any more
                data = b""
            if not data:
                return
            self._shown += data

    def lines(self) -> list[str]:
        """What was written, without colours. Nothing more can be written after that."""
        return _COLOUR.sub("", self.text()).splitlines()

    def text(self) -> str:
        """What was written. Nothing more can be written after that."""
        self.stream.close()
        self._reader.join(30)
        return self._shown.decode(self.stream.encoding)


@contextmanager
def screen(columns: int, *, encoding: str = "utf-8") -> Iterator[Screen]:
    """One that is so wide."""
    keyboard, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    stream = os.fdopen(terminal, "w", encoding=encoding, errors="replace")
    try:
        yield Screen(stream, keyboard)
    finally:
        stream.close()
        os.close(keyboard)
