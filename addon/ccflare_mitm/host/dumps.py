"""Flow dumps that only their owner can read: `-w` and HAR files hold the clients' headers and all bodies in clear."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mitmproxy import ctx

PRIVATE_UMASK = 0o077
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_private() -> None:
    """Make all that this process writes from now on its owner's alone, and look at each file that `-w` opens.

    mitmproxy opens the first one before it loads us.
    """
    os.umask(PRIVATE_UMASK)
    save: Any = ctx.master.addons.get("save")
    if save is not None:
        save.maybe_rotate_to_new_file = checked(save, save.maybe_rotate_to_new_file)


def problems(options: Any) -> Iterator[str]:
    """What is wrong with the files that `-w` and `hardump` name, a sentence each."""
    save: Any = ctx.master.addons.get("save")
    if save is not None and save.stream is not None:
        try:
            claim(save.stream.fo)
        except OSError as error:
            yield f"save_stream_file: {error.strerror}."
    har = Path(getattr(options, "hardump", "") or "-").expanduser()
    if har.is_file() and har.stat().st_mode & OTHERS:
        yield f"hardump: others can read {har}; remove it, or run chmod 600 on it."
    elif har.is_file() and har.stat().st_uid != os.geteuid():
        yield f"hardump: {har} belongs to another user; remove it, or name another file."


def checked(save: Any, rotate: Callable[[], None]) -> Callable[[], None]:
    """As `rotate`, which opens the next file if it is time for one; OSError if others could read that one."""

    def rotate_and_claim() -> None:
        before = save.stream
        rotate()
        if save.stream is not before:
            claim(save.stream.fo)

    return rotate_and_claim


def claim(file: IO[bytes]) -> None:
    """Make a dump its owner's alone. OSError if it holds something already that others can read, or is not ours.

    A new file and one that `-w` has emptied are taken over; to one that is appended to, somebody may have been given
    access on purpose.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return
    if status.st_uid != os.geteuid():  # who could read it, were we root
        raise OSError(0, f"{file.name} belongs to another user; name another file, or run chown {os.geteuid()} on it")
    if not status.st_mode & OTHERS:
        return
    if status.st_size:
        raise OSError(0, f"others can read {file.name}; name another file, or run chmod 600 on it")
    os.fchmod(file.fileno(), 0o600)
