"""A worker's side of `--workers`: it listens beside the others on one port, and begins and ends as it is told.

With SO_REUSEPORT each worker has a queue of its own, and the kernel gives each connection to one of them, by its
addresses and ports. So the end of one takes nothing from the others, and closing.py holds for each by itself.
"""

import asyncio
import socket
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Self

from mitmproxy import ctx
from mitmproxy.proxy import mode_servers

from ccflare_core.errors import ConfigError
from ccflare_core.workers import PREPARED, SERVING, STOP, VARIABLE, Place
from ccflare_mitm.host.listener import check_free


class Worker:
    """This process, if it is one of several that serve one port."""

    def __init__(self, place: Place, supervisor: socket.socket) -> None:
        self.number = place.number
        self.is_first = place.is_first
        self.folder = Path(place.folder) if place.folder else None
        """Where the workers can meet."""
        self.hurry = asyncio.Event()
        """Set once it is told for the second time to stop."""
        self._supervisor = supervisor
        self._may_go = asyncio.Event()
        self._stops = 0

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Self | None:
        """The worker that the environment says this process is, which is told nobody else; None if it is none."""
        if not (text := environ.pop(VARIABLE, "")):
            return None
        try:
            place = Place.parse(text)
            supervisor = socket.socket(fileno=place.descriptor)
        except (ValueError, OSError):
            raise ConfigError(f"{VARIABLE}: `--workers` sets it, and nobody else") from None
        supervisor.set_inheritable(False)
        supervisor.setblocking(False)
        # It was started with --no-server: what mitmproxy binds to before it loads scripts is shared with nobody.
        ctx.options.server = True
        return cls(place, supervisor)

    def heed(self, stop: Callable[[], object]) -> None:
        """Do this when it is told to stop, or when the supervisor has ended."""
        asyncio.get_running_loop().add_reader(self._supervisor, self._read, stop)

    async def prepare(self) -> None:
        """Return when this worker may listen, as all are prepared. Raises ConfigError if it cannot, or may not.

        The others start when the first one is prepared: so all that speaks against a start is told by that one alone.
        """
        if ctx.options.save_stream_file:
            raise ConfigError("--save-stream-file: several workers would write over each other; leave it out")
        if self.is_first:
            await check_free()
            # mitmproxy makes its certificates a moment later: two workers at once would make two authorities.
            ctx.master.addons.get("tlsconfig").configure({"confdir"})
        share_port()
        self._tell(PREPARED)
        await self._may_go.wait()

    def serves(self) -> None:
        """Tell that it listens."""
        self._tell(SERVING)

    def own_file(self, path: Path) -> Path:
        """That of this worker where two may not write to one: `proxy.log` is `proxy.2.log`."""
        return path.with_name(f"{path.stem}.{self.number}{path.suffix}")

    def _tell(self, word: bytes) -> None:
        try:
            self._supervisor.send(word)
        except OSError:
            raise ConfigError("the supervisor of the workers has ended") from None

    def _read(self, stop: Callable[[], object]) -> None:
        try:
            words = self._supervisor.recv(64)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        self._may_go.set()  # also at the end: what waits comes to it
        self._stops += words.count(STOP)
        if self._stops > 1:
            self.hurry.set()
        if self._stops or not words:
            stop()
        if not words:
            asyncio.get_running_loop().remove_reader(self._supervisor)


def share_port() -> None:
    """Have mitmproxy listen in such a way that other workers can listen on the same port."""

    async def listen(instance: Any, host: str, port: int) -> list[asyncio.Server]:
        return [await asyncio.start_server(instance.handle_stream, host, port, reuse_port=True)]

    mode_servers.AsyncioServerInstance.listen = listen  # type: ignore[method-assign,assignment]
