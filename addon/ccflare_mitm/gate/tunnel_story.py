"""What is known of one tunnel to another host: who opened it, to where, how much went through it, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ccflare_core.clients.authentication import Principal
from ccflare_core.clients.keys import ClientKey
from ccflare_core.clients.rate_limits import Moment
from ccflare_core.http.addresses import Address


@dataclass(eq=False)
class TunnelStory:
    """See the module. `on_end` is called once, with why."""

    principal: Principal = field(repr=False)
    key: ClientKey
    client_ip: str
    host: str
    port: int
    began: Moment
    on_end: Callable[["TunnelStory", str], None] = field(repr=False)
    address: Address | None = None
    """Where it is connected to; None: another proxy on the way looks that up."""
    sent_bytes: int = 0
    received_bytes: int = 0
    is_over: bool = False

    def end(self, why: str) -> None:
        """It is over. Only the first word counts."""
        if not self.is_over:
            self.is_over = True
            self.on_end(self, why)
