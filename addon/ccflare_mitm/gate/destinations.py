"""Where a connection may lead: never back here, and for a client key's tunnel not into this machine or its networks.

A name is looked up once, and every address that it has is looked at. The tunnel is connected to the first of them, so
that nobody can point the name somewhere else in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, NamedTuple

from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import Address
from ccflare_core.http.origins import is_loopback
from ccflare_core.http.rejection import Rejection
from ccflare_core.http.targets import is_inside
from ccflare_mitm.host import look_up

LOOPBACK = Address.parse("127.0.0.1")
COMES_BACK: Final = Rejection(
    508,
    "This would come back to this proxy itself, again and again: it is the address that was asked for.",
    is_final=True,
    audit="a request that would come back here",
)

type Resolve = Callable[[str, int], Awaitable[tuple[Address, ...]]]


class Target(NamedTuple):
    """The address to connect to; None: it is not for us to look it up."""

    address: Address | None


class Destinations:
    """See the module. `ports` gives those that the proxy listens on."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        ports: Callable[[], Collection[int]],
        *,
        resolve: Resolve = look_up.resolve,
        is_own: Callable[[Address], bool] = look_up.is_own,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._resolve = resolve
        self._is_own = is_own

    async def comes_back(self, host: str, port: int) -> bool:
        """Whether a connection to it would be one to this proxy. What cannot be looked up is not."""
        if port not in self._ports():
            return False
        try:
            return any(map(self._is_own, await self._addresses(host, port)))
        except (OSError, UnicodeError):
            return False

    async def find(self, host: str, port: int, *, is_limited: bool, is_indirect: bool) -> Target | Rejection:
        """Where a tunnel leads. If it `is_limited` only where client keys may go.

        With another proxy on the way it `is_indirect`: that one looks up names, so addresses alone can be looked at.
        """
        if is_indirect and not look_up.numeric(host, port) and not is_loopback(host):
            return Target(None)
        if not is_limited:
            return COMES_BACK if await self.comes_back(host, port) else Target(None)
        try:
            addresses = await self._addresses(host, port)
        except (OSError, UnicodeError):
            return Rejection(502, f"The name {host[:100]} cannot be looked up.")
        return self._judge(host, port, addresses) or Target(None if is_indirect else addresses[0])

    def _judge(self, host: str, port: int, addresses: tuple[Address, ...]) -> Rejection | None:
        own = {address for address in addresses if self._is_own(address)}
        if own and port in self._ports():
            return COMES_BACK
        targets = self._settings().tunnel_targets
        inside = (address for address in addresses if address in own or is_inside(address))
        if all(targets.have(host, address) for address in inside):
            return None
        message = (
            f"{host[:100]} is on this machine or in a private network, where the tunnels of client keys do not lead; "
            "ccflare_tunnel_targets can name it."
        )
        return Rejection(403, message, audit="a tunnel into a private network")

    async def _addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """All of them, at least one."""
        if found := look_up.numeric(host, port):
            return found
        if is_loopback(host) and LOOPBACK is not None:
            return (LOOPBACK,)  # no resolver is asked what that means
        async with asyncio.timeout(self._settings().connect_seconds):
            found = await self._resolve(host, port)
        if not found:
            raise OSError("no address")
        return found
