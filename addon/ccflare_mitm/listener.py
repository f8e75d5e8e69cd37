"""When and where the proxy listens: only once the options are known, on loopback unless asked, and until it stops."""

import asyncio
import logging
from typing import Any

from mitmproxy import ctx

from ccflare_core.errors import ConfigError
from ccflare_mitm.gate import is_loopback

logger = logging.getLogger("ccflare")

BACKLOG = 4096
"""asyncio's own 100 makes a thousand clients that come at once wait for seconds (measured)."""


def postpone() -> None:
    """Keep mitmproxy from listening before it knows our defaults; `listen` makes up for it.

    mitmproxy begins to bind to its own defaults, every interface and port 8080, one turn of the event loop before
    it loads scripts. That turn has got no further than looking up the address, so it can be called off.
    """
    for task in asyncio.all_tasks():
        if task.get_name() == "setup_servers":
            task.cancel()


def check_address(host: str, *, allow_remote: bool) -> None:
    """Raise ConfigError if others than this machine could reach the proxy and nobody asked for that."""
    if not allow_remote and not is_loopback(host):
        shown = host or "every interface"
        raise ConfigError(
            f"listen_host: {shown} can be reached from other machines; use 127.0.0.1, or set ccflare_allow_remote "
            "if you have a firewall in front."
        )


async def listen() -> bool:
    """Listen as the options say; False if that failed, which mitmproxy has logged then."""
    server: Any = ctx.master.addons.get("proxyserver")
    if any(instance.is_running for instance in server.servers):
        await server.servers.update([])  # it did get through with the defaults: start again
    server.servers._instances.clear()
    done: bool = await server.setup_servers()
    for instance in server.servers:
        for listening in getattr(instance, "_servers", ()):
            for shared in getattr(listening, "sockets", ()):
                shared._sock.listen(BACKLOG)
    return done


async def stop_listening() -> None:
    """Take no more connections; those that are open go on."""
    server: Any = ctx.master.addons.get("proxyserver")
    await server.servers.update([])
