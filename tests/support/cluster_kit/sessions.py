"""The load: so many sessions, each with a connection of its own and turns in their time, some of which change proxies.

An answer is read to its end, and counted by its status; a request without one is what must not happen.
"""

import asyncio
import contextlib
import itertools
import json
import random
import resource
import time
import uuid
from pathlib import Path
from typing import Any

from cluster_kit.scale import Sent

PATIENCE_SECONDS = 120.0
"""How long an answer may take: as long as a client waits, for a request may be held while no account is free."""
MODELS = ("claude-opus-4-8", "claude-sonnet-5")
_HEAD = (
    "POST /v1/messages?beta=true HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "User-Agent: cluster/{number}\r\nX-Claude-Code-Session-Id: {session}\r\nAnthropic-Version: 2023-06-01\r\n"
    "X-Api-Key: unused\r\nContent-Length: {length}\r\n\r\n"
)
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """All sessions, and what came of their requests."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.ports: list[int] = job["ports"]
        self.random = random.Random(job["seed"])
        self.numbers = itertools.count(1)
        self.ends = time.monotonic() + job["seconds"]
        self.sent: list[Sent] = []

    async def run(self) -> None:
        """Let every session play until the time is over."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.job["sessions"]):
                group.create_task(Session(self, number).play())


class Session:
    """One session: one request at a time, on a connection that is kept."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._id = str(uuid.UUID(int=load.random.getrandbits(128), version=4))
        self._model = MODELS[number % len(MODELS)]
        self._proxy = number % len(load.ports)
        self._pause = load.job["sessions"] / load.job["rate"]
        self._wire: Wire | None = None

    async def play(self) -> None:
        """Take turns until the time is over."""
        load = self._load
        await self._rest(load.random.uniform(0, self._pause))
        for turn in itertools.count():
            if time.monotonic() >= load.ends:
                break
            if turn and load.random.random() < load.job["move_share"]:
                self._move()
            await self._take_turn(turn)
            await self._rest(load.random.uniform(0.5, 1.5) * self._pause)
        self._hang_up()

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self._load.ends - time.monotonic())))

    def _move(self) -> None:
        self._hang_up()
        self._proxy = (self._proxy + self._load.random.randint(1, len(self._load.ports) - 1)) % len(self._load.ports)

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._wire[1].transport.abort()
            self._wire = None

    async def _take_turn(self, turn: int) -> None:
        load, number, at = self._load, next(self._load.numbers), time.time()
        streams = load.random.random() < load.job["stream_share"]
        leaves = streams and load.random.random() < load.job["leave_share"]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                came = await self._ask(self._request(number, streams), leaves=leaves)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            came = f"lost: {type(error).__name__} {error}"
        if came == "left" or came.startswith("lost"):
            self._hang_up()
        load.sent.append(Sent(number, self._id, turn, self._proxy, at, time.time(), came))

    def _request(self, number: int, streams: bool) -> bytes:
        said = f"@{number} {self._proxy}@ " + "Go on with what was begun. " * 20
        content = {
            "model": self._model,
            "max_tokens": 1024,
            "stream": streams,
            "messages": [{"role": "user", "content": said}],
        }
        body = json.dumps(content, separators=(",", ":"))
        return (_HEAD.format(number=number, session=self._id, length=len(body)) + body).encode()

    async def _ask(self, request: bytes, *, leaves: bool) -> str:
        if self._wire is None:
            self._wire = await asyncio.open_connection("127.0.0.1", self._load.ports[self._proxy])
        reader, writer = self._wire
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if leaves and head[9:12] == b"200":
            return "left"
        await read_body(reader, head)
        if b"\r\nconnection: close" in head:
            self._hang_up()
        return head[9:12].decode()


async def read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    """Read to the end of an answer with this head in lower case. EOFError if that does not come."""
    if b"\r\ntransfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))


async def play(job: dict[str, Any]) -> None:
    """Play all sessions, and write down what came of their requests."""
    with contextlib.suppress(ValueError, OSError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = Load(job)
    await load.run()
    Path(job["file"]).write_text(json.dumps(load.sent))
