"""This process: keeps other programs out of its memory, tells how much it takes, and outlives its terminal.

It also says which of its threads can wait.

Python cannot wipe a secret from memory, so nobody else may look at it: no core dump, no debugger, and on Linux
nothing in /proc that shows memory or environment, even to other programs of the same user.
"""

import contextlib
import ctypes
import errno
import os
import resource
import sys
import termios
import threading
from pathlib import Path

_PR_SET_DUMPABLE = 4
_LESS_URGENT = 5


def hide_memory() -> bool:
    """Switch off core dumps and, on Linux, every look inside from outside. Whether both are off now.

    Profilers (py-spy) and debuggers then need root. A process that this one starts is not affected, except that
    it dumps no core either.
    """
    hidden = True
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        hidden = False
    if sys.platform != "linux":
        return hidden
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 and hidden
    except (OSError, AttributeError):
        return False


def leave_lost_terminal() -> None:
    """Put something else in the place of a terminal that has gone, for what reads from it or writes to it meanwhile.

    A read there would give nothing at once, for ever, and a write an error. Output goes nowhere from now on; input is
    a terminal on which nobody types, since who has set up the old one will want to reset it. A signal's handler may
    call it.
    """
    lost = [number for number in range(3) if _is_lost_terminal(number)]
    if 0 in lost:
        _, silence = os.openpty()  # whose other end stays open, with this process
        os.set_blocking(silence, False)
        os.dup2(silence, 0)
    if lost:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in lost:
            if number != 0:
                os.dup2(nowhere, number)


def _is_lost_terminal(number: int) -> bool:
    try:
        termios.tcgetattr(number)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False


def resident_bytes() -> int | None:
    """How much memory this process occupies; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return None


def give_back_memory() -> None:
    """Hand back to the system what was freed, where the C library is one that keeps it (glibc). Takes milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def be_less_urgent() -> None:
    """Have the calling thread give way to the others of this process where the system knows that of threads (Linux).

    Only a little: while it computes it holds the interpreter's lock, and beside programs that use the whole machine a
    thread of the lowest priority would not get to hand it on. With those, 5 costs the event loop nothing, and 15 makes
    its longest waits three times as long.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LESS_URGENT)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine with that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
