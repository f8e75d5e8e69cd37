"""A proxy on the way to an upstream, as a company has one: it knows CONNECT and notes what it is asked."""

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
import weakref
from types import TracebackType
from typing import Self

from fake_upstream import FakeUpstream

REFUSED = b"HTTP/1.1 %d No\r\nContent-Length: 6\r\n\r\nno way"


class ConnectProxy:
    """Listens on loopback and leads every CONNECT to one port there, whatever name it says.

    `login` is the `user:password` that it wants, `shows` the upstream whose certificate it has for its own TLS. What it
    answers a CONNECT with is `status`; `injected` is what it says besides, in clear, before the other end gets a word.
    """

    def __init__(self, upstream_port: int, *, login: str = "", shows: FakeUpstream | None = None) -> None:
        self.upstream_port = upstream_port
        self.login = login
        self.status = 200
        self.injected = b""
        self.heads: list[bytes] = []
        """What it was asked, whole."""
        self._tls = server_tls(shows) if shows else None
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it is, without its login."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def whole_url(self) -> str:
        """With its login."""
        return self.url.replace("://", f"://{self.login}@") if self.login else self.url

    @property
    def mode(self) -> str:
        """mitmproxy's mode for it."""
        return f"upstream:{self.url}"

    @property
    def asked_for(self) -> list[str]:
        """Where its tunnels were to lead."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        if not ready.wait(60):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Cut what is open; from then on connections are refused."""
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._tunnel, sock=self._socket, ssl=self._tls)
        ready.set()
        await self._stop.wait()
        server.close()
        for transport in list(self._transports):
            transport.abort()  # one that is closed may wait for its peer, longer than the event loop is there
        await asyncio.sleep(0)  # let connection_lost run

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            status = self.status if self._is_allowed(head) else 407
            if status >= 300:
                writer.write(REFUSED % status)
                await writer.drain()
                return
            there, onward = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            self._transports.add(onward.transport)
            with contextlib.closing(onward):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n" + self.injected)
                pumps = [asyncio.create_task(_pump(*way)) for way in ((reader, onward), (there, writer))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()

    def _is_allowed(self, head: bytes) -> bool:
        said = b"Proxy-Authorization: Basic " + base64.b64encode(self.login.encode()) + b"\r\n"
        return not self.login or said in head


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


def server_tls(upstream: FakeUpstream) -> ssl.SSLContext:
    """TLS with the certificate of this upstream."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(upstream.chain_file, upstream.chain_file.with_suffix(".key"))
    return context
