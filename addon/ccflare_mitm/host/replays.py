"""Requests that are sent again for a person: the gate knows them by the port that they come from.

A replay is a request of this process to its own port, so that it meets all that a client's request meets. No other
program can have that port at the same time, so nothing has to be sent by which it could be recognised, or forged.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.clients.authentication import Principal


class Replay(NamedTuple):
    """A request that is sent again."""

    of: str
    """The id of the exchange that is repeated."""
    principal: Principal | None
    """The client whose key it was asked with, whose limits hold again; None: it was asked without one."""
    account: str = ""
    """The name of the only account that may serve it; "" for any."""


class Replays:
    """Those that are expected, by address and port, and the flows that they have become."""

    def __init__(self) -> None:
        self._expected: dict[tuple[str, int], Replay] = {}
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Replay] = WeakKeyDictionary()

    def expect(self, address: tuple[str, int], replay: Replay) -> None:
        """The next request from there is this one."""
        self._expected[address] = replay

    def forget(self, address: tuple[str, int]) -> None:
        """No request comes from there any more."""
        self._expected.pop(address, None)

    def recognise(self, flow: http.HTTPFlow) -> Replay | None:
        """What this flow repeats, if it repeats something. Then the list shows the sign of a replay."""
        peer = flow.client_conn.peername
        replay = self._expected.pop((peer[0], peer[1]), None) if self._expected and peer else None
        if replay is not None:
            self._of_flow[flow] = replay
            flow.is_replay = "request"
        return replay

    def of(self, flow: http.HTTPFlow) -> Replay | None:
        """The same, once it is recognised."""
        return self._of_flow.get(flow)
