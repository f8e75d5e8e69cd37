"""The pool of upstream connections, on real sockets: which of them may go from one client to another, and which end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode

from ccflare_core.config.settings import Settings
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import PinGuard
from ccflare_core.http.pins import Pins
from ccflare_mitm.wire.layer import FailoverLayer
from ccflare_mitm.wire.upstream import GetUpstream, UpstreamProof
from ccflare_mitm.wire.upstream_pool import IDLE_SECONDS, MOST_IDLE, UpstreamPool
from flow_kit import client


class Handler:
    """As much of a client's handler, with its HTTP layer, as has to do with server connections."""

    def __init__(self, desk: "Desk") -> None:
        self.desk = desk
        self.client = client()
        self.waits = True
        self.stream: Any = SimpleNamespace(awaits=lambda asked: self.waits)
        self.transports: dict[Connection, Any] = {}
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        """What comes of its requests: (connection, problem)."""
        self.layer = SimpleNamespace(
            connections=dict[Connection, Any](), context=SimpleNamespace(client=self.client, layers=[])
        )
        desk.handlers[self.client.id] = self

    async def server_event(self, event: events.Event) -> None:
        if isinstance(event, events.Wakeup):
            command: Any = event.command
            ((_, completed),) = command.messages
            self.told.put_nowait(completed.reply)

    async def drain_writers(self) -> None:
        """Its client takes whatever it gets."""

    def ask(self) -> None:
        """Ask for a connection, and wait for nothing."""
        layer: Any = self.layer
        self.desk.pool.take(layer, self.stream, GetUpstream(self.desk.target, is_fresh=False))

    async def get(self, target: UpstreamTarget | None = None, *, is_fresh: bool = False) -> Connection:
        """A connection for a request."""
        layer: Any = self.layer
        asked = GetUpstream(target or self.desk.target, is_fresh=is_fresh)
        if (idle := self.desk.pool.take(layer, self.stream, asked)) is not None:
            return idle
        connection, problem = await asyncio.wait_for(self.told.get(), 30)
        assert connection is not None, problem
        return connection  # type: ignore[no-any-return]

    def leave(self) -> None:
        """As mitmproxy does: our hook first, then what is left of its connections is closed."""
        self.client.timestamp_end = 1.0
        self.desk.pool.left(self.client)
        for transport in self.transports.values():
            transport.handler.cancel()
        del self.desk.handlers[self.client.id]


class Desk:
    """A pool, its clients, and a server that notes who connects and says what it is told to."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.writers: list[asyncio.StreamWriter] = []
        self.open = 0
        self.received = b""
        self.now = 1000.0
        self.ahead: Callable[[Client], UpstreamTarget | None] = lambda _: self.target
        self.held_in = ""
        """The hook in which an addon's function hangs."""
        self.held = 0
        self.let_go = asyncio.Event()

    async def run_hook(self, hook: commands.StartHook) -> None:
        if hook.name == self.held_in:
            self.held += 1
            await self.let_go.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.open += 1
        with contextlib.suppress(ConnectionResetError), contextlib.closing(writer):
            while data := await reader.read(65536):
                self.received += data
        self.open -= 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Desk"]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.target = UpstreamTarget.of(Origin("http", "127.0.0.1", port), Pins.parse(""))
        guard = PinGuard(lambda: Pins.parse(""), enforced=lambda: True)

        self.pool = UpstreamPool(
            self.handlers,
            Options(),
            lambda: Settings.build({}),
            UpstreamProof(guard),
            self.run_hook,
            lambda client: self.ahead(client),
            lambda: self.now,
        )
        async with server:
            yield self
            self.pool.close()
            for handler in list(self.handlers.values()):
                handler.leave()
            await self.until(lambda: self.open == 0)  # whatever a test has done, none is left

    async def until(self, done: Callable[[], bool]) -> None:
        """Let the event loop go on until that is so."""
        async with asyncio.timeout(30):
            while not done():
                await asyncio.sleep(0.005)

    async def left_idle(self, number: int = 1) -> list[Connection]:
        """Connections that clients have used at the same time, and left."""
        handlers = [Handler(self) for _ in range(number)]
        connections = [await handler.get() for handler in handlers]
        for handler in handlers:
            handler.leave()
        return connections


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk().running() as desk:
        yield desk


