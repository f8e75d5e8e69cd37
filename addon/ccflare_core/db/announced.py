"""The connection that hears what is announced on a PostgreSQL server, by LISTEN.

It is used for nothing else, since no pooler may hand it to another program between two transactions.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from ccflare_core.config.location import Server
from ccflare_core.db.announcements import Channel
from ccflare_core.db.engine import explain
from ccflare_core.db.server_url import parameters, url_of
from ccflare_core.errors import StoreError

TEST_SECONDS = 5.0
"""How long an announcement of one's own may take."""


class Hearing:
    """An open connection that listens. Every method raises StoreError if it is lost."""

    def __init__(self, server: Server, channel: Channel, option: str) -> None:
        """`option` has named the server."""
        self._server = server
        self._channel = channel
        with self._as_store_errors():
            self._connection = psycopg.connect(**parameters(url_of(server, option), os.environ), autocommit=True)
        try:
            self._execute(f"LISTEN {channel.name}")
        except BaseException:
            self._connection.close()
            raise

    def works(self, announce_test: Callable[[], object], seconds: float = TEST_SECONDS) -> bool:
        """Whether the test that is announced on the other connection arrives here in time.

        If not, a pooler may be in between: what it has of us is taken back as far as that can be done.
        """
        announce_test()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._channel.test in self._texts(left):
                return True
        self._execute("UNLISTEN *")
        return False

    def news(self, seconds: float) -> frozenset[str]:
        """Wait for so long until another connection announces changes; the kinds of what has changed."""
        return frozenset().union(*(self._channel.news(text) for text in self._texts(seconds)))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _texts(self, seconds: float) -> list[str]:
        with self._as_store_errors():
            found = self._connection.notifies(timeout=seconds, stop_after=1)
            return [each.payload for each in found if each.channel == self._channel.name]

    def _execute(self, sql: str) -> None:
        with self._as_store_errors():
            self._connection.execute(sql.encode())

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"{self._server}: {explain(error)}") from None  # the driver may quote a password
