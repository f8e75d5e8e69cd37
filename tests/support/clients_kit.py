"""Claude Code and the Python SDK as they are published, and what they need to come to us through each door.

They are in an environment of their own, which `scripts/test --clients` makes. They run in an empty home, with the
API's real host in their settings where a door leaves it there; detour.py keeps all that within this machine.
"""

import contextlib
import json
import os
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from detour import HOST
from fake_upstream import FakeUpstream, Request
from harness import REPOSITORY, Port, Proxy, eventually
from rig import Rig
from terminal import Terminal, running

FOLDER = Path(os.environ.get("CCFLARE_CLIENTS") or REPOSITORY / ".venv-clients")
HERE = REPOSITORY / "tests" / "support"
SECONDS = 120.0
"""How long a client may take. One that is refused, and tries again as it does by itself, takes 180."""


def are_installed() -> bool:
    """Whether the clients are here, in the versions that pyproject.toml names."""
    wanted: list[str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["clients"]
    with contextlib.suppress(OSError):
        return (FOLDER / "installed").read_text().split() == wanted
    return False


def claude_code() -> Path:
    """The program."""
    (program,) = FOLDER.glob("lib/python*/site-packages/claude_agent_sdk/_bundled/claude")
    return program


class Door(StrEnum):
    """The ways into the proxy."""

    BASE_URL = "base-url"
    HTTPS_PROXY = "https-proxy"
    REVERSE = "reverse"


class Said(NamedTuple):
    """What Claude Code printed, an object a line, and how it ended."""

    code: int
    lines: list[dict[str, Any]]

    @property
    def result(self) -> str:
        """The text that it ends with."""
        return str(self.lines[-1]["result"])

    @property
    def retries(self) -> list[dict[str, Any]]:
        """What it tells of attempts that it had to repeat."""
        return [line for line in self.lines if line.get("subtype") == "api_retry"]


class Sdk:
    """The Python SDK in a process of its own, which lasts: to import it takes longer than all that it is asked for."""

    def __init__(self) -> None:
        command = [str(FOLDER / "bin" / "python"), str(HERE / "sdk_turns.py")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={}, start_new_session=True)

    def ask(self, what: str, environment: Mapping[str, str]) -> dict[str, Any]:
        """What it got; `what` is a function of sdk_turns.py, which ends by itself."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"what": what, "environment": environment}), file=self._process.stdin, flush=True)
        got: dict[str, Any] = json.loads(self._process.stdout.readline())
        return got

    def close(self) -> None:
        """Let it end."""
        with self._process:
            self._process.kill()


class Town(NamedTuple):
    """A proxy for each door with its upstream behind it, a witness in front of all, and the SDK."""

    rigs: dict[Door, Rig]
    ports: dict[Door, int]
    """Where each door is, with the witness in between."""
    ca_file: Path
    testimony: Path
    sdk: Sdk

    def environment(self, door: Door, home: Path, credential: Mapping[str, str]) -> dict[str, str]:
        """What a client needs to come through this door. Whatever else it may want, it wants of our HTTPS proxy."""
        proxy = f"http://127.0.0.1:{self.ports[Door.HTTPS_PROXY]}"
        address = {} if door is Door.HTTPS_PROXY else {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.ports[door]}"}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
            "NODE_EXTRA_CA_CERTS": str(self.ca_file),
            "SSL_CERT_FILE": str(self.ca_file),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **address,
            **credential,
        }

    def testimonies(self, count: int = 0) -> list[dict[str, Any]]:
        """What the witness has seen of the API's paths and no one asked for yet, as soon as that is so much."""
        found = eventually(self._seen, lambda seen: len(seen) >= count)
        self.testimony.unlink(missing_ok=True)
        return found

    def _seen(self) -> list[dict[str, Any]]:
        lines = self.testimony.read_text().splitlines(keepends=True) if self.testimony.exists() else []
        seen = [json.loads(line) for line in lines if line.endswith("\n")]
        return [each for each in seen if each["path"].startswith("/v1/m")]


@contextmanager
def a_town(folder: Path) -> Iterator[Town]:
    """All of it, running. What the doors lead to is warm by the time that the SDK is."""
    with contextlib.ExitStack() as stack:
        sdk = Sdk()
        stack.callback(sdk.close)
        plain = stack.enter_context(_rig(folder / "regular", None))
        reverse = stack.enter_context(_rig(folder / "reverse", f"reverse:https://{HOST}"))
        rigs = {Door.BASE_URL: plain, Door.HTTPS_PROXY: plain, Door.REVERSE: reverse}
        ports = {door: stack.enter_context(_port()) for door in (Door.BASE_URL, Door.REVERSE)}
        witness = Proxy(
            folder=folder / "witness",
            script=HERE / "witness.py",
            mode=f"upstream:http://127.0.0.1:{plain.proxy.port}",
            arguments=[f"--mode=reverse:http://127.0.0.1:{rigs[door].proxy.port}@{ports[door]}" for door in ports],
            witness_file=folder / "testimony",
            ssl_verify_upstream_trusted_ca=plain.proxy.ca_file,
        )
        stack.enter_context(witness)
        yield Town(rigs, {**ports, Door.HTTPS_PROXY: witness.port}, witness.ca_file, folder / "testimony", sdk)


def detoured(upstream: FakeUpstream, folder: Path, **options: Any) -> Proxy:
    """A proxy whose API is simulated under its real name: detour.py leads it to this upstream."""
    return Proxy(
        f"https://{HOST}",
        folder=folder,
        arguments=["-s", str(HERE / "detour.py")],
        detour_port=upstream.port,
        ssl_verify_upstream_trusted_ca=upstream.ca_file,
        **options,
    )


@contextmanager
def _rig(folder: Path, mode: str | None) -> Iterator[Rig]:
    """A proxy for the API's own host, open to this machine without a key although there is one."""
    with FakeUpstream(tls=True, http2=True) as upstream:
        proxy = detoured(upstream, folder, mode=mode, ccflare_open_loopback=True, ccflare_hold_seconds=0)
        database = proxy.database
        with contextlib.closing(Store.open(database, KeyFile(database.with_suffix(".key")))) as store:
            key = store.clients.add(new_key("laptop", time.time()))
        (folder / "client key").write_text(key)
        with proxy:
            yield Rig(proxy, upstream)


@contextmanager
def _port() -> Iterator[int]:
    port = Port()
    try:
        yield port.number
    finally:
        port.release()


class Visitor:
    """One test's clients at one door: an empty home, and the credential that each call names."""

    def __init__(self, town: Town, door: Door, home: Path) -> None:
        self.town = town
        self.door = door
        self.rig = town.rigs[door]
        self.key = (self.rig.proxy.folder / "client key").read_text()
        self.home = home

    def claude(self, prompt: str, *arguments: str, **credential: str) -> Said:
        """What Claude Code says to a prompt; subprocess.TimeoutExpired if it takes too long."""
        done = subprocess.run(
            [str(claude_code()), "-p", prompt, "--output-format", "stream-json", "--verbose", *arguments],
            env=self.town.environment(self.door, self.home, credential),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return Said(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])

    def terminal(self, **credential: str) -> contextlib.AbstractContextManager[Terminal]:
        """Claude Code in a terminal."""
        return running(claude_code(), self.home, self.town.environment(self.door, self.home, credential))

    def sdk(self, what: str, **credential: str) -> dict[str, Any]:
        """What the Python SDK got; `what` is a function of sdk_turns.py."""
        return self.town.sdk.ask(what, self.town.environment(self.door, self.home, credential))

    def arrived(self) -> list[Request]:
        """What reached the upstream of what an account serves."""
        return [request for request in self.rig.requests if request.path.startswith("/v1/m")]
