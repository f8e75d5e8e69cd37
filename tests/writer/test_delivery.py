"""Where alerts go: a real web server, a real program."""

import hashlib
import hmac
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.http.client import Fetcher
from ccflare_core.reports.alerts import Alert, State
from ccflare_core.writer.delivery import PAUSES, SIGNATURE, Command, Undelivered, Webhook, encoded, sinks
from harness import eventually

ALERT = Alert(State.BEGINS, "window", "max-1", 1_800_000_000.0, "its limits are nearly used up: 5h 95 %")
SECRET = "a secret of the test"


@dataclass(slots=True)
class Receiver:
    """A web server that answers with these statuses, then with 204, and keeps what it is sent."""

    statuses: list[int] = field(default_factory=list)
    taken: list[tuple[str | None, bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.taken.append((self.headers[SIGNATURE], body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/alerts"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_alert_is_json_whatever_a_name_has_in_it() -> None:
    odd = ALERT._replace(name="\udcff\x1b<b>")
    assert json.loads(encoded(odd)) == odd.as_json()


@pytest.fixture
def paused() -> list[float]:
    return []


@pytest.fixture
def webhook(receiver: Receiver, paused: list[float]) -> Webhook:
    """As the settings make it, but that its pauses take no time."""
    settings = Settings.build({"ccflare_alert_webhook": receiver.url})
    [made] = sinks(settings, {"ccflare_ALERT_SECRET": SECRET}, Fetcher)
    assert isinstance(made, Webhook)

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    return Webhook(made.url, made.secret, made.send, sleep)


async def test_webhook_sends_the_alert_signed(receiver: Receiver, webhook: Webhook) -> None:
    await webhook(ALERT)

    [(signed, body)] = receiver.taken
    assert signed == f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}"
    assert json.loads(body) == ALERT.as_json()


async def test_webhook_is_tried_three_times(receiver: Receiver, webhook: Webhook, paused: list[float]) -> None:
    receiver.statuses = [500, 302]
    await webhook(ALERT)
    assert (len(receiver.taken), paused) == (3, [*PAUSES])

    receiver.statuses = [500, 500, 503, 204]
    with pytest.raises(Undelivered, match="its answer has the status 503"):
        await webhook(ALERT)
    assert len(receiver.taken) == 6


async def test_webhook_that_cannot_be_reached_is_named_without_a_secret(webhook: Webhook, receiver: Receiver) -> None:
    away = Webhook("http://127.0.0.1:1/token-in-the-path", webhook.secret, webhook.send, webhook.sleep)

    with pytest.raises(Undelivered) as caught:
        await away(ALERT)

    assert "is no host that ccflare is configured to send anything to" in str(caught.value)
    assert "token-in-the-path" not in str(caught.value)
    assert SECRET not in repr(webhook)


@pytest.mark.parametrize("secret", [{}, {"ccflare_ALERT_SECRET": ""}], ids=["unset", "empty"])
def test_webhook_without_a_secret_does_not_start(secret: dict[str, str]) -> None:
    settings = Settings.build({"ccflare_alert_webhook": "https://alerts.example/x"})

    with pytest.raises(Exception, match="ccflare_ALERT_SECRET") as caught:
        sinks(settings, secret, Fetcher)
    assert secret or isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ccflare_alert_webhook", "http://alerts.example/x"),
        ("ccflare_alert_webhook", "https://user:password@alerts.example"),
        ("ccflare_alert_command", "notify 'unfinished"),
    ],
)
def test_options_that_would_send_alerts_in_clear_or_nowhere_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.build({name: value})


def command(tmp_path: Path, program: str, **options: float) -> Command:
    script = tmp_path / "notify.py"
    script.write_text(program)
    environ = {"PATH": "/usr/bin", "HOME": "/home/x", "ccflare_PASSPHRASE": "secret", "ccflare_ALERT_SECRET": SECRET}
    return Command(f"{sys.executable} -I {script} {tmp_path}/taken 'two words; touch x'", environ, **options)


async def test_command_gets_the_alert_and_none_of_our_variables(tmp_path: Path) -> None:
    write = "import json, os, sys; json.dump([sys.argv[2], dict(os.environ), sys.stdin.read()], open(sys.argv[1], 'w'))"

    await command(tmp_path, write)(ALERT)

    argument, environ, body = json.loads((tmp_path / "taken").read_text())
    assert argument == "two words; touch x"
    assert json.loads(body) == ALERT.as_json()
    assert [name for name in environ if name.startswith("ccflare")] == []
    assert environ["HOME"] == "/home/x"


@pytest.mark.parametrize(
    ("program", "seconds", "said"),
    [("raise SystemExit(3)", 60.0, "it ended with 3"), ("import time; time.sleep(60)", 0.2, "it took longer than 0 s")],
)
async def test_command_that_fails_or_hangs_is_told(tmp_path: Path, program: str, seconds: float, said: str) -> None:
    with pytest.raises(Undelivered, match=said):
        await command(tmp_path, program, seconds=seconds)(ALERT)


async def test_command_that_hangs_ends_with_what_it_has_started(tmp_path: Path) -> None:
    line = f"/bin/sh -c 'sleep 60 & echo $! > {tmp_path}/taken; sleep 60'"

    with pytest.raises(Undelivered, match="took longer"):
        await Command(line, {"PATH": os.environ["PATH"]}, seconds=3.0)(ALERT)

    child = int((tmp_path / "taken").read_text())
    eventually(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    """Whether this process is there, and not only waited for by nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Undelivered, match="it cannot be run"):
        await Command(f"{tmp_path}/nothing", {})(ALERT)
