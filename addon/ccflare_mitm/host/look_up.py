"""What addresses a host has, and whether one of them is this machine's."""

import asyncio
import socket
from collections.abc import Sequence

from ccflare_core.http.addresses import THIS_MACHINE, Address


def numeric(host: str, port: int) -> tuple[Address, ...]:
    """The address that `host` is, in any spelling that a resolver takes for one (127.1, 0x7f000001); () for a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()
    return _addresses(found)


async def resolve(host: str, port: int) -> tuple[Address, ...]:
    """All addresses of a name, the one to try first in front. OSError or UnicodeError if there is none."""
    return _addresses(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def is_own(address: Address) -> bool:
    """Whether it is an address of this machine: its own traffic to it would go out from that same address.

    Nothing is sent for that: connecting a UDP socket only asks the routing table.
    """
    if THIS_MACHINE.have(address) or address.ip.is_unspecified:
        return True
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(socket.getaddrinfo(str(address), 9, family, flags=socket.AI_NUMERICHOST)[0][4])
            return Address.parse(probe.getsockname()[0]) in (address, Address(address.ip))
    except OSError:
        return False  # there is no way to it


def _addresses(found: Sequence[tuple[object, object, object, str, tuple[object, ...]]]) -> tuple[Address, ...]:
    parsed = (Address.parse(str(where[0])) for *_, where in found)
    return tuple(dict.fromkeys(each for each in parsed if each is not None))
