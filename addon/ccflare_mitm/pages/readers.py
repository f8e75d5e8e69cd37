"""Reads the database for pages, in threads of its own: neither the event loop nor the writer waits for a long look."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ccflare_core.errors import Unusable
from ccflare_core.store.store import Store

THREADS = 2
"""So that a short look need not wait for one long one."""
MOST_WAITING = 50
"""Looks that may wait for one thread: more would take longer than anybody waits for a page."""


class Read(Protocol):
    """Runs a function on a store that reads, in a thread. Raises what it raises, StoreError above all."""

    def __call__[T](self, function: Callable[[Store], T], /) -> Awaitable[T]: ...


class _Reader:
    """One thread with its own connection, which is opened when it is first needed."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ccflare-pages")
        self._store: Store | None = None
        self.waiting = 0

    async def read[T](self, function: Callable[[Store], T]) -> T:
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, function)
        finally:
            self.waiting -= 1

    def _run[T](self, function: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = self._open_store()
        try:
            if self._store.changed():
                self._store.look_for_keys()
            with self._store.snapshot():
                return function(self._store)
        except Unusable:
            self._close()  # the next one opens it anew
            raise

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def close(self) -> None:
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)


class Readers:
    """The threads; each look is given to the one that has the least to do."""

    def __init__(self, open_store: Callable[[], Store], threads: int = THREADS) -> None:
        """`open_store` gives a store that only reads; it is called in the thread that uses it."""
        self._readers = [_Reader(open_store) for _ in range(threads)]

    def __call__[T](self, function: Callable[[Store], T], /) -> Awaitable[T]:
        reader = min(self._readers, key=lambda reader: reader.waiting)
        if reader.waiting >= MOST_WAITING:
            raise Unusable("Too many pages are being read: ask again in a moment.")
        return reader.read(function)

    def close(self) -> None:
        """Close the connections, each when what is read by it has ended. Nothing is read any more."""
        for reader in self._readers:
            reader.close()
