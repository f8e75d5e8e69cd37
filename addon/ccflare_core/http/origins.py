"""Origins (scheme, host, port) and what a host's name alone says. Pure."""

import re
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, Self

_LOOPBACK_NAME = re.compile(r"(?:.+\.)?localhost\.?", re.IGNORECASE | re.ASCII)

_ORIGIN = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::(\d{1,5}))?", re.IGNORECASE | re.ASCII
)

_SEPARATORS = re.compile(r"[,\s]+")


class Origin(NamedTuple):
    """A scheme, a host and a port; `host` is in lower case, and an IPv6 address has no brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The origin in `text`, the scheme's own port if it has none; None for `null` and all else."""
        if (match := _ORIGIN.fullmatch(text)) is None:
            return None
        scheme, host = match[1].lower(), match[2].lower()
        port = int(match[3] or (443 if scheme == "https" else 80))
        if host.startswith("["):
            host = host[1:-1]
            if not _is_ipv6(host):
                return None
        return cls(scheme, host, port) if 0 < port < 65_536 else None


class Origins(frozenset[Origin]):
    """The origins whose pages may call us and read the answers. Exact ones: there is no pattern."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The origins in `text`, with commas or spaces between. ValueError names the first that is none."""
        found = {word: Origin.parse(word) for word in _SEPARATORS.split(text) if word}
        for word, site in found.items():
            if site is None:
                raise ValueError(f"{word!r} is no origin such as https://ccflare.example:8443")
        return cls(site for site in found.values() if site is not None)

    def have(self, origin: str) -> bool:
        """Whether this value of an Origin header is one of them."""
        return Origin.parse(origin) in self

    def name(self, host: str) -> bool:
        """Whether one of them is on this host."""
        return any(origin.host == host for origin in self)


def are_origins(text: str) -> bool:
    """Whether `Origins.parse` takes it."""
    try:
        Origins.parse(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine by an address or name that no DNS server decides on."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return _LOOPBACK_NAME.fullmatch(host) is not None


def is_this_machine(host: str) -> bool:
    """Whether `host` is a loopback address or `localhost`.

    Of names only that one: without a resolver that knows better, x.localhost is asked for in the network.
    """
    return host.lower() == "localhost" or (is_address(host) and is_loopback(host))


def reachable(host: str) -> str:
    """The address by which programs on this machine reach who listens on `host`, which may mean every address."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104


def is_address(host: str) -> bool:
    """Whether `host` is an IP address and no name."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    try:
        return bool(IPv6Address(host))
    except ValueError:
        return False
