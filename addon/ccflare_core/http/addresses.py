"""IP addresses and networks, as options, header fields and sockets write them. Pure.

An address counts as what it is, however it is written: ::ffff:10.0.0.1 is 10.0.0.1."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self

MAPPED_BITS = 96
HOUSEHOLD_BITS = 64

_SEPARATORS = re.compile(r"[,\s]+")

_PORT = re.compile(r":\d{1,5}")

_ZONE = re.compile(r"[\w.-]{1,32}", re.ASCII)


class Address(NamedTuple):
    """An IP address, and on IPv6 the link that it belongs to (`eth0` in fe80::1%eth0; "" is any)."""

    ip: IPv4Address | IPv6Address
    zone: str = ""

    def __str__(self) -> str:
        return f"{self.ip}%{self.zone}" if self.zone else str(self.ip)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The address in `text`, IPv4 in an IPv6 coat without the coat; None if it is none."""
        found = _parsed(text)
        return None if found is None else cls(*found)


@lru_cache(1024)
def _parsed(text: str) -> tuple[IPv4Address | IPv6Address, str] | None:
    """What an Address is made of: a connection's is asked for with each of its requests."""
    host, separator, zone = text.strip("[]").partition("%")
    if separator and not _ZONE.fullmatch(zone):
        return None
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        return (ip.ipv4_mapped, "") if ip.ipv4_mapped else (ip, zone)
    return None if separator else (ip, "")


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
        if not self or address is None:  # most lists are empty, and each request is asked about with six
            return False
        return bool([network for network in self if network.has(address)])


NOBODY = Networks()

THIS_MACHINE = Networks.parse("127.0.0.0/8 ::1")


def are_networks(text: str) -> bool:
    """Whether `Networks.parse` takes it."""
    try:
        Networks.parse(text)
    except ValueError:
        return False
    return True


def source_of(address: Address | None) -> str:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from."""
    if address is None or address.ip.version == 4:
        return "" if address is None else str(address)
    return str(IPv6Network((address.ip, HOUSEHOLD_BITS), strict=False))


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
