import asyncio
import ipaddress
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs

from ccflare_core.anthropic.oauth import Endpoints, refresh_request
from ccflare_core.errors import ConfigError, TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.messages import Request, Response
from harness import Port

SECRET = "sk-ant-ort01-planted"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Server:
    """Answers each connection with the same bytes, after `delay` seconds, and keeps what it was sent."""

    answer: bytes = GOOD
    delay: float = 0.0
    drip: bool = False
    hang_up: bool = False
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await _read_request(reader))
            await asyncio.sleep(self.delay)
            for piece in [bytes([byte]) for byte in self.answer] if self.drip else [self.answer]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02 if self.drip else 0)
            if not self.hang_up:
                await reader.read()  # a server need not close because it was asked to
                self.left.set()
        except OSError:
            pass
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/oauth/token"
    try:
        yield server
    finally:
        listener.close()


def request(url: str) -> Request:
    return refresh_request(Endpoints(token_url=url), SECRET)


async def ask(server: Server, fetcher: Fetcher | None = None) -> Response:
    async with running(server):
        return await (fetcher or Fetcher(total_seconds=5)).send(request(server.url))


async def failure(server: Server, fetcher: Fetcher | None = None) -> str:
    """The message of the failure, after a look for the secret in all that hangs on to it."""
    with pytest.raises(TokenUnavailable) as caught:
        await ask(server, fetcher)
    error = caught.value
    assert error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error))
    return str(error)


# --- what is sent and what comes back


async def test_the_request_arrives_whole() -> None:
    server = Server()
    await ask(server)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/oauth/token HTTP/1.1\r\nHost: 127.0.0.1:")
    assert {b"User-Agent: ccflare", b"Connection: close", b"Accept-Encoding: identity"} <= set(head.split(b"\r\n"))
    assert body == request(server.url).body


@pytest.mark.parametrize(
    "raw",
    [
        GOOD,
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD,
        GOOD + b"more than was announced",
    ],
)
async def test_an_answer_is_read_to_its_end_and_no_further(raw: bytes) -> None:
    answer = await ask(Server(raw))
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b"{}")


async def test_an_answer_that_ends_with_the_connection_is_read() -> None:
    answer = await ask(Server(b"HTTP/1.0 200 OK\r\n\r\n{}", hang_up=True))
    assert (answer.status, answer.content_type, answer.body) == (200, "", b"{}")


async def test_an_answer_byte_by_byte_is_put_together() -> None:
    raw = b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}"
    assert (await ask(Server(raw, drip=True))).body == b"{}"


@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_an_error_is_an_answer_too(status: int) -> None:
    raw = b"HTTP/1.1 %d Oh\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n" % status
    answer = await ask(Server(raw))
    assert (answer.status, answer.header("retry-after")) == (status, "7")


async def test_a_redirect_is_not_followed() -> None:
    async with running(Server()) as target:
        raw = f"HTTP/1.1 307 Go\r\nLocation: {target.url}\r\nContent-Length: 0\r\n\r\n".encode()
        assert (await ask(Server(raw))).status == 307
    assert target.requests == []


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await ask(Server())).status == 200


def test_no_repr_shows_what_was_said() -> None:
    answer = Response(200, (("set-cookie", SECRET),), SECRET.encode())
    assert SECRET not in f"{answer!r}{answer}{request('http://127.0.0.1/')!r}{Fetcher()!r}"


# --- what goes wrong


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + SECRET.encode(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET.encode() + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + SECRET.encode() + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        SECRET.encode() + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
async def test_a_broken_answer_is_one_sentence(raw: bytes) -> None:
    message = await failure(Server(raw, hang_up=True))
    assert message.startswith("127.0.0.1 ")
    assert message.endswith("; try again later")


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n", b"\r\n"],
)
async def test_too_big_an_answer_is_cut_off(head: bytes) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 1001)
    assert "more than 1000 bytes" in await failure(server, Fetcher(max_bytes=1000))


async def test_an_answer_of_just_the_limit_is_taken() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    assert len((await ask(Server(raw), Fetcher(max_bytes=1000))).body) == 1000


