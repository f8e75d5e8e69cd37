"""Which addresses may connect, and whose address a request has. Pure.

An address counts as what it is, however it is written: ::ffff:10.0.0.1 is 10.0.0.1. A block wins over a permission.
What a proxy in front says about its client is believed only if that proxy is on a list.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self

Header = tuple[bytes, bytes]

MAPPED_BITS = 96
MOST_HOPS = 32
"""Proxies that a request may have come through. A longer list is nobody's real way."""

_SEPARATORS = re.compile(r"[,\s]+")
_PORT = re.compile(r":\d{1,5}")
_ZONE = re.compile(r"[\w.-]{1,32}", re.ASCII)
_FOR = re.compile(r"""(?:^|;)\s*for=("[^"]*"|[^;,"\s]*)\s*(?=;|$)""", re.IGNORECASE)
_NAMING = frozenset({b"x-forwarded-for", b"forwarded"})
_FORWARDING = _NAMING | {b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via"}
"""What tells that something stands between the client and us."""


class Address(NamedTuple):
    """An IP address, and on IPv6 the link that it belongs to (`eth0` in fe80::1%eth0; "" is any)."""

    ip: IPv4Address | IPv6Address
    zone: str = ""

    def __str__(self) -> str:
        return f"{self.ip}%{self.zone}" if self.zone else str(self.ip)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The address in `text`, IPv4 in an IPv6 coat without the coat; None if it is none."""
        host, separator, zone = text.strip("[]").partition("%")
        if separator and not _ZONE.fullmatch(zone):
            return None
        try:
            ip = ip_address(host)
        except ValueError:
            return None
        if isinstance(ip, IPv6Address):
            return cls(ip.ipv4_mapped) if ip.ipv4_mapped else cls(ip, zone)
        return None if separator else cls(ip)


class Network(NamedTuple):
    """Addresses that start with the same bits; with a zone only those of that link."""

    block: IPv4Network | IPv6Network
    zone: str = ""

    def __str__(self) -> str:
        address = f"{self.block.network_address}%{self.zone}" if self.zone else str(self.block.network_address)
        return f"{address}/{self.block.prefixlen}"

    def has(self, address: Address) -> bool:
        """Whether the address is in it."""
        return self.zone in ("", address.zone) and address.ip in self.block

    @classmethod
    def parse(cls, text: str) -> Self:
        """The network in `text`: CIDR (10.0.0.0/8, fe80::%eth0/64) or one address. ValueError says what is wrong."""
        host, slash, bits = text.partition("/")
        host, separator, zone = host.partition("%")
        if separator and not _ZONE.fullmatch(zone):
            raise ValueError(f"{text!r} has no zone behind its %")
        try:
            block = ip_network(f"{host}{slash}{bits}")
        except ValueError as error:
            raise ValueError(f"{text!r} is no address and no network such as 10.0.0.0/8 ({error})") from None
        if isinstance(block, IPv4Network):
            if separator:
                raise ValueError(f"{text!r} has a zone, which IPv4 does not know")
            return cls(block)
        return cls(_uncoated(block), zone)


def _uncoated(block: IPv6Network) -> IPv4Network | IPv6Network:
    mapped = block.network_address.ipv4_mapped
    return ip_network((mapped, block.prefixlen - MAPPED_BITS)) if mapped and block.prefixlen >= MAPPED_BITS else block


class Networks(tuple[Network, ...]):
    """Some networks."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The networks in `text`, with commas or spaces between. ValueError names the first that is none."""
        return cls(Network.parse(word) for word in _SEPARATORS.split(text) if word)

    def have(self, address: Address | None) -> bool:
        """Whether one of them has the address."""
        return address is not None and any(network.has(address) for network in self)


NOBODY = Networks()
THIS_MACHINE = Networks.parse("127.0.0.0/8 ::1")


def are_networks(text: str) -> bool:
    """Whether `Networks.parse` takes it."""
    try:
        Networks.parse(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `address` is the client's, as far as it can be known, and `text` the same for records."""

    address: Address | None
    text: str
    is_local: bool
    """Whether it is a program on this machine that came straight here, or by trusted proxies on this machine only."""


@dataclass(frozen=True, slots=True)
class Access:
    """The lists together. Everything it is not sure of it refuses."""

    allowed: Networks
    blocked: Networks = NOBODY
    trusted: Networks = NOBODY
    everybody: bool = False
    """Whether all addresses may connect that are not blocked."""

    def admits(self, peer: str) -> bool:
        """Whether this peer may connect. A trusted proxy may, for others: they are asked about one by one."""
        address = Address.parse(peer)
        if address is None or self.blocked.have(address):
            return False
        return self.trusted.have(address) or self._allows(address)

    def serves(self, caller: Caller) -> bool:
        """Whether a request of this caller is answered."""
        address = caller.address
        return address is not None and not self.blocked.have(address) and self._allows(address)

    def _allows(self, address: Address) -> bool:
        return self.everybody or self.allowed.have(address)

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
            return Caller(address, peer, is_local=THIS_MACHINE.have(address) and not signs)
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


def _for(element: str) -> str:
    """The `for` of an element of Forwarded (RFC 7239, 4); "" if there is none, or more than one."""
    found = _FOR.findall(element)
    return found[0].strip('"') if len(found) == 1 else ""


def read_hop(text: str) -> Address | None:
    """The address in an entry of either header, where a port may follow; None for `unknown`, `_hidden` and worse."""
    text = text.strip()
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return Address.parse(host) if bracket and ":" in host and (not port or _PORT.fullmatch(port)) else None
    if text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.fullmatch(f":{port}"):
            return None
    return None if "]" in text else Address.parse(text)
