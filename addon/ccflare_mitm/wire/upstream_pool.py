"""Connections to the upstream that clients use one after the other, and one that is opened ahead of the next client.

A client keeps the connection that it has got until it leaves. Then another one may have it, if nothing is under way in
it, nothing has come unasked, and it leads to the same `UpstreamTarget`: by the same proxy, with the same pins, under
the same options. What its certificate has proved is asked for each request all the same (`UpstreamProof.flaw`).

A connection is only ever lent for requests with an account's credential, whose heads are looked at strictly. One that
has carried anything else, with the client's own, is that client's alone.

What is opened ahead is TCP and TLS. No byte of a request goes out without a lease.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

from mitmproxy.connection import Client, Connection
from mitmproxy.options import Options
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http import GetHttpConnectionCompleted, HttpLayer
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.utils import asyncio_utils

from ccflare_core.config.settings import Settings
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.http import failure_words
from ccflare_mitm.wire.layer import LayerCommand
from ccflare_mitm.wire.upstream import GetUpstream, UpstreamProof
from ccflare_mitm.wire.upstream_connection import Borrower, RunHook, UpstreamConnection

MOST_IDLE = 4
"""How many connections to one target may wait for a client."""
IDLE_SECONDS = 60.0
"""How long one may wait: after a while, or a laptop's sleep, what stands between may have forgotten it untold."""
SILENT_SECONDS = 0.2
"""How long after it has connected a client that has something to ask has begun to. A program that looks at a page of
ours is over by then, and not worth a connection."""
LOST = "server closed connection"
"""In mitmproxy's words, of a connection that was never open."""
GRACE_SECONDS = 5.0
"""How much longer than a request would wait for it a connection may take to open."""


class Key(NamedTuple):
    """What two requests must have in common to go by the same connection."""

    target: UpstreamTarget
    options: int
    """Under which options it is opened: their number, which rises whenever one changes."""


class Idle(NamedTuple):
    """What is known of a connection that waits for a client."""

    since: float
    end: asyncio.TimerHandle


class Waiter(NamedTuple):
    """A request that waits for a connection."""

    borrower: Borrower
    stream: Any
    """A FailoverStream."""
    asked: GetUpstream

    @property
    def is_there(self) -> bool:
        """Whether it still waits: neither its client has left, nor has it been answered or sent another way."""
        return self.borrower.is_there and bool(self.stream.awaits(self.asked))

    def is_of(self, handler: ConnectionHandler) -> bool:
        """Whether it came by that handler's client."""
        return self.borrower.handler is handler

    async def tell(self, connection: Connection | None, problem: str | None) -> None:
        """Give it a connection, or say why there is none."""
        reply: Any = (connection, problem)
        done = GetHttpConnectionCompleted(self.asked, reply)
        await LayerCommand(self.borrower.layer, messages=[(self.stream, done)]).bring(self.borrower.handler)


