"""A mitmproxy script that measures how late a proxy is, and writes it down at the end.

What a busy machine keeps from running it keeps from both threads that a change has to pass in a proxy: the writer's,
which hears of it and gives way to others, and the event loop's. So a timer runs on each.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ccflare_core.process import be_less_urgent

BEAT_SECONDS = 0.01
LEAST_SECONDS = 0.001
"""What is less is no lateness: no timer is more exact."""

FILE = Path("late.json").absolute()
Tell = Callable[[tuple[float, float]], object]
"""Gets when a timer came (epoch seconds), and by how many seconds it was late."""


async def follow_loop(tell: Tell) -> None:
    """Tell whenever this event loop comes late, until cancelled."""
    while True:
        asked = time.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        _note(asked, tell)


def follow_thread(tell: Tell, is_over: threading.Event) -> None:
    """Tell whenever this thread comes late, which gives way as the writer does."""
    be_less_urgent()
    asked = time.monotonic() + BEAT_SECONDS
    while not is_over.wait(BEAT_SECONDS):
        _note(asked, tell)
        asked = time.monotonic() + BEAT_SECONDS


def _note(asked: float, tell: Tell) -> None:
    if (late := time.monotonic() - asked) >= LEAST_SECONDS:
        tell((time.time(), late))


class Beat:
    """See the module."""

    def running(self) -> None:
        self._loop: list[tuple[float, float]] = []
        self._thread: list[tuple[float, float]] = []
        self._is_over = threading.Event()
        self._task = asyncio.create_task(follow_loop(self._loop.append))
        threading.Thread(target=follow_thread, args=(self._thread.append, self._is_over), daemon=True).start()

    def done(self) -> None:
        self._is_over.set()
        FILE.write_text(json.dumps({"loop": self._loop, "thread": self._thread}))


addons = [Beat()]
