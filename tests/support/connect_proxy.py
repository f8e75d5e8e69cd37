"""A proxy on the way to an upstream, as a company has one: it knows CONNECT and notes what it is asked."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self


class ConnectProxy(socketserver.ThreadingTCPServer):
    """Listens on loopback and leads every CONNECT to one port there, whatever name it says."""

    daemon_threads = True

    def __init__(self, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.upstream_port = upstream_port
        self.heads: list[bytes] = []
        """What it was asked, whole."""

    @property
    def mode(self) -> str:
        """mitmproxy's mode for it."""
        return f"upstream:http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


class _Tunnel(socketserver.BaseRequestHandler):
    server: ConnectProxy

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := self.request.recv(65536)):
                return
            head += data
        self.server.heads.append(head)
        with socket.create_connection(("127.0.0.1", self.server.upstream_port)) as upstream:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pump, args=(upstream, self.request), daemon=True).start()
            _pump(self.request, upstream)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
