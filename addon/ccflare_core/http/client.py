"""A small HTTPS client for the few calls that ccflare makes itself: tokens, API keys, usage.

One request, one connection, one bounded answer. It runs on the event loop without blocking it (a script uses
`asyncio.run`). Certificates are verified with certifi, as mitmproxy does, plus an optional CA file, and pinned keys
are asked for before a byte is sent. It goes only where it may. Redirects are handed back.

With a proxy on the way it asks that for a tunnel (CONNECT) and verifies the host at its end as it would without. Proxy
variables are never looked at: the user's shell may point them at ccflare itself.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import certifi
import h11

from ccflare_core.errors import ConfigError, TokenUnavailable
from ccflare_core.http import failure_words
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.messages import MAX_ANSWER_BYTES, Request, Response
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import NOT_PINNED, PinGuard, spki_pin

_READ_BYTES = 65_536
_DER = 2  # _ssl.ENCODING_DER
_MAX_HEAD_BYTES = 65_536
_LATER = "try again later"
_CHECK = "check who answers in that name"

type _Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Failure(Exception):
    """A failure that is already told in our own words, with what to do about it."""

    def __init__(self, told: str, remedy: str = _LATER) -> None:
        super().__init__(told)
        self.remedy = remedy


class Fetcher:
    """Sends one request at a time per call; calls may overlap. Holds no connection and nothing secret."""

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        pins: PinGuard | None = None,
        egress: Callable[[], Collection[Origin]] | None = None,
        proxy: Callable[[], EgressProxy | None] = lambda: None,
        connect_seconds: float = 5.0,
        total_seconds: float = 10.0,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """Raises ConfigError if `ca_file` (PEM, trusted besides certifi's) cannot be used.

        `egress` names the only places that requests may go to; without it they go anywhere. `proxy` is on the way of
        those that have none of their own.
        """
        self._tls = _tls_context(ca_file)
        self._pins = pins
        self._egress = egress
        self._proxy = proxy
        self._connect_seconds = connect_seconds
        self._total_seconds = total_seconds
        self._max_bytes = max_bytes

    async def send(self, request: Request) -> Response:
        """The answer. Raises TokenUnavailable, in one sentence without secrets, if there was none in time.

        A timeout or cancellation does not tell whether the provider acted on the request.
        """
        try:
            async with asyncio.timeout(self._total_seconds):
                return await self._exchange(request)
        except TimeoutError:
            problem, remedy = f"did not answer within {self._total_seconds:g} s", _LATER
        except (_Failure, OSError, UnicodeError, h11.ProtocolError) as error:
            problem, remedy = _describe(error), _remedy(error)
        # Raised out here, so that no error that quotes bytes of the exchange hangs on to it as its context.
        raise TokenUnavailable(f"{urlsplit(request.url).hostname} {problem}; {remedy}")

    async def _exchange(self, request: Request) -> Response:
        url = urlsplit(request.url)
        self._check_place(url)
        async with self._connected(url, self._way(request, url)) as (reader, writer):
            self._check_key(url, writer)
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
            writer.write(_serialise(http, request, url))
            await writer.drain()
            return await self._read(http, reader)

    def _way(self, request: Request, url: SplitResult) -> EgressProxy | None:
        """The proxy that it goes by. Without TLS, so to this machine alone, it goes by none, which could read it."""
        return (request.proxy or self._proxy()) if url.scheme == "https" else None

    def _check_place(self, url: SplitResult) -> None:
        place = Origin(url.scheme, url.hostname or "", _port(url))
        if self._egress is not None and place not in self._egress():
            raise _Failure("is no host that ccflare is configured to send anything to", "correct the options")

    def _check_key(self, url: SplitResult, writer: asyncio.StreamWriter) -> None:
        host = url.hostname or ""
        if self._pins is None or not self._pins.covers(host):
            return
        if not self._pins.accepts(host, [spki_pin(der) for der in _verified_chain(writer)]):
            raise _Failure(f"has no key of ccflare_upstream_pins ({NOT_PINNED})", _CHECK)

    @contextlib.asynccontextmanager
    async def _connected(self, url: SplitResult, proxy: EgressProxy | None) -> AsyncIterator[_Streams]:
        host, port = url.hostname or "", _port(url)
        if proxy is None:
            reader, writer = await self._open(host, port, is_tls=url.scheme == "https")
        else:
            with _said_of(proxy):
                reader, writer = await self._open(*proxy.origin[1:], is_tls=proxy.origin.scheme == "https")
        inner = writer
        try:
            if proxy is not None:
                reader, inner = await self._tunnel(proxy, host, port, reader, writer)
            yield reader, inner
        finally:
            # Not close(): a peer that never answers TLS's goodbye would hold us for another 30 s.
            inner.transport.abort()
            writer.transport.abort()

    async def _open(self, host: str, port: int, *, is_tls: bool) -> _Streams:
        """A connection by any address, or if that hangs by an IPv4 one: IPv6 may lead nowhere.

        asyncio's own way of trying both (`happy_eyeballs_delay`) fails on loops with eager tasks, such as mitmproxy's:
        https://github.com/python/cpython/issues/124309
        """
        tls = self._tls if is_tls else None
        for family in (socket.AF_UNSPEC, socket.AF_INET):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._connect_seconds / 2):
                    return await asyncio.open_connection(host, port, ssl=tls, family=family)
        raise _Failure(f"could not be connected to within {self._connect_seconds:g} s")

    # With a proxy on the way

    async def _tunnel(
        self, proxy: EgressProxy, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Streams:
        """TLS with the host itself, inside of a tunnel that the proxy opens."""
        seconds = self._connect_seconds
        try:
            async with asyncio.timeout(seconds):
                with _said_of(proxy):
                    await _ask_for_tunnel(proxy, host, port, reader, writer)
                return await self._start_tls(writer, host)
        except TimeoutError:
            told = f"is behind the proxy {proxy}, which has opened no way to it within {seconds:g} s"
            raise _Failure(told) from None

    async def _start_tls(self, writer: asyncio.StreamWriter, host: str) -> _Streams:
        """TLS inside of a tunnel. Its reader is a new one: what the proxy has sent in clear is no answer."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(writer.transport, protocol, self._tls, server_hostname=host)
        if transport is None:
            raise _Failure("has closed the connection")
        protocol.connection_made(transport)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    # The answer

    async def _read(self, http: h11.Connection, reader: asyncio.StreamReader) -> Response:
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data) and len(body) + len(event.data) <= self._max_bytes:
                body += event.data
            elif isinstance(event, h11.Data):
                raise _Failure(f"answered with more than {self._max_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return Response(head.status_code, _text(head.headers), bytes(body))
            elif not isinstance(event, h11.InformationalResponse):
                raise _Failure("does not speak plain HTTP")


@contextlib.contextmanager
def _said_of(proxy: EgressProxy) -> Iterator[None]:
    """What goes wrong in here is the proxy's doing."""
    try:
        yield
    except (_Failure, OSError, UnicodeError, h11.ProtocolError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise _Failure(f"is behind the proxy {proxy}, which {_describe(error)}", _remedy(error)) from None


async def _ask_for_tunnel(
    proxy: EgressProxy, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    authority, allowed = f"{f'[{host}]' if ':' in host else host}:{port}", proxy.authorization
    headers = [(b"Host", authority.encode()), *([(b"Proxy-Authorization", allowed)] if allowed else [])]
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    writer.write(http.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b"")
    await writer.drain()
    while (event := http.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
    status = event.status_code if isinstance(event, h11.Response) else 0
    if not 200 <= status < 300:
        remedy = "correct its user and password" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else _LATER
        raise _Failure(failure_words.tunnel_refused(status), remedy)


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _verified_chain(writer: asyncio.StreamWriter) -> list[bytes]:
    """The certificates (DER) by which the peer was verified, from its own up to the root; none without TLS."""
    connection = writer.get_extra_info("ssl_object")
    if connection is None:
        return []
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return list(connection.get_verified_chain())
    return [certificate.public_bytes(_DER) for certificate in connection._sslobj.get_verified_chain()]


def _text(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _serialise(http: h11.Connection, request: Request, url: SplitResult) -> bytes:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = [
        ("Host", url.netloc),
        *request.headers,
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(request.body))),
        ("Connection", "close"),
    ]
    head = http.send(h11.Request(method=request.method, target=target, headers=headers))
    data = http.send(h11.Data(data=request.body))
    end = http.send(h11.EndOfMessage())
    return b"".join(part for part in (head, data, end) if part)


def _describe(error: Exception) -> str:
    """What went wrong, in words of our own: h11's errors quote the bytes that they stumbled over."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted ({error.verify_message})"
    if isinstance(error, h11.LocalProtocolError):
        return "cannot be sent a request with such headers"
    if isinstance(error, h11.RemoteProtocolError):
        return "broke off its answer or does not speak HTTP"
    if isinstance(error, OSError):
        return f"cannot be reached ({error.strerror or error})"
    return str(error) if isinstance(error, _Failure) else "is no name that can be looked up"


def _remedy(error: Exception) -> str:
    """What to do about it: to wait is of no use where somebody has to correct something."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CHECK
    return error.remedy if isinstance(error, _Failure) else _LATER


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    # Not ssl.create_default_context(): it would write the session keys to the file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # an ssl.SSLError is one too
            raise ConfigError(
                f"the CA file {ca_file} cannot be used ({error.strerror or error}); give a readable PEM file"
            ) from None
    return context
