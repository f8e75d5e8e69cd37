"""The standard streams of a command, also where the shell has closed one (`>&-`) or the disk behind one is full."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from ccflare_core.errors import CCFlareError


class Unwritable(CCFlareError):
    """What a command prints cannot be written. It may be a key that is shown once, so nobody may take it for done."""


def standard() -> tuple[TextIO, TextIO, TextIO]:
    """This process's standard input, output and errors. Writing to an output that takes nothing raises Unwritable."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a bar must not end a command on an ASCII terminal
    # A closed one is None, whatever its type says.
    return sys.stdin or io.StringIO(), cast(TextIO, _Output(sys.stdout)), sys.stderr or io.StringIO()


class _Output:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or _Closed()

    def write(self, text: str) -> int:
        with writing():
            return self._stream.write(text)

    def flush(self) -> None:
        with writing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextmanager
def writing() -> Iterator[None]:
    """Around what writes to standard output: raises Unwritable, but for a BrokenPipeError, of which nobody is told."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"Standard output cannot be written ({error.strerror}): send it somewhere else."
        raise Unwritable(message) from error


def drop(stream: TextIO | None) -> None:
    """Have what is still to be written go nowhere: Python would try again at exit, complain, and exit with 120."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
