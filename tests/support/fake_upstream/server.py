"""The server, its script and its log; it serves from a thread or inside of a loop."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fake_upstream.answer import Answer
from fake_upstream.certificates import HOSTS, Certificates, make_certificates
from fake_upstream.http1 import Http1
from fake_upstream.http2 import Http2
from fake_upstream.messages import new_id
from fake_upstream.request import Request
from fake_upstream.script import Script


class _Negotiated(asyncio.Protocol):
    """A TLS connection until it is known which HTTP was agreed on."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol: asyncio.Protocol = Http2(self._upstream) if agreed == "h2" else Http1(self._upstream)
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class FakeUpstream(Script):
    """The server, its script and its log. As a context manager it serves from a thread of its own.

    `log=False` keeps no requests (those of a benchmark would fill the memory). With `tls` the one to trust
    is `ca_file`; `hosts` and `expired` make a certificate to be refused. `http2` (needs `tls`) offers h2.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        http2: bool = False,
        port: int = 0,
        hosts: Sequence[str] = HOSTS,
        expired: bool = False,
        folder: Path | None = None,
        log: bool = True,
    ) -> None:
        super().__init__()
        self.connections = 0
        self.bytes_received = 0
        self.malformed: list[bytes] = []
        self.server_names: list[str | None] = []
        """What the TLS of each connection has asked for (SNI)."""
        self._log = log
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._transports: set[asyncio.Transport] = set()
        self._resources = contextlib.ExitStack()
        self._tls: ssl.SSLContext | None = None
        self._certificates: Certificates | None = None
        if tls:
            self._set_up_tls(folder, hosts, expired=expired, http2=http2)
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._socket.getsockname()[1]

    def _set_up_tls(self, folder: Path | None, hosts: Sequence[str], *, expired: bool, http2: bool) -> None:
        if folder is None:
            folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="fake-upstream-")))
        self._certificates = make_certificates(folder, hosts, expired=expired)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self._certificates.chain_file, self._certificates.key_file)
        self._tls.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        self._tls.sni_callback = lambda _, name, __: self.server_names.append(name)

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:port`, or `https://localhost:port` (a name, so that SNI is used)."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The authority that signed its certificate; ValueError without TLS."""
        if self._certificates is None:
            raise ValueError("this upstream speaks plain HTTP")
        return self._certificates.ca_file

    @property
    def chain_file(self) -> Path:
        """Its own certificate; ValueError without TLS."""
        return self.ca_file.with_name("server.pem")

    # -- what tests look at

    @property
    def requests(self) -> list[Request]:
        """Every whole request so far, in the order in which they were complete."""
        with self._changed:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 60.0) -> list[Request]:
        """The requests, as soon as there are that many; TimeoutError if that takes too long."""
        self.wait_until(lambda: len(self._requests) >= count, timeout)
        return self.requests

    def wait_until(self, predicate: Callable[[], bool], timeout: float = 60.0) -> None:
        """Return when the predicate holds, asked again whenever something happened; TimeoutError else."""
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                got = [(request.method, request.target, request.credential) for request in self._requests]
                raise TimeoutError(f"not within {timeout} s; the requests so far: {got}")

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._transports)

    # -- what the protocols tell

    def begin(self, request: Request) -> Answer:
        """Log a request and choose its answer."""
        answer = self.choose(request)
        request.id = answer.request_id or new_id("req")
        if self._log:
            with self._changed:
                self._requests.append(request)
                self._changed.notify_all()
        return answer

    def note_end(self, request: Request, *, aborted: bool) -> None:
        """An answer has been handed over, or nobody is there to take it."""
        if self._log:
            with self._changed:
                request.aborted, request.finished = aborted, not aborted
                self._changed.notify_all()

    def note_connection(self, transport: asyncio.Transport) -> int:
        """The new connection's number, from 1."""
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not for a socket it did not make
        self._transports.add(transport)
        self.connections += 1
        return self.connections

    def note_disconnection(self, transport: asyncio.Transport) -> None:
        self._transports.discard(transport)
        with self._changed:
            self._changed.notify_all()

    # -- serving

    async def serve(self, until: asyncio.Event, ready: threading.Event | None = None) -> None:
        """Serve until the event is set, then cut whatever is open."""
        factory = (lambda: _Negotiated(self)) if self._tls else (lambda: Http1(self))
        server = await asyncio.get_running_loop().create_server(factory, sock=self._socket, ssl=self._tls)
        if ready:
            ready.set()
        await until.wait()
        server.close()
        for transport in list(self._transports):
            transport.abort()
        await asyncio.sleep(0)  # let connection_lost run

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fake upstream", daemon=True)
        self._thread.start()
        if not ready.wait(60):
            raise TimeoutError("the fake upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._resources.close()

    def _run(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self.serve(self._stop, ready)

        asyncio.run(main())
