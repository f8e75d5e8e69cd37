"""Names that a server is reached by, as an option lists them. Pure."""

import re
from typing import NamedTuple, Self

FORM = "names such as host.docker.internal or proxy.example:8443, with commas or spaces between"

_SEPARATORS = re.compile(r"[,\s]+")
_HOST = re.compile(r"([a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::(\d{1,5}))?", re.IGNORECASE | re.ASCII)


class HostName(NamedTuple):
    """A name in lower case, and the port that it goes with; None: the one that is listened on."""

    host: str
    port: int | None


class HostNames(frozenset[HostName]):
    """Some names."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The names in `text`. ValueError names the first word that is none."""
        return cls(_parse(word) for word in _SEPARATORS.split(text) if word)

    def have(self, host: str, port: int, *, here: int) -> bool:
        """Whether a request for this host and port means one of them, on a server that listens `here`."""
        return (host, port) in self or (port == here and (host, None) in self)


def are_hosts(text: str) -> bool:
    """Whether `HostNames.parse` takes it."""
    try:
        HostNames.parse(text)
    except ValueError:
        return False
    return True


def _parse(word: str) -> HostName:
    match = _HOST.fullmatch(word)
    port = int(match[2]) if match and match[2] else None
    if match is None or (port is not None and not 0 < port < 65_536):
        raise ValueError(f"{word!r} is no name such as proxy.example or proxy.example:8443")
    return HostName(match[1].lower().strip("[]"), port)