@pytest.mark.parametrize("server", [Server(delay=30), Server(b"HTTP/1.1 ", hang_up=False), Server(drip=True)])
async def test_the_deadline_is_for_the_whole_exchange(server: Server) -> None:
    started = time.monotonic()
    assert "did not answer within 0.3 s" in await failure(server, Fetcher(total_seconds=0.3))
    assert time.monotonic() - started < 20  # and not the 30 s of the slowest


async def test_a_server_that_never_greets_meets_the_connect_deadline() -> None:
    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        writer.transport.abort()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    with pytest.raises(TokenUnavailable, match=r"could not be connected to within 0\.2 s"):
        await Fetcher(connect_seconds=0.2).send(request(url))
    listener.close()


async def test_a_loop_with_eager_tasks_such_as_mitmproxys_will_do() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        assert (await ask(Server())).status == 200
    finally:
        loop.set_task_factory(None)


async def test_the_loop_goes_on_while_an_answer_is_awaited() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.ensure_future(tick())
    await ask(Server(delay=1))
    ticking.cancel()
    assert ticks > 5


async def test_nobody_listening_is_said() -> None:
    port = Port()
    with pytest.raises(TokenUnavailable, match=r"^127\.0\.0\.1 cannot be reached"):
        await Fetcher().send(request(f"http://127.0.0.1:{port.number}/"))
    port.release()


async def test_an_impossible_name_is_said() -> None:
    with pytest.raises(TokenUnavailable, match="no name that can be looked up"):
        await Fetcher().send(request(f"https://{'a' * 64}.example/"))


async def test_a_header_that_would_split_is_not_sent_nor_shown() -> None:
    server = Server()
    async with running(server):
        bad = Request("POST", server.url, (("Authorization", f"Bearer {SECRET}\r\nX: y"),))
        with pytest.raises(TokenUnavailable, match="cannot be sent") as caught:
            await Fetcher().send(bad)
    assert server.requests == []
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_a_cancelled_call_closes_its_connection() -> None:
    async with running(Server(answer=b"HTTP/1.1 ")) as server:
        call = asyncio.ensure_future(Fetcher().send(request(server.url)))
        while not server.requests:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait_for(server.left.wait(), 60)
    assert call.cancelled()


# --- TLS


@dataclass
class Authority:
    """A certificate authority of the tests' own, in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        self._key, self._cert = certs.create_ca("ccflare tests", "ccflare tests", 2048)
        self.ca_file = self.folder / "ca.pem"
        self.ca_file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def server_context(self, name: x509.GeneralName) -> ssl.SSLContext:
        leaf = certs.dummy_cert(self._key, self._cert, None, [name])
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / "server.pem"
        path.write_bytes(key + leaf.to_pem())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


OURS = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


async def test_a_certificate_of_the_extra_authority_is_trusted(authority: Authority) -> None:
    async with running(Server(), authority.server_context(OURS)) as server:
        answer = await Fetcher(ca_file=authority.ca_file).send(request(server.url))
    assert answer.body == b"{}"


async def test_an_unknown_authority_is_refused_before_anything_is_sent(authority: Authority) -> None:
    async with running(Server(), authority.server_context(OURS)) as server:
        with pytest.raises(TokenUnavailable, match="certificate that is not trusted"):
            await Fetcher().send(request(server.url))
    assert server.requests == []


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    async with running(Server(), authority.server_context(x509.DNSName("other.example"))) as server:
        with pytest.raises(TokenUnavailable, match="certificate that is not trusted"):
            await Fetcher(ca_file=authority.ca_file).send(request(server.url))
    assert server.requests == []


async def test_no_session_keys_are_written_for_anyone(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    async with running(Server(), authority.server_context(OURS)) as server:
        await Fetcher(ca_file=authority.ca_file).send(request(server.url))
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("no PEM"), Path.mkdir])
def test_an_unusable_ca_file_is_named(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    make(path)
    with pytest.raises(ConfigError, match=r"ca\.pem cannot be used .*; give a readable PEM file"):
        Fetcher(ca_file=path)
