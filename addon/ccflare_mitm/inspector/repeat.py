"""A request as it came, to be sent to the proxy's own port once more: whether it is still here, its bytes, its way."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import h11
from mitmproxy import http

from ccflare_core.http.headers import Header
from ccflare_core.secrets.redact import HIDDEN
from ccflare_mitm.host.replays import Ends, Replay, Replays

_READ_BYTES = 65_536
_SAID_ANEW = frozenset({b"transfer-encoding", b"expect"})
"""What is not true of a request whose body is sent at once, with its length."""


class Seen(NamedTuple):
    """What tells a request from one that was edited since, or whose body is another one's."""

    method: str
    path: str
    fields: tuple[Header, ...]
    size: int
    digest: bytes

    @classmethod
    def of(cls, request: http.Request, body: bytes) -> "Seen":
        """That of a request with this body."""
        return cls(request.method, request.path, request.headers.fields, len(body), sha256(body).digest())


class Place(NamedTuple):
    """Where the proxy listens."""

    host: str
    port: int
    is_tls: bool


class Sender:
    """Sends requests to the proxy's own port, as their clients have sent them but for credentials."""

    def __init__(self, expected: Replays, place: Callable[[], Place]) -> None:
        self._expected = expected
        self._place = place

    async def send(self, request: http.Request, replay: Replay) -> None:
        """Send it, and take its answer, which is shown where all are. Raises OSError if there is no connection."""
        host, port, is_tls = self._place()
        reader, writer = await asyncio.open_connection(host, port, ssl=_tls() if is_tls else None)
        ends = Ends(*(writer.get_extra_info(end)[:2] for end in ("sockname", "peername")))
        try:
            self._expected.expect(ends, replay)
            writer.write(head_of(request, host, port))
            writer.write(request.raw_content or b"")
            await writer.drain()
            await take_answer(reader)
        finally:
            self._expected.forget(ends)
            writer.transport.abort()


def head_of(request: http.Request, host: str, port: int) -> bytes:
    """The head of the request for a connection of its own, in its order, without what was hidden in it."""
    named = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
    ours = {b"host": named, b"content-length": str(len(request.raw_content or b"")).encode()}
    kept = [field for field in request.headers.fields if field[0].lower() not in _SAID_ANEW]
    told = {name.lower() for name, _ in kept}
    fields = (
        *((name, ours.get(name.lower(), value)) for name, value in kept if value != HIDDEN),
        *((name, value) for name, value in ours.items() if name not in told),
    )
    line = b" ".join((request.data.method, request.data.path, b"HTTP/1.1"))
    return b"\r\n".join((line, *(b": ".join(field) for field in fields), b"", b""))


async def take_answer(reader: asyncio.StreamReader) -> None:
    """Read an answer to its end, or until it breaks off. Who looks at it sees it in the list."""
    http1 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_READ_BYTES)
    http1.send(h11.Request(method="POST", target="/", headers=[("host", "")]))
    http1.send(h11.EndOfMessage())
    with contextlib.suppress(h11.RemoteProtocolError):
        while not isinstance(event := http1.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                http1.receive_data(await reader.read(_READ_BYTES))


def _tls() -> ssl.SSLContext:
    """For a connection to this very process, whose certificate may be for any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
