"""What is read from sockets, and done to them, past mitmproxy."""

import asyncio
import contextlib
import fcntl
import resource
import socket
import struct
import sys
import termios
from typing import Any

from ccflare_core.config.settings import Settings

OTHER_FILES = 100
"""Open files that are no client's: the database, the listener, the log, refreshes."""


def affordable_clients() -> int:
    """How many clients the limit of open files allows, each with a connection of its own to the upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - OTHER_FILES) // 2) if soft != resource.RLIM_INFINITY else sys.maxsize


def most_clients(settings: Settings) -> int:
    """How many connections of clients there may be."""
    return settings.client_connections or affordable_clients()


def unread_bytes(handler: Any) -> int:
    """How much a client has not taken yet, as soon as some of that waits in this process; 0 else."""
    connection = handler.transports.get(handler.client)
    transport = getattr(connection.writer, "transport", None) if connection else None
    waiting = int(transport.get_write_buffer_size()) if transport is not None else 0
    return waiting + unacknowledged_bytes(connection.writer.get_extra_info("socket")) if waiting else 0


def unacknowledged_bytes(peer: Any) -> int:
    """How much of it waits in the kernel (Linux; else 0), which asks for more only once a third of its buffer is free.

    Without this a client that reads slowly would for a while look like one that does not read.
    """
    with contextlib.suppress(OSError, AttributeError):
        return int(struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    return 0


def pause_reading(handler: Any, is_paused: bool) -> None:
    """Leave what a client sends in the kernel, or take it again. asyncio's reader does the same by itself."""
    connection = handler.transports.get(handler.client)
    transport = getattr(connection.writer, "transport", None) if connection else None
    if transport is not None and not transport.is_closing():
        (transport.pause_reading if is_paused else transport.resume_reading)()


def unsent_bytes(handler: Any, server: Any) -> int:
    """How much a server has not taken yet of what waits for it in this process."""
    connection = handler.transports.get(server)
    transport = getattr(connection.writer, "transport", None) if connection else None
    return int(transport.get_write_buffer_size()) if transport is not None else 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with what waits in it, here and in the kernel."""
    if (peer := writer.get_extra_info("socket")) is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
