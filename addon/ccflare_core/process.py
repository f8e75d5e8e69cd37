"""This process: keeps other programs out of its memory, and tells how much it takes.

Python cannot wipe a secret from memory, so nobody else may look at it: no core dump, no debugger, and on Linux
nothing in /proc that shows memory or environment, even to other programs of the same user.
"""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4


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


def resident_bytes() -> int | None:
    """How much memory this process occupies; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return None
