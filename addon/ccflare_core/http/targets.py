"""Where the tunnels of client keys may lead: not into this machine or its networks, unless an option says so. Pure."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Self

from ccflare_core.http.addresses import NOBODY, Address, Networks

FORM = "names, addresses and networks such as git.example.lan 10.0.0.0/8, with commas or spaces between"

_SEPARATORS = re.compile(r"[,\s]+")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))
"""Addresses that are IPv4 ones for whoever translates them: NAT64, SIIT, and the oldest way to write them."""
_LOCAL_USE = IPv6Network("64:ff9b:1::/48")
"""What a network translates within itself (RFC 8215): global for Pythons that do not know it yet."""


@dataclass(frozen=True, slots=True)
class TunnelTargets:
    """What may be reached although it is on this machine or in a private network."""

    names: frozenset[str] = frozenset()
    networks: Networks = NOBODY

    @classmethod
    def parse(cls, text: str) -> Self:
        """The targets in `text`. ValueError names the first word that is none."""
        names, networks = set(), []
        for word in filter(None, _SEPARATORS.split(text.lower())):
            if _is_name(word):
                names.add(word)
            else:
                networks.append(word)
        return cls(frozenset(names), Networks.parse(" ".join(networks)))

    def have(self, host: str, address: Address) -> bool:
        """Whether this host may be reached at this address."""
        return host.rstrip(".") in self.names or self.networks.have(address)


def are_targets(text: str) -> bool:
    """Whether `TunnelTargets.parse` takes it."""
    try:
        TunnelTargets.parse(text)
    except ValueError:
        return False
    return True


def is_inside(address: Address) -> bool:
    """Whether the whole internet does not reach it: loopback, link-local, private, shared, reserved or multicast.

    So is an IPv6 address that stands for such an IPv4 one.
    """
    ip = address.ip
    if not ip.is_global or ip.is_multicast or ip in _LOCAL_USE:
        return True
    return isinstance(ip, IPv6Address) and (ip.is_site_local or any(is_inside(Address(each)) for each in _in_it(ip)))


def _in_it(ip: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that this one is a way to."""
    translated = IPv4Address(int(ip) & 0xFFFFFFFF) if any(ip in network for network in _TRANSLATED) else None
    return [each for each in (translated, ip.sixtofour, *(ip.teredo or ())) if each is not None]


def _is_name(word: str) -> bool:
    """Whether it is a name: its last label has a letter, which no way to write an IPv4 address has."""
    return _NAME.fullmatch(word) is not None and not word.rpartition(".")[2].isdigit()
