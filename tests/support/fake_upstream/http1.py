"""HTTP/1.1: one connection at a time that takes requests and plays their answers."""

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from fake_upstream.answer import Answer, Cut, Step
from fake_upstream.exchange import Exchange, reset_connection
from fake_upstream.request import Header, Request, credential_of

if TYPE_CHECKING:
    from fake_upstream.server import FakeUpstream


class _Head(NamedTuple):
    method: str
    target: str
    headers: tuple[Header, ...]
    length: int
    chunked: bool
    host: str
    expects: bool


def _parse_head(data: bytes) -> _Head:
    """A request's head; ValueError if it is none."""
    first, *lines = data.split(b"\r\n")
    method, target, version = first.split(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(version)
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
    known = {name.lower(): value for name, value in headers}
    return _Head(
        method.decode("latin-1"),
        target.decode("latin-1"),
        headers,
        int(known.get(b"content-length", 0)),
        b"chunked" in known.get(b"transfer-encoding", b"").lower(),
        known.get(b"host", b"").decode("latin-1"),
        known.get(b"expect", b"").lower() == b"100-continue",
    )


def _unchunk(buffer: bytearray) -> tuple[bytes, int] | None:
    """A chunked body and its length on the wire, None if it is not all there; ValueError if it is none."""
    body, at = bytearray(), 0
    while (end := buffer.find(b"\r\n", at)) >= 0:
        size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
        if len(buffer) < end + size + 4:
            return None
        if size == 0:
            return bytes(body), end + 4
        body += buffer[end + 2 : end + 2 + size]
        at = end + size + 4
    return None


class Http1(asyncio.Protocol):
    """One HTTP/1.1 connection: keep-alive, one answer at a time, pipelined requests wait."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self.blocked = False
        self._upstream = upstream
        self._number = 0
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._held = b""  # the head, until the first bytes of the body go with it
        self._method = ""
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.note_connection(transport)

    def data_received(self, data: bytes) -> None:
        self._upstream.bytes_received += len(data)
        self._buffer += data
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.note_disconnection(self._transport)
        if self._exchange:
            self._exchange.abort()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self._exchange:
            self._exchange.play()

    def steps(self, answer: Answer) -> tuple[Step, ...]:
        return answer.frames

    def start(self, request: Request, answer: Answer) -> None:
        self._held = b"%srequest-id: %s\r\n\r\n" % (answer.head, request.id.encode())

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        if self._held:
            self.write(b"")

    def finish(self, answer: Answer) -> None:
        if answer.is_chunked and self._method != "HEAD":
            self.write(b"0\r\n\r\n")
        self.flush()
        self._exchange = None
        if answer.close or answer.raw:
            self._transport.close()
        else:
            asyncio.get_running_loop().call_soon(self._serve)  # a next request may have come meanwhile

    def cut(self, cut: Cut) -> None:
        self._exchange = None
        if cut.reset:
            reset_connection(self._transport)
        else:
            self._transport.close()

    def _serve(self) -> None:
        while self._exchange is None and not self._transport.is_closing():
            try:
                request = self._take()
            except ValueError:
                self._upstream.malformed.append(bytes(self._buffer))
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self._transport.close()
                return
            if request is None:
                return
            self._respond(request)

    def _respond(self, request: Request) -> None:
        answer = self._upstream.begin(request)
        if answer.is_whole and request.method != "HEAD":
            self._transport.write(
                b"%srequest-id: %s\r\n\r\n%s" % (answer.head, request.id.encode(), b"".join(answer.chunks))  # type: ignore[arg-type]
            )
            self._upstream.note_end(request, aborted=False)
            return
        self._method = request.method
        self._exchange = Exchange(self._upstream, self, request, answer)
        self._exchange.play()

    def _take(self) -> Request | None:
        """The next whole request, None while there is none; ValueError if it makes no sense."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head.expects:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._take_body(self._head)
        if body is None:
            return None
        head, self._head = self._head, None
        credential = credential_of(head.headers)
        return Request(head.method, head.target, head.headers, body, head.host, credential, self._number, "HTTP/1.1")

    def _take_body(self, head: _Head) -> bytes | None:
        if head.chunked:
            found = _unchunk(self._buffer)
        else:
            found = (bytes(self._buffer[: head.length]), head.length) if len(self._buffer) >= head.length else None
        if found is None:
            return None
        body, size = found
        del self._buffer[:size]
        return body