async def test_a_connection_that_a_client_has_left_is_the_next_ones(desk: Desk) -> None:
    first, second = Handler(desk), Handler(desk)
    left = await first.get()
    assert left in first.transports
    first.leave()
    assert (repr(desk.pool), first.transports, first.layer.connections) == (
        "<UpstreamPool 0 opening, 1 idle, 0 lent>",
        {},
        {},
    )

    assert await second.get() is left
    assert repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 1 lent>"
    assert (left in second.transports, left in second.layer.connections, left.connected) == (True, True, True)
    assert (len(desk.writers), left.timestamp_end) == (1, None)


async def test_what_two_clients_use_at_once_is_two_connections(desk: Desk) -> None:
    assert len({(await Handler(desk).get()).id for _ in range(2)}) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"pins": frozenset({"sha256/another"})},
        {"egress_proxy": EgressProxy(Origin("http", "127.0.0.1", 9), "user", "pw")},
        {"tls_name": "localhost"},
        {"alpn": (b"h2",)},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_connection_is_not_shared_between_two_targets(desk: Desk, other: dict[str, Any]) -> None:
    await desk.left_idle()
    layer: Any = Handler(desk).layer

    asked = GetUpstream(replace(desk.target, **other), is_fresh=False)
    assert desk.pool.take(layer, None, asked) is None  # type: ignore[arg-type]


async def test_nothing_is_shared_across_a_change_of_options(desk: Desk) -> None:
    (before,) = await desk.left_idle()
    user = Handler(desk)
    used = await user.get()
    assert used is before

    desk.pool.renew()
    user.leave()

    assert await Handler(desk).get() is not before
    await desk.until(lambda: desk.open == 1)
    (idle,) = await desk.left_idle()
    desk.pool.renew()
    await desk.until(lambda: not idle.connected)


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\r\n", b""], ids=repr)
@pytest.mark.parametrize("is_noticed", [True, False], ids=["noticed", "not noticed yet"])
async def test_a_connection_on_which_something_has_come_unasked_is_nobodys(
    desk: Desk, data: bytes, is_noticed: bool
) -> None:
    (idle,) = await desk.left_idle()
    peer = desk.writers[0].get_extra_info("socket")._sock

    peer.send(data) if data else peer.shutdown(1)  # past the event loop, which has no turn before the next line
    if is_noticed:
        await desk.until(lambda: not idle.connected)

    assert await Handler(desk).get() is not idle
    await desk.until(lambda: not idle.connected)


async def test_a_connection_is_kept_for_a_while_and_not_over_a_sleep_of_the_machine(desk: Desk) -> None:
    (idle,) = await desk.left_idle()

    desk.now += IDLE_SECONDS + 1

    assert await Handler(desk).get() is not idle
    await desk.until(lambda: not idle.connected)


async def test_few_connections_wait_and_the_oldest_ends_first(desk: Desk) -> None:
    made = await desk.left_idle(MOST_IDLE + 2)

    await desk.until(lambda: desk.open == MOST_IDLE)
    assert [each.connected for each in made] == [False] * 2 + [True] * MOST_IDLE
    assert await Handler(desk).get() is made[-1]


async def test_what_a_client_answers_for_itself_is_not_shared(desk: Desk) -> None:
    user = Handler(desk)
    connection = await user.get()
    desk.pool.keep_private(connection)
    user.leave()

    assert await Handler(desk).get() is not connection
    await desk.until(lambda: not connection.connected)


async def test_a_repeated_request_gets_a_new_connection(desk: Desk) -> None:
    (idle,) = await desk.left_idle()

    assert await Handler(desk).get(is_fresh=True) is not idle


async def test_a_client_that_leaves_while_it_waits_ends_what_was_opened_for_it(desk: Desk) -> None:
    leaving, staying = Handler(desk), Handler(desk)
    leaving.ask()
    leaving.leave()

    assert await staying.get() is not None
    await desk.until(lambda: desk.open == 1)
    assert leaving.told.empty()


