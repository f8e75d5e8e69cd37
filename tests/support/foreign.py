"""A mitmproxy script that gives clients on this machine addresses of other machines: 127.200.113.5 is 203.0.113.5.

So a test can have clients of any address by real connections, none of which leaves the machine.
"""

from typing import Any

from mitmproxy.proxy import server

HERE, THERE = "127.200.113.", "203.0.113."

Handler: Any = server.LiveConnectionHandler
original = Handler.__init__


def connected(self: Any, *arguments: Any) -> None:
    """A connection is here, and nobody has looked at its address yet."""
    original(self, *arguments)
    address, *rest = self.client.peername
    self.client.peername = (address.replace(HERE, THERE), *rest)


Handler.__init__ = connected
