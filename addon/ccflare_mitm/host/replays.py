"""Requests that are sent again for a person: the gate knows them by both ends of their connection.

A replay is a request of this process to its own port, so that it meets all that a client's request meets. No other
program can have a connection between the same ends at the same time, so nothing has to be sent by which it could be
recognised, or forged. Its own end alone would not do: the kernel gives one port to several connections, as long as
they lead to different places, and the proxy may listen in more than one.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.clients.authentication import Principal

type End = tuple[str, int]
"""Address and port."""


class Ends(NamedTuple):
    """A connection, as the proxy sees it."""

    peer: End
    here: End


class Replay(NamedTuple):
    """A request that is sent again."""

    of: str
    """The id of the exchange that is repeated."""
    principal: Principal | None
    """The client whose key it was asked with, whose limits hold again; None: it was asked without one."""
    account: str = ""
    """The name of the only account that may serve it; "" for any."""


class Replays:
    """Those that are expected, by their connections, and the flows that they have become."""

    def __init__(self) -> None:
        self._expected: dict[Ends, Replay] = {}
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Replay] = WeakKeyDictionary()

    def expect(self, ends: Ends, replay: Replay) -> None:
        """The next request on this connection is this one."""
        self._expected[ends] = replay

    def forget(self, ends: Ends) -> None:
        """No request comes on it any more."""
        self._expected.pop(ends, None)

    def recognise(self, flow: http.HTTPFlow) -> Replay | None:
        """What this flow repeats, if it repeats something. Then the list shows the sign of a replay."""
        ends = ends_of(flow) if self._expected else None
        replay = self._expected.pop(ends, None) if ends else None
        if replay is not None:
            self._of_flow[flow] = replay
            flow.is_replay = "request"
        return replay

    def of(self, flow: http.HTTPFlow) -> Replay | None:
        """The same, once it is recognised."""
        return self._of_flow.get(flow)


def ends_of(flow: http.HTTPFlow) -> Ends | None:
    """The ends of the client's connection; None if it has none."""
    peer, here = flow.client_conn.peername, flow.client_conn.sockname
    return Ends((peer[0], peer[1]), (here[0], here[1])) if peer and here else None
