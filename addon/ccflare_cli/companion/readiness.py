"""Whether the proxy is up: asks `/ccflare/ready`, or `/ccflare/health` where that takes a key, and waits for it."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from enum import StrEnum
from urllib.parse import urlsplit

from ccflare_cli.companion.environment import ProxyAddress

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
        page = "/ccflare/health" if is_closed else "/ccflare/ready"
        connection.request("GET", page, headers={"Connection": "close"})
        answer = connection.getresponse()
        return _meaning(answer.status, answer.read(65_536))
    except ssl.SSLError:
        return Answer.CLOSED  # it wants a certificate
    except TimeoutError:
        return Answer.STARTING
    except ConnectionError:
        return Answer.NOTHING
    except (OSError, http.client.HTTPException):
        return Answer.FOREIGN
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
