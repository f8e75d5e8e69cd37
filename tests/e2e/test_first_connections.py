"""Clients that come before the proxy is ready: each that gets a connection gets an answer too, in every door."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import RawClient, Started, eventually

EVERY = 0.005
"""Seconds from one client to the next."""
ENOUGH = 20
"""How many have to be served before the last one comes."""
AT_ONCE = 80
"""How many may wait: the kernel's queue has room for 100, and lets further ones try again after a second or more."""

# On a busy machine a start may take longer than anybody would wait for.
PATIENT = """
from ccflare_mitm.host import opening

opening.WAIT_SECONDS = 300
"""

# Lets the proxy take as long as the test wants to get ready, as a database that is brought up to date first may.
SLOW = """
import asyncio, pathlib
from ccflare_mitm import app
from ccflare_mitm.host import opening

opening.WAIT_SECONDS = 0.5
really_open = app.App.open

async def open_late(self):
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    await really_open(self)

app.App.open = open_late
"""

type Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(stream: Stream) -> bytes:
    """The first line of the answer to a request for a page of the proxy itself."""
    reader, writer = stream
    writer.write(b"GET /ccflare/health HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % writer.get_extra_info("peername")[1])
    return await reader.readline()


async def connect(stream: Stream) -> bytes:
    """The same for a tunnel to the upstream."""
    reader, writer = stream
    writer.write(b"CONNECT api.anthropic.com:443 HTTP/1.1\r\nHost: api.anthropic.com:443\r\n\r\n")
    return await reader.readline()


async def ask_with_tls(stream: Stream) -> bytes:
    """As `ask`, with TLS to the proxy itself, whose authority is too young to be known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    await stream[1].start_tls(context, server_hostname="localhost")
    return await ask(stream)


class Door(NamedTuple):
    """How a proxy is started with an address on the command line, and what a client does with its connection."""

    arguments: str
    speak: Callable[[Stream], Awaitable[bytes]]


DOORS = {
    "base-url": Door("--listen-host 127.0.0.1 -p {port}", ask),
    "base-url-in-a-mode": Door("--mode regular@127.0.0.1:{port}", ask),
    "https-proxy": Door("--listen-host 127.0.0.1 -p {port}", connect),
    "reverse": Door("--listen-host 127.0.0.1 -p {port} --mode reverse:http://127.0.0.1:9", ask),
    # mitmproxy opens UDP beside it, which is closed again.
    "reverse-https": Door("--listen-host 127.0.0.1 -p {port} --mode reverse:https://127.0.0.1:9", ask),
    "tls": Door("--listen-host 127.0.0.1 -p {port} --set ccflare_client_tls=required", ask_with_tls),
    # Nothing listens before it is ready.
    "no-address": Door("-p {port}", ask),
}


class Clients:
    """Clients that come to a port one after the other, whether anybody is there or not."""

    def __init__(self, port: int, speak: Callable[[Stream], Awaitable[bytes]]) -> None:
        self._port = port
        self._speak = speak
        self.answers: list[bytes] = []
        self.failures: list[Exception] = []

    async def come(self) -> None:
        """Come until enough of them are served, or one of them is not."""
        waiting: set[asyncio.Task[None]] = set()
        async with asyncio.timeout(120), asyncio.TaskGroup() as begun:
            while len(self.answers) < ENOUGH and not self.failures:
                if len(waiting) < AT_ONCE:
                    waiting.add(one := begun.create_task(self._one()))
                    one.add_done_callback(waiting.discard)
                await asyncio.sleep(EVERY)

    async def _one(self) -> None:
        try:
            stream = await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionRefusedError:
            return  # nobody listens yet
        try:
            self.answers.append(await self._speak(stream))
        except OSError as problem:
            self.failures.append(problem)
        finally:
            stream[1].transport.abort()  # a TLS connection takes its time to close, longer than the event loop is there


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_first_connections_wait_until_the_proxy_is_ready(tmp_path: Path, port: int, door: Door) -> None:
    clients = Clients(port, door.speak)
    script = tmp_path / "patient.py"
    script.write_text(PATIENT)
    arguments = ("-s", str(script), *door.arguments.format(port=port).split())

    async def start() -> Started:
        coming = asyncio.create_task(clients.come())
        process = await asyncio.to_thread(Started, tmp_path, *arguments)
        await coming
        return process

    with asyncio.run(start()) as process:
        assert process.poll() is None

    assert clients.failures == []
    assert {answer[:12] for answer in clients.answers} == {b"HTTP/1.1 200"}


@pytest.fixture
def starting(tmp_path: Path, port: int) -> Iterator[Started]:
    """A proxy that listens already, and gets ready once there is the file `go`."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    with Started(tmp_path, "-p", str(port), "--listen-host", "127.0.0.1", "-s", str(script)) as process:
        eventually(lambda: "listening at" in process.log)
        yield process


@pytest.mark.parametrize("begin", [b"GET /ccflare/health HTTP/1.1\r\n\r\n", b"CONNECT a.b:443 HTTP/1.1\r\n\r\n"])
def test_a_client_that_waits_for_too_long_is_told_to_come_again(
    starting: Started, tmp_path: Path, port: int, begin: bytes
) -> None:
    with RawClient("127.0.0.1", port) as client, RawClient("127.0.0.1", port) as quiet:
        client.send(begin + bytes(1024**2))  # more than is read, of which it must not be told by a reset
        head = client.read_head()
        assert (head.status, head.header("retry-after")) == (503, "5")
        assert "still starting" in client.read_body().decode()

        (tmp_path / "go").touch()
        eventually(lambda: "ccflare has no account" in starting.log)
        quiet.send_request("GET", "/ccflare/health")  # nobody has looked at where it comes from
        assert quiet.read_head().status == 503
    with RawClient("127.0.0.1", port) as late:
        assert late.request("GET", "/ccflare/health").status == 200


def test_a_stop_during_the_start_ends_it(starting: Started) -> None:
    starting.terminate()

    assert starting.wait(60) == 1
    assert "ccflare: stopped before it was ready" in starting.log


def test_tls_that_waits_for_too_long_gets_an_end(starting: Started, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        assert client.recv(1) == b""


def test_clients_that_have_left_or_asked_by_then_do_no_harm(starting: Started, tmp_path: Path, port: int) -> None:
    """All that they have sent, and their end, is there at once when their wait is over."""
    for said in (b"", b"GET /nowhere HTTP/1.1\r\n\r\n", b"GET /ccflare/health HTTP/1.0\r\nConnection: close\r\n\r\n"):
        for leaves in (True, False):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(said)
                if not leaves:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass

    (tmp_path / "go").touch()
    eventually(lambda: "ccflare has no account" in starting.log)

    with RawClient("127.0.0.1", port) as late:
        assert late.request("GET", "/ccflare/health").status == 200
    assert "crashed" not in starting.log
