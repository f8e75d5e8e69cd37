"""The requests that ccflare makes itself, and their responses, as values. Pure."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.origins import is_this_machine

MAX_ANSWER_BYTES = 1_000_000

_VISIBLE = re.compile(r"[\x21-\x7e]+")


def check_url(url: str) -> None:
    """Raises ValueError unless secrets may be sent to `url`: https, or plain http to this machine.

    The message never quotes the URL, which may hold a password where none belongs.
    """
    problem = "the address must start with https:// (http:// only for this machine) and hold no user or blanks"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(problem) from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(host))
    plain = host and port != 0 and "@" not in parts.netloc and not set(url) & {"\\", "#"}
    if not (secure and plain and _VISIBLE.fullmatch(url)):
        raise ValueError(problem)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the provider. Raises ValueError if secrets must not be sent to its URL."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    proxy: EgressProxy | None = None
    """The way that it has to go, whatever way others go; None: that of all others."""

    def __post_init__(self) -> None:
        check_url(self.url)


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whatever its status. Header names are lower case; headers and body may hold secrets."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """The first header of this lower-case name, or ""."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def content_type(self) -> str:
        return self.header("content-type")