@pytest.mark.parametrize("hook", ["server_connect", "server_connected"])
async def test_a_client_that_leaves_while_an_addon_looks_at_its_connection_ends_that_too(desk: Desk, hook: str) -> None:
    leaving, desk.held_in = Handler(desk), hook
    leaving.ask()
    await desk.until(lambda: desk.held == 1)
    leaving.leave()
    desk.held_in = ""

    await desk.until(lambda: repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 0 lent>")
    await desk.until(lambda: desk.open == 0)
    assert await Handler(desk).get() is not None


@pytest.mark.parametrize("hook", ["server_connect", "server_connected"])
async def test_a_connection_that_an_addon_holds_for_too_long_is_given_up(desk: Desk, hook: str) -> None:
    user, desk.held_in = Handler(desk), hook
    user.ask()
    await desk.until(lambda: desk.held == 1)
    (end,) = desk.pool._opening.values()
    end._run()
    desk.held_in = ""

    assert await asyncio.wait_for(user.told.get(), 30) == (None, "connection cancelled")
    assert await Handler(desk).get() is not None


async def test_a_client_that_leaves_while_it_waits_costs_no_other_its_connection(desk: Desk) -> None:
    staying, leaving, coming = Handler(desk), Handler(desk), Handler(desk)
    desk.held_in = "server_connect"
    staying.ask()
    leaving.ask()
    await desk.until(lambda: desk.held == 2)
    leaving.leave()
    coming.ask()
    desk.let_go.set()

    for each in (staying, coming):
        connection, problem = await asyncio.wait_for(each.told.get(), 30)
        assert (problem, connection in each.transports) == (None, True)
    await desk.until(lambda: repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 2 lent>")


async def test_a_connection_that_came_too_late_is_for_the_next_client(desk: Desk) -> None:
    late = Handler(desk)
    late.ask()
    late.waits = False

    await desk.until(lambda: repr(desk.pool) == "<UpstreamPool 0 opening, 1 idle, 0 lent>")
    assert (late.told.empty(), late.transports) == (True, {})
    assert await Handler(desk).get() is not None
    assert len(desk.writers) == 1


async def test_a_connection_in_its_handshake_is_nobodys_yet(desk: Desk) -> None:
    services: Any = SimpleNamespace()
    layer, server = FailoverLayer(Context(client(), Options()), HTTPMode.regular, services), Server(address=None)
    server.address, server.state = desk.target.address, ConnectionState.OPEN
    layer.connections[server] = layer
    asked = GetUpstream(desk.target, is_fresh=False)

    layer.waiting_for_establishment[server] = []
    assert layer._own(asked) is None
    del layer.waiting_for_establishment[server]
    assert layer._own(asked) is server


async def test_a_connection_that_is_lost_while_an_addon_looks_at_its_handshake_is_told_of_at_once(desk: Desk) -> None:
    target, user, desk.held_in = replace(desk.target, tls_name="localhost"), Handler(desk), "tls_start_server"
    layer: Any = user.layer
    desk.pool.take(layer, user.stream, GetUpstream(target, is_fresh=False))
    await desk.until(lambda: desk.held == 1)

    desk.writers[0].close()

    assert await asyncio.wait_for(user.told.get(), 30) == (None, "server closed connection")
    desk.let_go.set()
    assert await Handler(desk).get() is not None
    assert user.told.empty()
    assert repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 1 lent>"


async def test_a_server_that_is_not_there_is_told_to_who_asked(desk: Desk) -> None:
    away = replace(desk.target, address=("127.0.0.1", 9))

    with pytest.raises(AssertionError, match="Connect call failed"):
        await Handler(desk).get(away)
    assert repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 0 lent>"


async def test_a_connection_is_opened_ahead_once_and_without_a_byte(desk: Desk) -> None:
    user = Handler(desk)
    for _ in range(3):
        desk.pool.expect(user.client)
    await desk.until(lambda: "1 idle" in repr(desk.pool))
    desk.pool.expect(user.client)

    assert await user.get() in user.transports
    assert (len(desk.writers), desk.received) == (1, b"")


async def test_nothing_is_opened_ahead_where_nothing_can_be_sent(desk: Desk) -> None:
    desk.ahead = lambda _: None

    desk.pool.expect(Handler(desk).client)

    assert repr(desk.pool) == "<UpstreamPool 0 opening, 0 idle, 0 lent>"


async def test_the_end_closes_what_nobody_uses_and_keeps_nothing(desk: Desk) -> None:
    user = Handler(desk)
    used = await user.get()
    (idle,) = await desk.left_idle()

    desk.pool.close()
    await desk.until(lambda: not idle.connected)
    assert (used.connected, desk.pool.serves(user.client)) == (True, False)

    user.leave()
    await desk.until(lambda: desk.open == 0)


async def test_the_end_leaves_to_who_waits_what_is_opened_for_it(desk: Desk) -> None:
    user = Handler(desk)
    desk.pool.expect(user.client)
    desk.pool.expect(Handler(desk).client)
    user.ask()

    desk.pool.close()

    connection, problem = await asyncio.wait_for(user.told.get(), 30)
    assert (connection in user.transports, problem) == (True, None)
