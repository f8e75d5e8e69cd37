"""The demonstration behind scripts/demo: everything on loopback, in a temporary folder, gone at the end."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = 48
CLIENTS = 4
LIMITED_AFTER = 8
"""How many requests the first account serves before its 5-hour window is spent: fewer than one client sends."""
ACCOUNTS = {"max-1": "sk-ant-oat01-demo-one", "max-2": "sk-ant-oat01-demo-two"}
START_SECONDS = 60
"""A busy machine takes more than ten of them."""
MODELS = ("claude-opus-4-8", "claude-sonnet-5", "claude-haiku-4-5-20251001")


def main() -> int:
    """Run the demonstration; 0 if every request was served."""
    with tempfile.TemporaryDirectory(prefix="ccflare-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = clean_environment(folder)
        database = ["--database", str(folder / "ccflare.db")]
        say("Starting a simulated upstream, and a proxy with two simulated accounts …")
        upstream = stack.enter_context(upstream_process(environment))
        for account, token in ACCOUNTS.items():
            refresh = token.replace("-oat", "-ort")
            tokens = json.dumps({"access_token": token, "refresh_token": refresh, "expires_in": 28800})
            script("accounts.py", *database, "add", account, "--tokens", "-", environment=environment, stdin=tokens)
        port = free_port()
        with proxy_process(port, upstream, folder, environment) as log:
            wait_for(port, log)
            say(f"Sending {REQUESTS} requests by {CLIENTS} clients; max-1 reaches its limit on the way …")
            with ThreadPoolExecutor(CLIENTS) as clients:
                statuses = [s for part in clients.map(lambda n: send(port, n), range(CLIENTS)) for s in part]
        served = statuses.count(200)
        say(f"{served} of {len(statuses)} requests were answered with 200. What the proxy logged of the limit:\n")
        for line in log.read_text().splitlines():
            if "cooling" in line or "moved from" in line:
                say(f"  {line}")
        for view in ("summary", "accounts", "models"):
            say(f"\n$ scripts/stats.py {view}\n")
            show("stats.py", *database, view, environment=environment)
        return 0 if served == len(statuses) else 1


def send(port: int, client: int) -> list[int]:
    """The statuses of one client's share of the requests, on one kept connection, as one session."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    statuses = []
    for number in range(REQUESTS // CLIENTS):
        body = {
            "model": MODELS[(client + number) % len(MODELS)],
            "max_tokens": 1024,
            "stream": number % 3 != 0,
            "messages": [{"role": "user", "content": f"Question {number} of client {client}"}],
        }
        headers = {"content-type": "application/json", "x-claude-code-session-id": f"demo-session-{client}"}
        connection.request("POST", "/v1/messages", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
        time.sleep(0.02)
    connection.close()
    return statuses


@contextlib.contextmanager
def upstream_process(environment: Mapping[str, str]) -> Iterator[str]:
    """The simulated upstream's address."""
    limit = f"{ACCOUNTS['max-1']}={LIMITED_AFTER}"
    command = [sys.executable, str(ROOT / "tests" / "support" / "fake_upstream"), "--port", "0", "--limit", limit]
    with running(command, environment, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("the simulated upstream has no output")
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@contextlib.contextmanager
def proxy_process(port: int, upstream: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """The proxy's log while it runs."""
    log = folder / "proxy.log"
    command = [str(Path(sys.executable).with_name("mitmdump")), "-s", str(ROOT / "addon" / "ccflare.py")]
    command += ["-p", str(port), "--set", f"confdir={folder / 'mitmproxy'}"]
    command += ["--set", f"ccflare_upstream={upstream}", "--set", f"ccflare_database={folder / 'ccflare.db'}"]
    with log.open("wb") as output, running(command, environment, stdout=output, stderr=output):
        yield log


@contextlib.contextmanager
def running(command: list[str], environment: Mapping[str, str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    process: subprocess.Popen[bytes] = subprocess.Popen(command, env=dict(environment), **options)  # type: ignore[call-overload] # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def script(name: str, *arguments: str, environment: Mapping[str, str], stdin: str = "") -> str:
    """What one of our scripts prints."""
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=dict(environment), timeout=60)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"scripts/{name} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def show(name: str, *arguments: str, environment: Mapping[str, str]) -> None:
    """What one of our scripts prints, where it prints it: it fits its tables to the terminal."""
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    subprocess.run(command, env=dict(environment), check=True, timeout=60)  # noqa: S603


def clean_environment(home: Path) -> dict[str, str]:
    """Only what the processes need: nothing of the user's proxy settings or options."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONOPTIMIZE": "1"}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int, log: Path) -> None:
    """Return once the proxy listens. Raises RuntimeError with its log if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the proxy did not start within {START_SECONDS} s:\n{log.read_text()}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
