"""What goes on, told to those who look on: requests as they open, proceed and close, and the accounts.

Those of the other proxies on the database are among them: each tells what is open with it while somebody looks on.

Nothing is noted while nobody looks. While somebody does, all that is open is looked through twice a second, and what
has changed since the last look is told as server-sent events, the same to all.
"""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from ccflare_core.anthropic.answers import Answer, event_stream, rejected
from ccflare_core.clients.keys import Permission
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.story import Story
from ccflare_core.http.rejection import Rejection
from ccflare_core.reports.fields import DOING, EXCHANGE, record
from ccflare_core.reports.running import running
from ccflare_mitm.pages.elsewhere import Elsewhere, Told
from ccflare_mitm.pages.standing import Standing
from ccflare_mitm.pages.viewers import MOST, Viewer, Viewers
from ccflare_mitm.pages.visit import Visit

logger = logging.getLogger("ccflare")

PAUSE: Final = 0.5
"""Seconds between two looks."""
QUIET_SECONDS: Final = 15.0
"""After so long without an event there is a comment, so that nothing on the way takes the connection for dead."""
FOLLOWED: Final = 100
"""Open requests that are told of at once, those that have been open for longest, and ends of others in a look."""
BEGINNING: Final = b"retry: 2000\n\n"
"""A browser that has lost the connection asks again after so many ms."""
SIGN_OF_LIFE: Final = b":\n\n"

FULL = Rejection(
    503, f"{MOST} viewers look on already: ask again when one has left.", retry_after=30, is_recorded=False
)
STOPPING = Rejection(503, "The proxy is stopping.", is_recorded=False)


class Events:
    """See the module. `clock` is monotonic, `wall` in epoch seconds."""

    def __init__(
        self,
        exchanges: Exchanges,
        standing: Standing,
        wall: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        *,
        elsewhere: Elsewhere,
        name: Callable[[], str],
    ) -> None:
        """`name` is this proxy's."""
        self._elsewhere = elsewhere
        self._name = name
        self._exchanges = exchanges
        self._standing = standing
        self._wall = wall
        self._clock = clock
        self._viewers = Viewers()
        self._is_watched = asyncio.Event()
        self._told: dict[str, Told] = {}
        self._accounts: list[dict[str, Any]] = []
        self._ended: list[Story] = []
        self._spoke_at = 0.0

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks on."""
        return self._is_watched.is_set()

    def answer(self, visit: Visit, permission: Permission) -> Answer:
        """The stream, for as long as this visitor has the permission; a refusal if too many look on already."""
        if self._viewers.is_closed:
            return rejected(STOPPING)
        if not self._viewers.has_room:
            return rejected(FULL)
        return event_stream(partial(self._join, partial(self._standing.may, visit, permission)))

    def _join(self, may_stay: Callable[[], bool]) -> Viewer:
        viewer = self._viewers.join(may_stay)
        if not (self._is_watched.is_set() or viewer.is_closed):
            self._exchanges.ended.append(self._note_end)
            self._is_watched.set()
        return viewer

    def _note_end(self, story: Story) -> None:
        if story.id in self._told or len(self._ended) < FOLLOWED:
            self._ended.append(story)

    async def run(self) -> None:
        """Look again and again, while there is somebody to tell."""
        while True:
            await self._is_watched.wait()
            try:
                await self._elsewhere.look()
                self.look()
            except Exception:
                logger.exception("What goes on could not be told; nobody looks on any more")
                self._viewers.dismiss()
            await asyncio.sleep(PAUSE)

    def look(self) -> None:
        """Tell what has changed since the last look; who has just come is told how it is."""
        self._viewers.review()
        if not self._viewers:
            self._forget()
            return
        before, now, name = self._told, self._wall(), self._name()
        stories = itertools.islice(self._exchanges.open.items(), FOLLOWED)
        here = {id: record(running(story, now, name), EXCHANGE) for id, story in stories}
        self._told = now_open = here | dict(itertools.islice(self._elsewhere.open.items(), FOLLOWED))
        ended, self._ended = self._ended, []
        ends = [record(running(story, now, name), EXCHANGE) for story in ended] + self._elsewhere.take_closed()
        closed = (_event("closed", each) for each in ends)
        news = b"".join((*self._news_of_accounts(), *closed, *_changes(before, now_open)))
        if not news and self._clock() - self._spoke_at >= QUIET_SECONDS:
            news = SIGN_OF_LIFE
        if news:
            self._spoke_at = self._clock()
        self._tell(news)

    def _tell(self, news: bytes) -> None:
        for viewer in self._viewers:
            if viewer.is_new:
                viewer.give(BEGINNING + _of_accounts(self._accounts) + b"".join(_changes({}, self._told)))
            elif news:
                viewer.give(news)

    def _news_of_accounts(self) -> Iterator[bytes]:
        before = self._accounts
        self._accounts = [record(status, DOING) for status in self._exchanges.pool.status()]
        if [each | {"in_flight": 0} for each in before] != [each | {"in_flight": 0} for each in self._accounts]:
            yield _of_accounts(self._accounts)

    def _forget(self) -> None:
        """Nobody looks: note nothing any more."""
        self._is_watched.clear()
        if self._note_end in self._exchanges.ended:
            self._exchanges.ended.remove(self._note_end)
        self._told, self._accounts, self._ended = {}, [], []
        self._elsewhere.forget()

    def close(self) -> None:
        """The proxy stops, and waits for nobody who looks on."""
        self._viewers.close()


def _changes(before: dict[str, Told], now: dict[str, Told]) -> Iterator[bytes]:
    """An event for each request that is open now and was not before, or of which more is known than its time."""
    for id, row in now.items():
        if (known := before.get(id)) is None:
            yield _event("open", row)
        elif known | {"seconds": row["seconds"]} != row:
            yield _event("progress", row)


def _of_accounts(accounts: list[dict[str, Any]]) -> bytes:
    return _event("accounts", {"accounts": accounts})


def _event(name: str, content: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json.dumps(content).encode())
