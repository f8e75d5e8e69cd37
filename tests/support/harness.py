"""Real processes and raw sockets: what the end-to-end tests and the benchmark stand on.

`Proxy` starts a real mitmdump or mitmweb on a folder of its own; `RawClient` and `Http2Client` speak to it
byte by byte, through one of three doors (`via_base_url`, `via_connect`, `via_reverse`); `claude_request` is
what Claude Code sends. Everything is on 127.0.0.1, bounded in time, and stopped by its process id.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from mitmproxy.certs import CertStore

from ccflare_core.config.location import Location, Server
from fake_upstream import TOKEN, FakeUpstream, Header
from programs import Program, run

REPOSITORY = Path(__file__).resolve().parents[2]
ADDON = REPOSITORY / "addon" / "ccflare.py"
READY = Path(__file__).with_name("ready.py")
NOWHERE = "http://127.0.0.1:9/v1/oauth/token"
"""A token endpoint that refuses connections."""

# --------------------------------------------------------------------------------------------------- waiting


def eventually[T](look: Callable[[], T], until: Callable[[T], object] = bool, timeout: float = 60.0) -> T:
    """What `look` returns, as soon as that satisfies `until`; TimeoutError with the last look else.

    The time limit ends what would never come; it is no promise of ours, and so no measure of the machine.
    """
    deadline = time.monotonic() + timeout
    while not until(found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s; last seen: {found!r}")
        time.sleep(0.02)
    return found


def accepts(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def serves(port: int) -> bool:
    """Whether a proxy works through its connections: it closes one at which nothing came but the end.

    Twice, because one that is just giving up closes what it has, but takes no other.
    """
    for _ in range(2):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
                probe.shutdown(socket.SHUT_WR)
                if probe.recv(1):
                    return False
        except OSError:
            return False
    return True


class Port:
    """A port of 127.0.0.1 that nobody else is given until `release`: connections are refused, or a server's.

    On Linux it stays bound: a server that sets SO_REUSEADDR (asyncio's do) may listen on it all the same.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def release(self) -> None:
        self._socket.close()


class BlackHole(Port):
    """A port that never answers a connection attempt (Linux): its queue is full, so further ones are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._socket.listen(0)
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.number))

    def release(self) -> None:
        for filler in self._fillers:
            filler.close()
        super().release()


LISTENING = {"tcp": "0A", "udp": "07"}
"""The state that the kernel shows for a socket that waits for anyone."""


def listening(pid: int, protocol: str = "tcp") -> set[tuple[str, int]]:
    """The addresses and ports on which this process listens, from the kernel's own tables (Linux)."""
    owned = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            owned.add(str(link.readlink()))
    found = set()
    for table, family in ((protocol, socket.AF_INET), (f"{protocol}6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING[protocol] and f"socket:[{fields[9]}]" in owned:
                address, _, port = fields[1].partition(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def connections(port: int) -> int:
    """How many connections that came to this port the server there has not closed, from the kernel's table (Linux)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] != LISTENING["tcp"]]
    return sum(row[9] != "0" for row in here)  # without an inode no process has it any more


# ------------------------------------------------------------------------------------------------- processes


@cache
def authority() -> Path:
    """A folder with mitmproxy's CA, made once: its RSA key takes a while."""
    folder = Path(tempfile.mkdtemp(prefix="ccflare-authority-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    CertStore.from_store(folder, "mitmproxy", 2048)
    return folder


def _environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What a process gets to see: no proxy settings, no options of ours, a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", **extra}


RUNNING: "set[Proxy]" = set()
"""The proxies of the tests that run now: what they say is shown with a failure."""


class Proxy:
    """A real mitmdump (or mitmweb) with our addon. Accounts can be added before it starts and while it runs.

        proxy = Proxy(upstream, ccflare_hold_seconds=0)
        proxy.add_api_key("work", "sk-ant-api03-…")
        with proxy:
            …

    Other keywords are options (`--set name=value`; a bool becomes true or false, None is left out). `script`
    may be another addon or None, `environment` adds variables, `arguments` anything else. A given folder is
    kept; `database` may be another proxy's, or on a server. `anew` is for what the kernel tells of a process.
    """

    def __init__(
        self,
        upstream: FakeUpstream | str | None = None,
        *,
        folder: Path | None = None,
        database: Location | None = None,
        program: str = "mitmdump",
        script: Path | None = ADDON,
        mode: str | None = None,
        listen_host: str | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        anew: bool = False,
        **options: object,
    ) -> None:
        self._start: type[subprocess.Popen[Any]] = subprocess.Popen if anew else Program
        self._run: Callable[..., subprocess.CompletedProcess[Any]] = subprocess.run if anew else run
        self._resources = contextlib.ExitStack()
        if folder is None:
            folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="ccflare-test-")))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.location = database or folder / "home" / "data" / "ccflare.db"
        self.confdir = folder / "confdir"
        self.ca_file = self.confdir / "mitmproxy-ca-cert.pem"
        self.log_file = folder / "proxy.log"
        self.web_token = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = _environment(folder / "home", environment or {})
        (folder / "home").mkdir(exist_ok=True)
        shutil.copytree(authority(), self.confdir, dirs_exist_ok=True)
        self._port, self._web_port = self._reserve(), self._reserve()
        self.port, self.web_port = self._port.number, self._web_port.number
        self._command = self._build(program, script, mode, listen_host, arguments)
        for name, value in {**self._for_upstream(upstream), **options}.items():
            self._command += _setting(name, value)

    def _reserve(self) -> Port:
        port = Port()
        self._resources.callback(port.release)
        return port

    def _build(
        self,
        program: str,
        script: Path | None,
        mode: str | None,
        listen_host: str | None,
        arguments: Sequence[str],
    ) -> list[str]:
        command = [str(Path(sys.executable).with_name(program)), "-p", str(self.port)]
        command += _setting("confdir", self.confdir)
        if script:
            command += ["-s", str(script)]
        if script == ADDON:
            command += _setting("ccflare_database", self.location)
        else:
            listen_host = listen_host or "127.0.0.1"  # our own addon sees to that itself
        if program == "mitmweb":
            command += ["--no-web-open-browser", "--web-port", str(self.web_port)]
            command += _setting("web_password", self.web_token)
        command += ["--mode", mode] if mode else []
        command += ["--listen-host", listen_host] if listen_host else []
        return [*command, *arguments, "-s", str(READY)]

    def _for_upstream(self, upstream: FakeUpstream | str | None) -> dict[str, object]:
        if upstream is None:
            return {}
        if isinstance(upstream, str):
            return {"ccflare_upstream": upstream, "ccflare_token_url": NOWHERE}
        ca_file = upstream.ca_file if upstream.url.startswith("https:") else None
        return {
            "ccflare_upstream": upstream.url,
            "ccflare_token_url": upstream.url + TOKEN,
            "ssl_verify_upstream_trusted_ca": ca_file,
        }

    def __repr__(self) -> str:
        return f"<Proxy {' '.join(self._command)}>"

    @property
    def database(self) -> Path:
        """The database's file; ValueError if it is on a server."""
        if isinstance(self.location, Server):
            raise ValueError("the database is no file")
        return self.location

    # -- its life

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._running().poll()

    def start(self, timeout: float = 60.0) -> Self:
        """Return when it has started; RuntimeError with its log if it ends or takes too long.

        mitmproxy listens before it has looked for errors in the scripts, and serves while it gives up: a port that
        accepts says nothing, so a script of ours says it.
        """
        ready = self.folder / "proxy.ready"
        ready.unlink(missing_ok=True)
        self._process = self._spawn()
        try:
            eventually(lambda: self.returncode is not None or ready.exists(), timeout=timeout)
        except TimeoutError:
            self.kill()
            raise RuntimeError(f"the proxy did not start within {timeout} s:\n{self.log()}") from None
        if self.returncode is not None:
            raise RuntimeError(f"the proxy ended with {self.returncode}:\n{self.log()}")
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        RUNNING.add(self)
        with self.log_file.open("ab") as log:
            return self._start(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is for the tests, which then stop it
            )

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send a signal and return the exit code; TimeoutError (and it is killed) if it does not end."""
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"the proxy did not stop within {timeout} s:\n{self.log()}") from None

    def kill(self) -> int:
        """kill -9."""
        process = self._running()
        process.kill()
        return process.wait(60)

    def close(self) -> None:
        """Stop it if it runs, and give back its ports and its temporary folder."""
        try:
            if self._process and self._process.poll() is None:
                self.stop()
        finally:
            RUNNING.discard(self)
            self._resources.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.log())  # pytest shows it with the failure, as it does with those that run on
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the proxy has not been started")
        return self._process

    # -- what it says and stores

    def log(self) -> str:
        """All it has written to stdout and stderr so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_for_log(self, text: str, timeout: float = 60.0) -> str:
        """The log, as soon as it holds this text."""
        return eventually(self.log, lambda log: text in log, timeout)

    def rows(
        self,
        sql: str,
        parameters: Sequence[object] = (),
        *,
        until: Callable[[list[dict[str, Any]]], object] = lambda rows: True,
        timeout: float = 60.0,
    ) -> list[dict[str, Any]]:
        """The rows of a query, read-only, asked again until they satisfy `until`; TimeoutError else."""

        def look() -> list[dict[str, Any]]:
            if isinstance(self.location, Server):
                return _rows_of_server(self.location, sql, parameters)
            with contextlib.closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(sql, parameters)]

        return eventually(look, until, timeout)

    # -- its accounts

    def accounts(self, *arguments: str, stdin: str = "") -> str:
        """What `scripts/accounts.py` prints on this database; AssertionError with its message if it fails."""
        return self.run_script("accounts.py", *arguments, stdin=stdin)

    def run_script(self, name: str, *arguments: str, stdin: str = "", timeout: float = 60.0) -> str:
        """What a script prints on this database; AssertionError with what it said if it fails."""
        command = [
            sys.executable,
            str(REPOSITORY / "scripts" / name),
            "--database",
            str(self.location),
            *arguments,
        ]
        done = self._run(command, input=stdin, capture_output=True, text=True, env=self._environment, timeout=timeout)
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        said: str = done.stdout
        return said

    def start_script(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        """A script on this database that talks through pipes, for who wants to answer it."""
        command = [sys.executable, str(REPOSITORY / "scripts" / name), "--database", str(self.database), *arguments]
        pipe = subprocess.PIPE
        return self._start(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self._environment)

    def add_api_key(self, name: str, key: str, *, priority: int = 50) -> None:
        """Add an account with an API key."""
        self.accounts("add", name, "--api-key", "-", "--priority", str(priority), stdin=key)

    def add_client_key(self, name: str, *arguments: str) -> str:
        """Make a client key; its secret."""
        return self.run_script("keys.py", "client", "add", name, *arguments).strip()

    def add_tokens(
        self,
        name: str,
        access: str,
        refresh: str | None = None,
        *,
        expires_in: float = 28_800,
        priority: int = 50,
    ) -> None:
        """Add an account with OAuth tokens; `expires_in` in seconds."""
        tokens = {
            "access_token": access,
            "refresh_token": refresh or f"{access.replace('-oat', '-ort')}-refresh",
            "expires_in": expires_in,
        }
        self.accounts("add", name, "--tokens", "-", "--priority", str(priority), stdin=json.dumps(tokens))


StartProxy = Callable[..., Proxy]  # the fixture of conftest.py


class Started(subprocess.Popen[bytes]):
    """A mitmdump started as a user would, with nothing but what the test says."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.log_file = folder / "log"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUNBUFFERED": "1", **variables}
        with self.log_file.open("wb") as log:
            super().__init__(
                [str(Path(sys.executable).with_name("mitmdump")), "-s", str(ADDON), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=folder,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.terminate()
        self.wait(60)


def _rows_of_server(server: Server, sql: str, parameters: Sequence[object]) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(server.text, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(sql.replace("?", "%s").encode(), parameters).fetchall()


def _setting(name: str, value: object) -> list[str]:
    if value is None:
        return []
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return ["--set", f"{name}={text}"]


# -------------------------------------------------------------------------------------------------- HTTP/1.1


class Truncated(Exception):
    """The connection ended before the message did."""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    reason: str
    headers: tuple[Header, ...]

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    head: Head
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return self.head.header(name)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """The data of each server-sent event of the body."""
        return [event_data(event) for event in self.body.split(b"\n\n") if event]


def event_data(event: bytes) -> dict[str, Any]:
    """The data of one server-sent event."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    data: dict[str, Any] = json.loads(b"\n".join(lines))
    return data


class RawClient:
    """One HTTP/1.1 connection, read piece by piece: nothing is read before it is asked for.

    Every call is bounded by `timeout` (TimeoutError); a connection that ends too early raises Truncated.
    """

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, timeout: float = 60.0, source: str = ""
    ) -> None:
        self._socket: socket.socket = socket.create_connection((host, port), timeout, (source, 0) if source else None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.authority = f"{host}:{port}"
        self._buffer = b""
        self._events = b""
        self._left: int | None = 0  # of a body with a content-length; None: chunked
        self._until_close = False
        self._method = ""
        if tls:
            self.start_tls(tls, host)

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Go on in TLS; ssl.SSLError if the certificate is refused."""
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=server_name)
        except BaseException:
            self.close()
            raise
        self.authority = server_name

    def detach(self) -> socket.socket:
        """The socket, for another protocol; this client is then of no more use."""
        return self._socket

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def send_request(self, method: str, target: str, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        """Send a request; Host and Content-Length are added where they are missing."""
        names = {name.lower() for name, _ in headers}
        own = [(b"Host", self.authority.encode())] if b"host" not in names else []
        if (body or method == "POST") and not names & {b"content-length", b"transfer-encoding"}:
            own.append((b"Content-Length", b"%d" % len(body)))
        lines = b"".join(b"%s: %s\r\n" % header for header in (*own, *headers))
        self._method = method
        self.send(
            b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method.encode(), target.encode(errors="surrogateescape"), lines, body)
        )

    def request(self, method: str, target: str, headers: Sequence[Header] = (), body: bytes = b"") -> Reply:
        """Send a request and read the whole answer."""
        self.send_request(method, target, headers, body)
        head = self.read_head()
        return Reply(head.status, head, self.read_body())

    def read_head(self) -> Head:
        """The head of the next answer (a 100 Continue is skipped)."""
        first, *lines = self._read_until(b"\r\n\r\n")[:-4].split(b"\r\n")
        _, status, reason = (*first.split(b" ", 2), b"")[:3]
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
        head = Head(int(status), reason.decode(), headers)
        if head.status == 100:
            return self.read_head()
        self._expect_body(head)
        return head

    def _expect_body(self, head: Head) -> None:
        length = head.header("content-length")
        self._events, self._until_close = b"", False
        if self._method == "HEAD" or head.status in (204, 304):
            self._left = 0
        elif "chunked" in (head.header("transfer-encoding") or ""):
            self._left = None
        else:
            self._left = int(length or 0)
            self._until_close = length is None and self._method != "CONNECT"

    def read_chunk(self) -> bytes:
        """The next piece of the body: one chunk of a chunked one, else what has come; b"" is the end."""
        if self._left is None:
            return self._read_framed()
        if self._left == 0 and not self._until_close:
            return b""
        data = self._buffer or self._socket.recv(65536)
        if not data and not self._until_close:
            raise Truncated(f"{self._left} bytes of the body are missing")
        size = len(data) if self._until_close else min(self._left, len(data))
        data, self._buffer = data[:size], data[size:]
        self._left -= 0 if self._until_close else size
        return data

    def _read_framed(self) -> bytes:
        size = int(self._read_until(b"\r\n").partition(b";")[0], 16)
        data = self._read_exactly(size + 2)[:-2]
        if size == 0:
            self._left = 0
        return data

    def read_body(self) -> bytes:
        """All that is left of the body."""
        return b"".join(iter(self.read_chunk, b""))

    def read_event(self) -> dict[str, Any] | None:
        """The data of the next server-sent event, None at the end of the body."""
        while b"\n\n" not in self._events:
            chunk = self.read_chunk()
            if not chunk:
                return None
            self._events += chunk
        event, _, self._events = self._events.partition(b"\n\n")
        return event_data(event)

    def events(self) -> Iterator[dict[str, Any]]:
        """The data of each server-sent event up to the end of the body."""
        while (event := self.read_event()) is not None:
            yield event

    def is_silent(self, seconds: float = 0.2) -> bool:
        """Whether nothing comes for a while: the only way to show that something did not happen."""
        if self._buffer or self._events:
            return False
        before = self._socket.gettimeout()
        self._socket.settimeout(seconds)
        try:
            self._buffer += self._socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(before)
        return False

    def close(self) -> None:
        """End the connection with a FIN."""
        self._socket.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            self._receive()
        at += len(mark)
        data, self._buffer = self._buffer[:at], self._buffer[at:]
        return data

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise Truncated(f"the connection ended after {self._buffer[-200:]!r}")
        self._buffer += data


# ----------------------------------------------------------------------------------------------- three doors


def trusting(ca_file: Path, *protocols: str) -> ssl.SSLContext:
    """A client's TLS that trusts just this authority, offering these protocols by ALPN."""
    context = ssl.create_default_context(cafile=ca_file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def via_base_url(proxy: Proxy, timeout: float = 60.0) -> RawClient:
    """Door (a): the proxy's own address is the base URL."""
    return RawClient("127.0.0.1", proxy.port, timeout=timeout)


def via_reverse(proxy: Proxy) -> RawClient:
    """Door (c): a proxy started with `mode="reverse:…"`."""
    return RawClient("127.0.0.1", proxy.port)


def via_connect(
    proxy: Proxy,
    host: str,
    port: int = 443,
    ca_file: Path | None = None,
    *,
    alpn: str = "http/1.1",
    headers: Sequence[Header] = (),
) -> RawClient:
    """Door (b): HTTPS_PROXY, so a tunnel with TLS inside that trusts mitmproxy's CA or the one given.

    `headers` are those of the CONNECT.
    """
    client = RawClient("127.0.0.1", proxy.port)
    try:
        client.authority = f"{host}:{port}"
        client.send_request("CONNECT", client.authority, headers)
        head = client.read_head()
        if head.status != 200:
            raise ConnectionRefusedError(f"CONNECT {host}:{port}: {head.status} {head.reason}")
        client.start_tls(trusting(ca_file or proxy.ca_file, alpn), host)
    except BaseException:
        client.close()
        raise
    return client


class Http2Client:
    """HTTP/2 on a TLS socket that agreed on it; any number of requests at once, read piece by piece."""

    def __init__(self, sock: socket.socket, authority: str) -> None:
        self.acknowledges = True
        """Whether it lets the other side send on once it has read."""
        self._socket = sock
        self._authority = authority.encode()
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._heads: dict[int, Head] = {}
        self._data: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._ended: set[int] = set()
        self._broken: dict[int, str] = {}
        self._h2.initiate_connection()
        self._flush()

    @classmethod
    def via_connect(cls, proxy: Proxy, host: str, port: int = 443, headers: Sequence[Header] = ()) -> Self:
        """Through a tunnel, as via_connect()."""
        return cls(via_connect(proxy, host, port, alpn="h2", headers=headers).detach(), host)

    @classmethod
    def to(cls, upstream: FakeUpstream) -> Self:
        """Straight to a fake upstream with TLS and HTTP/2."""
        context = trusting(upstream.ca_file, "h2")
        return cls(RawClient("localhost", upstream.port, tls=context).detach(), "localhost")

    def send_request(self, method: str, target: str, headers: Sequence[Header] = (), body: bytes = b"") -> int:
        """Send a request; its stream's id."""
        stream = self.begin_request(method, target, headers, end=not body)
        self._send_body(stream, body)
        return stream

    def begin_request(self, method: str, target: str, headers: Sequence[Header] = (), *, end: bool = False) -> int:
        """Send the head of a request, whose body never comes unless this is its `end`; its stream's id."""
        stream = self._h2.get_next_available_stream_id()
        pseudo = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", self._authority),
            (b":path", target.encode()),
        ]
        refused = (b"connection", b"host", b"transfer-encoding")
        fields = [(name.lower(), value) for name, value in headers if name.lower() not in refused]
        self._h2.send_headers(stream, [*pseudo, *fields], end_stream=end)
        self._flush()
        return stream

    def _send_body(self, stream: int, body: bytes) -> None:
        while body:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(body))
            if size:
                self._h2.send_data(stream, body[:size], end_stream=size == len(body))
                body = body[size:]
            self._flush()
            if body and not size:
                self._receive()
        self._flush()

    def request(self, method: str, target: str, headers: Sequence[Header] = (), body: bytes = b"") -> Reply:
        """Send a request and read the whole answer."""
        stream = self.send_request(method, target, headers, body)
        head = self.read_head(stream)
        return Reply(head.status, head, self.read_body(stream))

    def read_head(self, stream: int) -> Head:
        """The head of a stream's answer."""
        while stream not in self._heads:
            self._receive(stream)
        return self._heads[stream]

    def read_data(self, stream: int) -> bytes:
        """What has come of a stream's body, at least one byte; b"" is its end."""
        while not self._data[stream]:
            if stream in self._ended:
                return b""
            self._receive(stream)
        data, self._data[stream] = bytes(self._data[stream]), bytearray()
        return data

    def read_body(self, stream: int) -> bytes:
        """All that is left of a stream's body."""
        return b"".join(iter(lambda: self.read_data(stream), b""))

    def wait_for_end(self) -> None:
        """Read until the connection ends, which is Truncated."""
        while True:
            self._receive()

    def reset_stream(self, stream: int) -> None:
        """Give up one stream."""
        self._h2.reset_stream(stream, ErrorCodes.CANCEL)
        self._flush()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive(self, stream: int | None = None) -> None:
        if stream in self._broken:
            raise Truncated(self._broken[stream])
        data = self._socket.recv(65536)
        if not data:
            raise Truncated("the connection ended")
        for event in self._h2.receive_data(data):
            self._handle(event)
        self._flush()

    def _handle(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=int(stream), headers=headers):
                fields = tuple((bytes(name), bytes(value)) for name, value in headers or ())
                self._heads[stream] = Head(int(dict(fields)[b":status"]), "", fields)
            case DataReceived(stream_id=int(stream)):
                self._data[stream] += event.data or b""
                if self.acknowledges:
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            case StreamEnded(stream_id=int(stream)):
                self._ended.add(stream)
            case StreamReset(stream_id=int(stream)):
                self._broken[stream] = f"the stream was reset: {event.error_code!r}"
            case ConnectionTerminated():
                for stream in self._heads.keys() - self._ended:
                    self._broken[stream] = f"the peer went away: {event.error_code!r}"


# ------------------------------------------------------------------------------------ what Claude Code sends


class ClaudeRequest(NamedTuple):
    """`client.send_request(*claude_request())`."""

    method: str
    target: str
    headers: tuple[Header, ...]
    body: bytes


CLIENT_CREDENTIAL: Header = (b"x-api-key", b"sk-ant-api03-the-clients-own-key")
_BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "prompt-caching-scope-2026-01-05,effort-2025-11-24,structured-outputs-2025-12-15,"
    "fine-grained-tool-streaming-2025-05-14,token-counting-2024-11-01"
)


def claude_request(
    size: int = 50_000,
    *,
    model: str = "claude-opus-4-8",
    session: str | None = None,
    stream: bool = True,
    credential: Header | None = CLIENT_CREDENTIAL,
    target: str = "/v1/messages?beta=true",
    extra: Sequence[Header] = (),
) -> ClaudeRequest:
    """A request as Claude Code 2.1.330 sends it, its body of just `size` bytes (2 kB at least).

    `session` is its session id (a new one, if None), `credential` the client's own; `extra` headers go last.
    """
    session = session or str(uuid.uuid4())
    body = _claude_body(size, model, session, stream=stream)
    return ClaudeRequest("POST", target, (*_claude_headers(session, credential), *extra), body)


def _claude_headers(session: str, credential: Header | None) -> tuple[Header, ...]:
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "claude-cli/2.1.330 (external, cli)",
        "X-Claude-Code-Session-Id": session,
        "X-Stainless-Arch": "x64",
        "X-Stainless-Lang": "js",
        "X-Stainless-OS": "Linux",
        "X-Stainless-Package-Version": "0.128.0",
        "X-Stainless-Retry-Count": "0",
        "X-Stainless-Runtime": "node",
        "X-Stainless-Runtime-Version": "v24.3.0",
        "X-Stainless-Timeout": "600",
        "anthropic-beta": _BETAS,
        "anthropic-dangerous-direct-browser-access": "true",
        "anthropic-version": "2023-06-01",
        "x-app": "cli",
        "Connection": "keep-alive",
        "Accept-Encoding": "gzip, deflate, br, zstd",
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return (*pairs, *([credential] if credential else []))


def _claude_body(size: int, model: str, session: str, *, stream: bool) -> bytes:
    cached = {"cache_control": {"type": "ephemeral"}}
    user = json.dumps({"device_id": "0f" * 32, "account_uuid": "", "session_id": session}, separators=(",", ":"))
    billing = "x-anthropic-billing-header: cc_version=2.1.330.440; cc_entrypoint=cli;"
    tools = ("Bash", "Edit", "Glob", "Grep", "Read", "Task", "WebFetch", "Write")
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    content: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello.", **cached}]}],
        "system": [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are Claude Code, Anthropic's official CLI for Claude.", **cached},
            {"type": "text", "text": "@FILL@", **cached},
        ],
        "tools": [{"name": name, "description": f"{name} it.", "input_schema": schema} for name in tools],
        "metadata": {"user_id": user},
        "max_tokens": 64000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        **({"stream": True} if stream else {}),
    }
    body = json.dumps(content, separators=(",", ":")).encode()
    missing = max(0, size - len(body) + len(b"@FILL@"))
    sentence = b"Be concise, direct and to the point. "
    return body.replace(b"@FILL@", (sentence * (missing // len(sentence) + 1))[:missing])
