"""A mitmproxy script: connections to the API's real host end at a port of this machine, those to others are refused.

So a client can use its own settings, whose host is the real one, and still reach nothing but the simulated upstream.
The detour is below mitmproxy, as a name server's would be: for mitmproxy and for ccflare the address is the real one.
"""

import asyncio
import logging
from typing import Any

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

HOST = "api.anthropic.com"
logger = logging.getLogger(__name__)
REFUSED = "the tests reach no other host"


class Detour:
    """See the module."""

    def load(self, loader: Loader) -> None:
        loader.add_option("detour_port", int, 9, "Where connections to the API's host end.")
        connect = asyncio.open_connection

        def detoured(host: Any = None, port: Any = None, **how: Any) -> Any:
            return connect("127.0.0.1", ctx.options.detour_port, **how) if host == HOST else connect(host, port, **how)

        asyncio.open_connection = detoured

    def server_connect(self, data: ServerConnectionHookData) -> None:
        assert data.server.address is not None
        host = data.server.address[0]
        if host not in (HOST, "127.0.0.1"):
            data.server.error = REFUSED
            logger.warning("%s: %s", host, REFUSED)


addons = [Detour()]
