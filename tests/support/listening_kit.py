"""What another proxy knows of a database: a writer and what wakes it, without the proxy around them."""

import contextlib
from collections.abc import Iterator
from functools import partial

from ccflare_core.clients.authentication import KeyRing
from ccflare_core.config.location import Location, Server
from ccflare_core.db.engine_choice import hear
from ccflare_core.http.addresses import Networks
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from ccflare_core.writer.listening import Listening
from ccflare_core.writer.writer import Writer
from database_kit import open_store

OPTION = "ccflare_database"
PATIENCE = 90.0
POLL_SECONDS = 3600.0
"""More than any test may take."""


class Other:
    """What another proxy knows of the database. It polls once, at the start."""

    def __init__(self, location: Location, listen_at: Server | None, *, poll: float = POLL_SECONDS) -> None:
        self.said: list[str] = []
        self.paused: dict[str, bool] = {}
        self.ring: KeyRing | None = None
        self.blocked = Networks()
        self.limits: list[Learned] = []
        self.looks = 0
        self.writer = Writer(
            lambda: open_store(location),
            on_change=lambda accounts: self.paused.update({each.name: each.paused for each in accounts}),
            on_trouble=self.said.append,
            on_client_keys=lambda ring: setattr(self, "ring", ring),
            on_store_changed=self._look,
            on_limits=self.limits.append,
            look_seconds=poll,
        )
        self.listening = Listening(self.writer, listen_at, partial(hear, option=OPTION), say=self.said.append)

    def _look(self, store: Store) -> None:
        self.looks += 1
        self.blocked = store.blocklist.networks()

    @contextlib.contextmanager
    def running(self) -> Iterator["Other"]:
        self.writer.start()
        self.listening.start()
        try:
            yield self
        finally:
            self.listening.close()
            self.writer.close(PATIENCE)