class UpstreamPool:
    """See the module. `handlers` are mitmproxy's open connections, by the client's id."""

    def __init__(
        self,
        handlers: Mapping[Any, Any],
        options: Options,
        settings: Callable[[], Settings],
        proof: UpstreamProof,
        run_hook: RunHook,
        ahead: Callable[[Client], UpstreamTarget | None],
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        """`ahead` is where the next request of a client will go, as far as one can know; None: nowhere.

        `wall` also goes on while the machine sleeps.
        """
        self.kept: WeakSet[Connection] = WeakSet()
        self._handlers = handlers
        self._options = options
        self._settings = settings
        self._proof = proof
        self._run_hook = run_hook
        self._ahead = ahead
        self._wall = wall
        self._number = 0  # of the options
        self._is_closed = False
        self._keys: dict[UpstreamConnection, Key] = {}
        self._opening: dict[UpstreamConnection, asyncio.TimerHandle] = {}
        self._idle: dict[UpstreamConnection, Idle] = {}
        self._lent: dict[Connection, UpstreamConnection] = {}
        self._waiting: defaultdict[Key, deque[Waiter]] = defaultdict(deque)

    def __repr__(self) -> str:
        numbers = f"{len(self._opening)} opening, {len(self._idle)} idle, {len(set(self._lent.values()))} lent"
        return f"<UpstreamPool {numbers}>"

    # What the layers ask

    def serves(self, client: Client) -> bool:
        """Whether this client's connection is one of mitmproxy's listeners', and the proxy does not stop."""
        return not self._is_closed and client.id in self._handlers

    def take(self, layer: HttpLayer, stream: Layer, asked: GetUpstream) -> Connection | None:
        """A connection for what `stream` has asked; None: it gets a new one, or learns why not, later."""
        client, key = layer.context.client, Key(asked.target, self._number)
        borrower = Borrower(self._handlers[client.id], layer)
        if not asked.is_fresh and (idle := self._take_idle(key)) is not None:
            return self._lend(idle, borrower)
        self._waiting[key].append(Waiter(borrower, stream, asked))
        if len(self._waiting[key]) > self._number_of(self._opening, key):
            self._open(key, client)
        return None

    def keep_private(self, connection: Connection) -> None:
        """Have no other client use this one: it carries what the client itself answers for."""
        if (lent := self._lent.get(connection)) is not None:
            lent.is_private = True

    # Clients that come and go

    def expect_silent(self, client: Client) -> None:
        """A client that may ask has connected: if it says nothing yet, it is ahead of its request, so be it too."""
        asyncio.get_running_loop().call_later(SILENT_SECONDS, self._expect_if_silent, client)

    def _expect_if_silent(self, client: Client) -> None:
        handler = self._handlers.get(client.id)
        if handler is not None and not any(isinstance(layer, HttpLayer) for layer in handler.layer.context.layers):
            self.expect(client)

    def expect(self, client: Client) -> None:
        """A client is about to ask: open a connection ahead of its request, if there is none to spare."""
        target = None if self._is_closed else self._ahead(client)
        if target is None:
            return
        key = Key(target, self._number)
        spare = self._number_of(self._idle, key) + self._number_of(self._opening, key) - len(self._waiting.get(key, ()))
        if spare <= 0:
            self._open(key, client)

    def left(self, client: Client) -> None:
        """Keep what a client has left idle. mitmproxy closes the rest of its connections after this."""
        if (handler := self._handlers.get(client.id)) is None:
            return
        for one in {self._lent[connection] for connection in handler.transports if connection in self._lent}:
            if one.is_idle and self._is_current(one):
                self._forget_loan(one)
                one.take_back()
                self._keep(one)
        for key in [key for key, waiting in self._waiting.items() if any(each.is_of(handler) for each in waiting)]:
            self._waiting[key] = deque(each for each in self._waiting[key] if not each.is_of(handler))
            self._close_spare(key)

    # Start over, end

    def renew(self) -> None:
        """The options have changed, maybe those of TLS: no connection from before is lent any more."""
        self._number += 1
        self._close_all(self._idle)

    def close(self) -> None:
        """Close what nobody uses or waits for, and keep nothing from here on."""
        self._is_closed = True
        self._close_all(self._idle)
        for key in {self._keys[one] for one in self._opening}:
            self._close_spare(key)

    # Pieces

    def _open(self, key: Key, client: Client) -> None:
        asked = GetUpstream(key.target, is_fresh=True)
        one = UpstreamConnection(client, self._options, asked, self._run_hook, self._opened, self._ended)
        self._keys[one] = key
        seconds = self._settings().connect_seconds + GRACE_SECONDS
        self._opening[one] = asyncio.get_running_loop().call_later(seconds, self._expire, one)
        asyncio_utils.create_task(one.open(), name="upstream connection", keep_ref=True, client=client.peername)

    def _expire(self, one: UpstreamConnection) -> None:
        """It has taken longer to open than any request waits for it: whatever holds it, nobody is to count on it."""
        one.close()
        self._ended(one)

    async def _opened(self, one: UpstreamConnection, server: Connection, problem: str | None) -> None:
        """Opening a connection is over: the first who waits gets what has come of it."""
        if (end := self._opening.pop(one, None)) is None:  # it was given up, or lost: it is none that is waited for
            one.close()
            if problem is not None:
                self._ended(one)
            return
        end.cancel()
        key = self._keys[one]
        waiter = self._next_waiter(key)
        if problem is not None:
            self._ended(one)
            is_on_the_way = self._proof.is_on_the_way(server)
            if waiter is not None:
                await waiter.tell(None, failure_words.on_the_way(problem) if is_on_the_way else problem)
        elif waiter is not None:
            await waiter.tell(self._lend(one, waiter.borrower), None)
        elif self._is_current(one) and self._proof.flaw(server, key.target, leased=True) is None:
            self._keep(one)
        else:
            one.close()

    def _close_spare(self, key: Key) -> None:
        """Close what is being opened, and nobody waits for."""
        opening = [one for one in self._opening if self._keys[one] == key]
        self._close_all(opening[len(self._waiting.get(key, ())) :])

    def _next_waiter(self, key: Key) -> Waiter | None:
        waiting = self._waiting.pop(key, deque())
        found = None
        while waiting and found is None:
            waiter = waiting.popleft()
            found = waiter if waiter.is_there else None
        if waiting:
            self._waiting[key] = waiting
        return found

    def _is_current(self, one: UpstreamConnection) -> bool:
        return not self._is_closed and self._keys[one].options == self._number

    def _lend(self, one: UpstreamConnection, borrower: Borrower) -> Connection:
        one.lend(borrower)
        self._lent.update(dict.fromkeys(one.connections, one))
        return one.server

    def _keep(self, one: UpstreamConnection) -> None:
        """Let it wait for a client, in the place of the one that waits longest if there are too many."""
        same = [idle for idle in self._idle if self._keys[idle] == self._keys[one]]
        if len(same) >= MOST_IDLE:
            self._close_all(same[:1])
        self.kept.add(one.server)
        end = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_all, (one,))
        self._idle[one] = Idle(self._wall(), end)

    def _take_idle(self, key: Key) -> UpstreamConnection | None:
        """The one that has waited shortest, if it is still good; those that are not are closed."""
        for one in [one for one in reversed(self._idle) if self._keys[one] == key]:
            idle = self._idle.pop(one)
            idle.end.cancel()
            if one.is_idle and 0 <= self._wall() - idle.since <= IDLE_SECONDS:
                return one
            one.close()
        return None

    def _number_of(self, those: Mapping[UpstreamConnection, Any], key: Key) -> int:
        return sum(self._keys[one] == key for one in those)

    def _close_all(self, those: Iterable[UpstreamConnection]) -> None:
        for one in tuple(those):
            self._stop_clock(one)
            one.close()

    def _ended(self, one: UpstreamConnection) -> None:
        """A connection is closed, or could not be opened."""
        if one in self._opening:  # an addon's hook looks at it, and mitmproxy tells of it only when that is over
            told = self._opened(one, next(iter(one.connections)), LOST)
            asyncio_utils.create_task(told, name="upstream connection lost", keep_ref=True)
            return
        self._stop_clock(one)
        self._forget_loan(one)
        self._keys.pop(one, None)

    def _stop_clock(self, one: UpstreamConnection) -> None:
        """It is neither waited for from here on, nor does it wait itself."""
        if (opening := self._opening.pop(one, None)) is not None:
            opening.cancel()
        if (idle := self._idle.pop(one, None)) is not None:
            idle.end.cancel()

    def _forget_loan(self, one: UpstreamConnection) -> None:
        for connection in one.connections:
            self._lent.pop(connection, None)
