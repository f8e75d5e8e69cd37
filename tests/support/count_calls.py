"""A mitmproxy script that counts the calls of functions in the event loop's thread, and tells them at SIGUSR1."""

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType

FILE = Path("calls").absolute()


class CountCalls:
    """See the module: the number is in a file in the folder that the proxy was started in."""

    def __init__(self) -> None:
        self._calls = 0

    def running(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)
        sys.setprofile(self._count)

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self._calls += 1

    def _tell(self) -> None:
        told, unfinished = self._calls, FILE.with_suffix(".new")
        unfinished.write_text(str(told))
        unfinished.rename(FILE)
        self._calls = told  # telling counts for nothing


addons = [CountCalls()]
