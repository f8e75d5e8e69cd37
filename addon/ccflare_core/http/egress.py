"""A proxy on the way out, such as companies have: HTTP with CONNECT, reached plainly or by TLS. Pure."""

import base64
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote

from ccflare_core.http.origins import Origin

FORM = "http:// or https:// with a host and maybe a port, such as http://proxy.example:3128"


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """See the module. Two that are told of different users are different ways out."""

    origin: Origin
    """Where it is, and how the proxy itself is reached: what goes through its tunnels is TLS in any case."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """For people, without user and password."""
        return str(self.origin)

    @property
    def url(self) -> str:
        """All of it, as `parse` takes it. It holds the password."""
        scheme, mark, place = str(self).partition("://")
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{scheme}{mark}{login}{place}"

    @property
    def authorization(self) -> bytes | None:
        """The value of Proxy-Authorization (RFC 7617); None: it is told of nobody."""
        if not self.user:
            return None
        return b"Basic " + base64.b64encode(f"{self.user}:{self.password}".encode())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The proxy that a URL means; USER:PASSWORD@ may stand before its host, percent-encoded.

        ValueError says what a URL of one looks like. It never quotes the text, which may hold a password.
        """
        scheme, mark, rest = text.strip().partition("://")
        login, at, place = rest.rpartition("@")
        origin = Origin.parse(f"{scheme}{mark}{place.removesuffix('/')}")
        user, password = _decoded(login)
        if origin is None or (at and not user):
            raise ValueError(f"a proxy is {FORM}")
        return cls(origin, user, password)

    @classmethod
    def of_mode(cls, spec: str, auth: str | None = None) -> Self | None:
        """The proxy that one of mitmproxy's modes names, if it is `upstream:…`; `auth` is its `upstream_auth`."""
        head, at, listens = spec.rpartition("@")
        kind, _, place = (head if at else listens).partition(":")
        if kind.strip() != "upstream":
            return None
        origin = Origin.parse((place if "://" in place else f"http://{place}").removesuffix("/"))
        user, _, password = (auth or "").partition(":")
        return origin and cls(origin, user, password)


def _decoded(login: str) -> tuple[str, str]:
    """The user and the password; nobody where what stands there makes no header."""
    user, _, password = login.partition(":")
    try:
        both = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        return "", ""
    return both if "".join(both).isprintable() and ":" not in both[0] else ("", "")


def is_open_proxy(text: str) -> bool:
    """Whether it is a proxy's URL that holds neither user nor password, so that anybody may see it."""
    try:
        return not EgressProxy.parse(text).user and "@" not in text
    except ValueError:
        return False
