"""What tunnels are tested with: their opening, the first bytes in them, and a server at their other end."""

import base64
import contextlib
import socket
import ssl

from fake_upstream import Header
from harness import RawClient, Truncated

ENDED = (Truncated, ConnectionError, ssl.SSLError)
"""What a client sees of a tunnel that was cut, depending on the moment."""


def proof(secret: str) -> tuple[Header, ...]:
    return ((b"Proxy-Authorization", b"Basic " + base64.b64encode(f"key:{secret}".encode())),)


def is_cut(client: RawClient) -> bool:
    """Whether its connection has ended; it is read until then."""
    with contextlib.suppress(*ENDED):
        while client.detach().recv(65536):
            pass
    return True


def client_hello(name: str) -> bytes:
    """What a client begins with that wants to speak to this server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def read_exactly(peer: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if it ends before."""
    data = b""
    while len(data) < size and (piece := peer.recv(size - len(data))):
        data += piece
    return data


class Echo:
    """A server of its own protocol: it repeats what it is sent and never closes first."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self.port: int = self._listener.getsockname()[1]

    def accept(self) -> socket.socket:
        peer, _ = self._listener.accept()
        peer.settimeout(30)
        return peer

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
