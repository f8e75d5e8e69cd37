"""How a session stands, for the status line: as the running proxy tells it, else as its SQLite file does.

The file is read past the program's own store, which would take ten times as long to be there. Nothing in it that is
read is sealed, and nothing is written.
"""

import json
import re
import socket
import sqlite3
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from ccflare_core.reports.session_state import SessionState, of_record, read_session

SECONDS: Final = 0.1
"""How long the proxy may take to tell it: the line is waited for."""
_MOST_BYTES = 65_536
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|\d{1,2})"
# Another number would be a name, for which who answers for names would be asked.
_ADDRESS = re.compile(rf"http://(?:([^/@]*)@)?(localhost|127(?:\.{_BYTE}){{3}}|\[::1\]):(\d{{1,5}})/?", re.ASCII)
_SESSION = re.compile(r"[\w-]{1,100}", re.ASCII)
_KEY = re.compile(r"ccf_[\w-]+", re.ASCII)


class Proxy(NamedTuple):
    """Where the proxy of a client listens, and the client key that it is given, if any."""

    host: str
    port: int
    key: str


def find_proxy(environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that a client with this environment talks to, if that is one on this machine without TLS.

    A credential that is no key of ours is left out, whoever listens there.
    """
    base, proxy = environ.get("ANTHROPIC_BASE_URL"), environ.get("HTTPS_PROXY") or environ.get("https_proxy")
    found = _ADDRESS.fullmatch(base or proxy or "")
    if found is None or int(found[3]) > 65_535:
        return None
    held = environ.get("ANTHROPIC_AUTH_TOKEN") or environ.get("ANTHROPIC_API_KEY") or ""
    key = held if base else (found[1] or "").partition(":")[2]
    return Proxy(found[2].strip("[]"), int(found[3]), key if _KEY.fullmatch(key) else "")


def ask(proxy: Proxy, session: str, seconds: float = SECONDS) -> SessionState | None:
    """What the proxy tells of the session; None if it tells nothing within so many seconds."""
    if not _SESSION.fullmatch(session):
        return None
    key = f"Authorization: Bearer {proxy.key}\r\n" if proxy.key else ""
    head = f"GET /ccflare/api/v1/session/{session} HTTP/1.1\r\nHost: {proxy.host}:{proxy.port}\r\n{key}"
    try:
        status, body = _fetch(proxy, f"{head}Connection: close\r\n\r\n".encode(), time.monotonic() + seconds)
        return of_record(json.loads(body)) if status == b"200" else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _fetch(proxy: Proxy, request: bytes, until: float) -> tuple[bytes, bytes]:
    answer = b""
    with socket.create_connection((proxy.host, proxy.port), _left(until)) as connection:
        connection.settimeout(_left(until))
        connection.sendall(request)
        while left := _MOST_BYTES - len(answer):
            connection.settimeout(_left(until))
            if not (piece := connection.recv(left)):
                break
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return head[9:12], body


def _left(until: float) -> float:
    """Seconds that are left. Raises TimeoutError if none are."""
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def read(database: str, session: str | None, now: float) -> SessionState | None:
    """What is recorded of the session; None if the file cannot be read, or is no database of ours."""
    path = database.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.1)
    except (sqlite3.Error, UnicodeEncodeError):
        return None
    try:
        return read_session(connection.execute, session, now)
    except (sqlite3.Error, UnicodeEncodeError):  # half a character, which no text in a database has
        return None
    finally:
        connection.close()
