"""Takes alerts to where a person hears of them: a webhook, signed, and a command of the owner's."""

import asyncio
import hashlib
import hmac
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ccflare_core.config.environment import of_others
from ccflare_core.config.options import ALERT_SECRET
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError, ConfigError, TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.messages import Request, Response
from ccflare_core.reports.alerts import Alert
from ccflare_core.secrets.references import read_secret

SIGNATURE = "x-ccflare-signature"
PAUSES = (1.0, 5.0)
"""Seconds before the second and the third try."""
COMMAND_SECONDS = 10.0


class Undelivered(CCFlareError):
    """An alert that did not reach anybody, and why."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Sends alerts as JSON by POST. Who knows the secret can tell that they come from here."""

    url: str
    secret: bytes = field(repr=False)
    send: Callable[[Request], Awaitable[Response]] = field(repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)

    async def __call__(self, alert: Alert) -> None:
        """Raises Undelivered after the third try."""
        body = encoded(alert)
        headers = (("Content-Type", "application/json"), (SIGNATURE, signature(self.secret, body)))
        request = Request("POST", self.url, headers, body)
        for pause in (*PAUSES, None):
            if (problem := await self._try(request)) is None:
                return
            if pause is not None:
                await self.sleep(pause)
        raise Undelivered(f"ccflare_alert_webhook: {problem}")

    async def _try(self, request: Request) -> str | None:
        try:
            response = await self.send(request)
        except TokenUnavailable as error:
            return str(error)
        return None if 200 <= response.status < 300 else f"its answer has the status {response.status}"


@dataclass(frozen=True, slots=True)
class Command:
    """Runs a program, without a shell, with the alert as JSON on its standard input."""

    line: str
    environ: Mapping[str, str] = field(repr=False)
    seconds: float = COMMAND_SECONDS

    async def __call__(self, alert: Alert) -> None:
        """Raises Undelivered."""
        await asyncio.to_thread(self._run, encoded(alert))

    def _run(self, body: bytes) -> None:
        try:
            program = subprocess.Popen(  # noqa: S603
                shlex.split(self.line),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=of_others(self.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise Undelivered(f"ccflare_alert_command: it cannot be run ({error.strerror})") from None
        with program:
            try:
                program.communicate(body, self.seconds)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)  # with what it has started
                raise Undelivered(f"ccflare_alert_command: it took longer than {self.seconds:.0f} s") from None
        if program.returncode:
            raise Undelivered(f"ccflare_alert_command: it ended with {program.returncode}")


type Sink = Webhook | Command


def sinks(settings: Settings, environ: Mapping[str, str], fetch: Callable[..., Fetcher]) -> list[Sink]:
    """Where alerts go, by these settings; `fetch` makes a client of ours, given where it may go.

    Raises ConfigError or VaultError for a webhook without a secret.
    """
    found: list[Sink] = []
    if settings.alert_webhook:
        if (secret := read_secret(environ, ALERT_SECRET)) is None:
            told = "ccflare_alert_webhook: nobody could tell who sends the alerts; set ccflare_ALERT_SECRET, too"
            raise ConfigError(told)
        client = fetch(egress=lambda: settings.alert_egress)
        found.append(Webhook(settings.alert_webhook, secret.encode(), client.send))
    if settings.alert_command:
        found.append(Command(settings.alert_command, environ))
    return found


def encoded(alert: Alert) -> bytes:
    """The alert as JSON."""
    # What is half a character only becomes an escape of JSON's: an alert that cannot be sent would end all others.
    return json.dumps(alert.as_json(), ensure_ascii=False).encode(errors="backslashreplace")


def signature(secret: bytes, body: bytes) -> str:
    """What stands in the header field: `sha256=` and the HMAC-SHA256 of the body."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
