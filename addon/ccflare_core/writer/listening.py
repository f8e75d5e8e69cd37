"""Wakes the writer as soon as another proxy announces a change on a PostgreSQL server; the writer's poll stays.

The connection that listens is waited for in a thread of its own. While there is none, or nothing arrives on it, changes
come by the poll.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Protocol

from ccflare_core.config.location import Server
from ccflare_core.db.announcements import ANYTHING, Channel, polled, unheard
from ccflare_core.errors import CCFlareError
from ccflare_core.writer.writer import Writer

_PAUSE_SECONDS = 0.05
"""After a wake, so that what is announced meanwhile takes one more: 20 a second at most."""
_WAIT_SECONDS = 1.0
"""How often to look whether the end has come."""
_RETRY_SECONDS = (0.1, 5.0)
_TEST_AGAIN_SECONDS = 60.0


class Hearing(Protocol):
    """A connection that listens, see announced.py."""

    def works(self, announce_test: Callable[[], object]) -> bool: ...
    def news(self, seconds: float) -> frozenset[str]: ...
    def close(self) -> None: ...


class Listening:
    """Whether changes are announced here, and what keeps them from it. Without a server nothing runs."""

    def __init__(
        self,
        writer: Writer,
        server: Server | None,
        hear: Callable[[Server, Channel], Hearing],
        *,
        say: Callable[[str], None],
    ) -> None:
        """`server` is where to listen, and `say` gets sentences for the log."""
        self._writer = writer
        self._server = server
        self._hear = hear
        self._say = say
        self._is_over = threading.Event()
        self._retry_seconds = _RETRY_SECONDS[0]
        self.works = False
        """Whether the last test arrived, on a connection that has not failed since."""
        self.problem: str | None = None
        """Why changes arrive by the poll, in a sentence; None also where that is all there is."""

    def start(self) -> None:
        """Begin, once the writer has started."""
        if self._server is not None:
            threading.Thread(target=self._run, args=(self._server,), name="ccflare-listening", daemon=True).start()

    def close(self) -> None:
        """Have the thread end within a second; nobody needs to wait for it."""
        self._is_over.set()

    def _run(self, server: Server) -> None:
        while not self._is_over.is_set():
            self._is_over.wait(self._listen(server))

    def _listen(self, server: Server) -> float:
        """Listen until that fails or the end comes; in how many seconds to try again."""
        try:
            channel = self._writer.call(lambda store: store.channel).result()
            if channel is None:
                raise CCFlareError(f"{server}: the database is on no server")
            with contextlib.closing(self._hear(server, channel)) as hearing:
                if not hearing.works(lambda: self._writer.call(lambda store: store.announce_test()).result()):
                    self._fail(unheard(server))
                    return _TEST_AGAIN_SECONDS
                self._recover()
                self._wake_until_the_end(hearing)
                return 0.0
        except CCFlareError as error:
            return self._failed(str(error))

    def _wake_until_the_end(self, hearing: Hearing) -> None:
        self._writer.wake(ANYTHING)
        while not self._is_over.is_set():
            if kinds := hearing.news(_WAIT_SECONDS):
                self._writer.wake(kinds)
                self._is_over.wait(_PAUSE_SECONDS)

    def _failed(self, why: str) -> float:
        """A connection that worked is made anew at once, and nobody but the writer needs to know unless that fails."""
        self._writer.hears(False)
        seconds = self._retry_seconds
        if seconds:
            self._fail(why)
        self._retry_seconds = min(max(2 * seconds, _RETRY_SECONDS[0]), _RETRY_SECONDS[1])
        return seconds

    def _fail(self, why: str) -> None:
        told, self.works = self.problem, False
        self._writer.hears(False)
        self.problem = polled(why)
        if told is None:
            self._say(self.problem)

    def _recover(self) -> None:
        told, self.works, self._retry_seconds = self.problem, True, 0.0
        self._writer.hears(True)
        self.problem = None
        if told is not None:
            self._say("changes by other proxies arrive at once again")
