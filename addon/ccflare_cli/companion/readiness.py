"""Whether the proxy is up: asks `/ccflare/ready`, or `/ccflare/health` where that takes a key, and waits for it."""

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from urllib.parse import urlsplit

from ccflare_cli.companion.environment import ProxyAddress

HEALTH = "/ccflare/health"
"""Everybody may ask for it. Who may see the accounts is told whether one can serve, as by `/ccflare/ready`."""
_SECONDS = 3.0
"""For one answer. While the proxy starts it keeps who asks waiting."""
_STEP = 0.2


class Answer(StrEnum):
    """What is at the proxy's address."""

    NOTHING = "nothing listens there"
    STARTING = "it is still starting"
    READY = "it is ready"
    NO_ACCOUNT = "it runs, but no account can serve"
    CLOSED = "it runs, and tells more to a client key alone"
    FOREIGN = "another program answers there"

    @property
    def is_up(self) -> bool:
        """Whether the proxy serves, as far as it can."""
        return self in (Answer.READY, Answer.NO_ACCOUNT, Answer.CLOSED)


def ask(address: ProxyAddress, *, is_closed: bool = False) -> Answer:
    """What is there now. No credential is sent.

    Where that is known not to do (`is_closed`), the one page is asked for that takes none: others would count each time
    as a stranger's attempt.
    """
    try:
        return _meaning(*_get(address, HEALTH if is_closed else "/ccflare/ready", {}))
    except ssl.SSLError:
        return Answer.CLOSED  # it wants a certificate
    except TimeoutError:
        return Answer.STARTING
    except ConnectionError:
        return Answer.NOTHING
    except (OSError, http.client.HTTPException):
        return Answer.FOREIGN


def takes_run(address: ProxyAddress) -> bool | None:
    """Whether the proxy serves who is in the run that the address names; None if it does not say. No key is sent.

    One that takes no notice of runs serves everybody, in whatever run.
    """
    user = base64.b64encode(f"{address.label}:".encode()).decode()
    try:
        status, _ = _get(address, HEALTH, {"Proxy-Authorization": f"Basic {user}"})
    except (OSError, http.client.HTTPException):
        return None
    return {200: True, 403: False}.get(status)


def _get(address: ProxyAddress, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """The status and the body of a page of the proxy's."""
    parts = urlsplit(f"//{address.place}")
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if address.has_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told that anybody could use
        connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(65_536)
    finally:
        connection.close()


def _meaning(status: int, body: bytes) -> Answer:
    try:
        told = json.loads(body)
    except ValueError:
        return Answer.FOREIGN
    if not isinstance(told, dict):
        return Answer.FOREIGN
    if "ready" in told:
        return Answer.READY if told["ready"] else Answer.NO_ACCOUNT
    if told == {"status": "ok"}:
        return Answer.CLOSED
    if told.get("type") != "error":
        return Answer.FOREIGN
    return Answer.STARTING if status == 503 else Answer.CLOSED


def wait(
    ask: Callable[[], Answer],
    has_failed: Callable[[], bool],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """The answer once the proxy is up, or has failed, or time is over."""
    end = clock() + seconds
    while True:
        answer = ask()
        if answer.is_up or clock() >= end or has_failed():
            return answer
        sleep(_STEP)
