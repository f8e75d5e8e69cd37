"""What has changed in the database, handed from the writer's thread to the event loop; neither waits for the other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import NamedTuple

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.affinity import Held
from ccflare_core.accounts.peers import Peers
from ccflare_core.clients.authentication import KeyRing
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.totp import Factor
from ccflare_core.db.announcements import ANYTHING
from ccflare_core.http.addresses import Networks
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from ccflare_core.writer.writer import Writer


class Rules(NamedTuple):
    """What the database has on who may do what, beside the client keys."""

    blocked: Networks
    factor: Factor | None
    runs: Sequence[ClientRun]
    """Those that go on, with what this proxy has not counted itself."""
    ended_sessions: frozenset[str] = frozenset()
    """The sessions of browsers that have logged out, of whichever proxy."""

    @classmethod
    def of(cls, store: Store) -> "Rules":
        """Those of this store."""
        runs = store.client_runs.active(but=store.runs.current or "")
        return cls(store.blocklist.networks(), store.factors.get(), runs, store.browser_sessions.ended())


class Signal[T]:
    """A value that listeners on the event loop hear of."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: list[Callable[[T], object]] = []

    def listen(self, listener: Callable[[T], object]) -> None:
        """Have `listener` called with each value, on the event loop and after those that listened before."""
        self._listeners.append(listener)

    def send(self, value: T) -> None:
        """Tell the listeners soon. Any thread may call it."""
        self._loop.call_soon_threadsafe(self.tell, value)

    def tell(self, value: T) -> None:
        """Tell the listeners now. Only the event loop's thread may call it."""
        for listener in self._listeners:
            listener(value)


class StoreNews:
    """The writer sends, by whichever process the database was changed; the parts of the proxy listen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.accounts = Signal[list[Account]](loop)
        self.client_keys = Signal[KeyRing](loop)
        self.rules = Signal[Rules](loop)
        self.limits = Signal[Learned](loop)
        self.sessions = Signal[Sequence[Held]](loop)
        self.peers = Signal[Peers](loop)
        self.shares = Signal[None](loop)

    def send_rules(self, store: Store) -> None:
        """Send those that the store has now. The writer's thread calls it."""
        self.rules.send(Rules.of(store))


class StoreCalls:
    """Call it with a function to have that run on the writer's store; the event loop can await the result."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __call__[T](self, function: Callable[[Store], T], /, changes: Set[str] = ANYTHING) -> Awaitable[T]:
        return asyncio.wrap_future(self._writer.call(function, changes))
