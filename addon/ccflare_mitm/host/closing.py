"""The end of listening: who has connected by then is served, and nobody else is let in and then cut off.

The kernel takes connections ahead of us. To close a listener resets those that wait in its queue, each with a request
that has been sent in good faith; a front (nginx, HAProxy) cannot send such a request to another proxy, as nobody knows
what became of it. So new connections are refused first, the queue is emptied, and then the listener is closed.
"""

import asyncio
import contextlib
import select
import socket
import struct
import sys
from array import array
from collections.abc import Sequence

SO_ATTACH_FILTER = 26
"""Linux, asm-generic/socket.h; Python has no name for it."""
_NO_NEWCOMERS = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else take all of it
)
"""A filter of the kernel's (Documentation/networking/filter.rst), which drops what would begin a connection. Who has
sent it repeats it after a second, and finds the port closed."""

HANDSHAKE_SECONDS = 0.05
"""How long a connection that has begun may take to be there; a front is near."""
QUEUE_SECONDS = 1.0
"""How long the queue may take at most."""


async def let_the_last_in(listening: Sequence[asyncio.Server]) -> None:
    """Return when all who have connected are with us, and nobody else can. The servers are to be closed then."""
    sockets = [shared for server in listening for shared in server.sockets]
    waiting = select.poll()
    for shared in sockets:
        refuse_newcomers(shared)
        waiting.register(shared, select.POLLIN)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(QUEUE_SECONDS):
            await asyncio.sleep(HANDSHAKE_SECONDS)
            while waiting.poll(0):  # noqa: ASYNC110 - asyncio itself takes them, and tells nobody
                await asyncio.sleep(0)


def refuse_newcomers(listening: socket.socket) -> None:
    """Have the kernel begin no more connections on this socket. Elsewhere than on Linux there is no such thing."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        attach_filter(listening, _NO_NEWCOMERS)


def attach_filter(to: socket.socket, steps: Sequence[tuple[int, int, int, int]]) -> None:
    """Have the kernel ask this program about each packet that comes to the socket (Linux). Raises OSError."""
    program = array("B", b"".join(struct.pack("HBBI", *step) for step in steps))
    address, _ = program.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(steps), address))
