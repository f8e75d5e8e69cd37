"""Keeps connections that come before the proxy is ready: they wait, and are served as soon as it is.

There are such only where the command line, or mitmproxy's own config.yaml, says where to listen: mitmproxy binds to
that one turn of the event loop before it loads scripts, and takes connections from then on. What it has taken waits in
the hook `client_connected`; what comes later waits in the kernel's queue, where it costs no open file. After
WAIT_SECONDS whoever waits, or comes, is told that it takes longer.
"""

import asyncio
from asyncio.base_events import Server
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakSet

from mitmproxy.connection import Client

WAIT_SECONDS = 10.0
BACKLOG = 4096
"""asyncio's own 100 makes a thousand clients that come at once wait for seconds (measured)."""


class Opening:
    """See the module. Its time runs from the first that is held. `handlers` are mitmproxy's, by the client's id."""

    def __init__(self, handlers: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._handlers = handlers
        self._ready = asyncio.Event()
        self._until: float | None = None
        self._paused: list[Server] = []
        self._put_off: WeakSet[Client] = WeakSet()

    async def wait(self, client: Client) -> bool:
        """Whether the proxy is ready for this client: at once if it is, as soon as it is, or False if that is late."""
        if not self._ready.is_set():
            self._put_reading_off(client)
            try:
                async with asyncio.timeout_at(self._end()):
                    await self._ready.wait()
            except TimeoutError:
                self._put_off.add(client)
                return False
        return True

    def has_put_off(self, client: Client) -> bool:
        """Whether this client has waited in vain. So it stays: nobody has looked at where it comes from."""
        return client in self._put_off

    def hold(self, servers: Iterable[Server]) -> None:
        """Leave further connections to these in the kernel's queue, until it is ready or time is over."""
        loop = asyncio.get_running_loop()
        for server in servers:
            for shared in server.sockets:
                shared._sock.listen(BACKLOG)  # type: ignore[attr-defined]
                loop.remove_reader(shared)
            self._paused.append(server)
        loop.call_at(self._end(), self._resume)

    def ready(self) -> None:
        """Let all come in."""
        self._ready.set()
        self._resume()

    def _put_reading_off(self, client: Client) -> None:
        """Read no earlier than one turn of the event loop after the wait.

        What has come by then would be read and answered, or the client's end found, within the call in which mitmproxy
        makes the task for it: it would close the connection before it knows of that task, and fail.
        """
        handler = self._handlers().get(client.id)
        connection = handler.transports.get(client) if handler else None
        if connection is None or not isinstance(connection.reader, asyncio.StreamReader):
            return
        reader: Any = connection.reader
        read = reader.read

        async def read_later(limit: int) -> bytes:
            reader.read = read
            await asyncio.sleep(0)
            data: bytes = await read(limit)
            return data

        reader.read = read_later

    def _end(self) -> float:
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + WAIT_SECONDS
        return self._until

    def _resume(self) -> None:
        for server in self._paused:
            if server.sockets:  # else it has been closed meanwhile
                server._serving = False  # type: ignore[attr-defined]  # asyncio has no word for a pause
                server._start_serving()  # type: ignore[attr-defined]
        self._paused.clear()
