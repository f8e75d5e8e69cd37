"""Which addresses may connect, and whose address a request has. Pure.

An address counts as what it is, however it is written: ::ffff:10.0.0.1 is 10.0.0.1. A block wins over a permission.
What a proxy in front says about its client is believed only if that proxy is on a list.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import NOBODY, THIS_MACHINE, Address, Networks, read_hop
from ccflare_core.http.headers import Header

MOST_HOPS = 32
"""Proxies that a request may have come through. A longer list is nobody's real way."""

_FOR = re.compile(r"""(?:^|;)\s*for=("[^"]*"|[^;,"\s]*)\s*(?=;|$)""", re.IGNORECASE)
_NAMING = frozenset({b"x-forwarded-for", b"forwarded"})
_FORWARDING = _NAMING | {b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via"}
"""What tells that something stands between the client and us."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from: the client's `address`, as far as it can be known, and as `text` for records."""

    address: Address | None
    text: str
    is_local: bool
    """Whether it is a program on this machine that came straight here, or by trusted proxies on this machine only."""


@dataclass(frozen=True, eq=False, slots=True)
class Access:
    """The lists together. Everything it is not sure of it refuses.

    It never changes: other lists are another Access. So what was found of an address holds for as long as it is there.
    """

    allowed: Networks
    blocked: Networks = NOBODY
    trusted: Networks = NOBODY
    everybody: bool = False
    """Whether all addresses may connect that are not blocked."""

    def admits(self, peer: str) -> bool:
        """Whether this peer may connect. A trusted proxy may, for others: they are asked about one by one."""
        return _admits(self, peer)

    def serves(self, caller: Caller) -> bool:
        """Whether a request of this caller is answered."""
        return caller.address is not None and _serves(self, caller.address)

    def caller(self, peer: str, headers: Iterable[Header]) -> Caller:
        """Whose request this is: the peer's, or that of whom a trusted proxy names.

        The rightmost address that is no trusted proxy's is the client: what stands left of it anyone can write. What
        cannot be read counts as not said. What a proxy on another machine calls 127.0.0.1 is that machine. ValueError
        if X-Forwarded-For and Forwarded name different clients: a proxy in front sets one of them and passes on the
        other as its client wrote it.
        """
        address = Address.parse(peer)
        signs = [(name.lower(), value) for name, value in headers if name.lower() in _FORWARDING]
        said = [(name, value) for name, value in signs if name in _NAMING]
        if address is None or not said or not self.trusted.have(address):
            return Caller(address, peer, is_local=not signs and _is_of_this_machine(peer))
        named = {self._client(address, name, said) for name in {name for name, _ in said}}
        if len(named) > 1:
            raise ValueError("X-Forwarded-For and Forwarded name different clients")
        (client,) = named
        if client is None:
            return Caller(address, peer, is_local=False)
        return Caller(client, str(client), is_local=THIS_MACHINE.have(address) and THIS_MACHINE.have(client))

    def _client(self, peer: Address, header: bytes, said: Sequence[Header]) -> Address | None:
        joined = ",".join(value.decode("latin-1") for name, value in said if name == header)
        hops = joined.rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        client = peer
        for hop in reversed(hops):
            named = read_hop(hop if header == b"x-forwarded-for" else _for(hop))
            if named is None:
                return None
            if THIS_MACHINE.have(named) and not THIS_MACHINE.have(client):
                break  # that machine itself, be our own 127.0.0.1 on the list or not
            client = named
            if not self.trusted.have(client):
                break
        return client


# Asked of the same few addresses with every request.


@lru_cache(1024)
def _admits(access: Access, peer: str) -> bool:
    address = Address.parse(peer)
    if address is None or access.blocked.have(address):
        return False
    return access.trusted.have(address) or access.everybody or access.allowed.have(address)


@lru_cache(1024)
def _serves(access: Access, address: Address) -> bool:
    return not access.blocked.have(address) and (access.everybody or access.allowed.have(address))


@lru_cache(1024)
def _is_of_this_machine(peer: str) -> bool:
    return THIS_MACHINE.have(Address.parse(peer))


class AccessLists:
    """The lists as the options and the database have them now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._banned = Networks()
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Go on with these settings."""
        self._settings = settings
        self.access = Access(
            allowed=settings.allow_ips or THIS_MACHINE,
            blocked=Networks((*settings.block_ips, *self._banned)),
            trusted=settings.trusted_proxies,
            everybody=settings.allow_remote and not settings.allow_ips,
        )

    def ban(self, networks: Networks) -> None:
        """Block these too: the ones in the database, in place of those from before."""
        self._banned = networks
        self.change(self._settings)

    def objection(self, peer: str) -> str | None:
        """Why this peer's connection is hung up on; None if it may stay."""
        return None if self.access.admits(peer) else "this address may not connect"


def _for(element: str) -> str:
    """The `for` of an element of Forwarded (RFC 7239, 4); "" if there is none, or more than one."""
    found = _FOR.findall(element)
    return found[0].strip('"') if len(found) == 1 else ""
