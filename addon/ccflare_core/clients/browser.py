"""CORS, CSRF and Host checks: which pages may call us, and with which headers our own answers go out. Pure.

A browser sends requests for any page to any address that it reaches, ours included. It says for whom in three headers
that a page cannot forge: Host (a name that DNS rebinding points at us is still the page's name), Origin and
Sec-Fetch-Site. CORS only decides who may read an answer; a plain POST has done its work by then.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ccflare_core.http.headers import Header
from ccflare_core.http.origins import Origin, Origins, is_address, is_loopback

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

HSTS: Header = (b"strict-transport-security", b"max-age=31536000")
PREFLIGHT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself: `site` is where it went.

    `is_vouched` says that nobody can have led a browser here by that name: a certificate stands for it.
    """

    method: str
    site: Origin
    headers: Mapping[str, str] = field(repr=False)
    is_vouched: bool = False

    @property
    def origin(self) -> str | None:
        """The page that asks, if a browser names one."""
        return self.headers.get("origin")

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks if it may ask."""
        return self.method == "OPTIONS" and "access-control-request-method" in self.headers


READ = frozenset(
    {
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"access-control-request-method",
        b"access-control-request-headers",
    }
)
"""The header fields that are read here."""


def read_fields(fields: Iterable[Header]) -> dict[str, str]:
    """What a browser says in these fields, by name in lower case; one that comes twice has a comma between."""
    found: dict[str, str] = {}
    for name, value in fields:
        if (lower := name.lower()) in READ:
            text, known = value.decode(errors="surrogateescape"), found.get(lower.decode())
            found[lower.decode()] = text if known is None else f"{known}, {text}"
    return found


def is_cross_site(said: Mapping[str, str], sites: Origins) -> bool:
    """Whether a browser says that a page from elsewhere is asking. CORS would not keep a plain POST of it away."""
    origin = said.get("origin")
    if origin is not None and sites.have(origin):
        return False
    if said.get("sec-fetch-site") == "cross-site":
        return True
    if origin is None:
        return False
    try:
        return not is_loopback(urlsplit(origin).hostname or "")
    except ValueError:
        return True


def objection(asked: Asked, sites: Origins) -> str | None:
    """Why one of our own pages is not for this request; None if it is.

    Our own page, a page of `sites` and a program that is no browser may ask. From elsewhere only a link leads here.
    """
    if not (asked.is_vouched or _is_own_name(asked.site.host, sites)):
        return "This page is not served under that name."
    if asked.origin is not None:
        own = Origin.parse(asked.origin)
        if own is not None and (own == asked.site or own in sites):
            return None
        return "A web page of another site may not use this."
    if asked.headers.get("sec-fetch-site", "none") in ("none", "same-origin") or _is_link(asked):
        return None
    return "A web page of another site may not use this."


def is_own_page(asked: Asked) -> bool:
    """Whether a browser says that a page of this very address asks, or a person. Nobody is believed without that."""
    if (said := asked.headers.get("sec-fetch-site")) is not None:
        return said in ("none", "same-origin")
    return asked.origin is not None and Origin.parse(asked.origin) == asked.site


def _is_own_name(host: str, sites: Origins) -> bool:
    """Whether it is a name that no stranger's DNS can have pointed at us."""
    return is_address(host) or is_loopback(host) or sites.name(host)


def _is_link(asked: Asked) -> bool:
    fetch = asked.headers.get("sec-fetch-mode"), asked.headers.get("sec-fetch-dest")
    return asked.method == "GET" and fetch == ("navigate", "document")


def may_share(asked: Asked, sites: Origins) -> tuple[Header, ...]:
    """The headers that let the asking page read the answer: for exactly its origin, if that is one of `sites`."""
    vary = (b"vary", b"Origin")
    if asked.origin is None or not sites.have(asked.origin):
        return (vary,) if sites else ()
    origin = asked.origin.encode()
    return (vary, (b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true"))


def preflight(asked: Asked, sites: Origins) -> tuple[Header, ...]:
    """The headers of the answer to a preflight of one of `sites`: it may send what it asks to send."""
    wanted = asked.headers.get("access-control-request-headers", "")
    headers = wanted.encode() if re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,2000}", wanted) else b""
    return (
        *may_share(asked, sites),
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", headers),
        (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
    )


def transport_security(asked: Asked) -> tuple[Header, ...]:
    """HSTS for a name of ours; never for an address or this machine's name, where it would break other programs."""
    if asked.site.scheme != "https":
        return ()
    return () if is_address(asked.site.host) or is_loopback(asked.site.host) else (HSTS,)


def is_unsafe(method: str) -> bool:
    """Whether a request with this method may change something."""
    return method.upper() not in _SAFE
