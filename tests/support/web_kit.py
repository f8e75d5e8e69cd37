"""What tests see of mitmweb: its pages, and the frames of its update socket."""

import base64
import contextlib
import os
import socket

from harness import Proxy, RawClient, eventually

PAGES = ("/flows", "/options", "/events", "/state", "/commands")


def pages(proxy: Proxy, *paths: str) -> dict[str, bytes]:
    """What mitmweb answers on these paths of its API, or on all that need no flow."""
    token = ((b"Authorization", f"Bearer {proxy.web_token}".encode()),)
    with RawClient("127.0.0.1", proxy.web_port) as client:
        return {path: client.request("GET", path, token).body for path in paths or PAGES}


class WebSocket:
    """The least that reads the frames of mitmweb's update socket."""

    def __init__(self, proxy: Proxy) -> None:
        self._socket = socket.create_connection(("127.0.0.1", proxy.web_port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /updates?token={proxy.web_token} HTTP/1.1",
            f"Host: 127.0.0.1:{proxy.web_port}",
            f"Origin: http://127.0.0.1:{proxy.web_port}",
            f"Authorization: Bearer {proxy.web_token}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self._socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        self.read = b""
        eventually(lambda: b"\r\n\r\n" in self.take())
        assert self.read.startswith(b"HTTP/1.1 101")

    def take(self) -> bytes:
        """All that came so far. Frames from a server are not masked, so their text can be searched as it is."""
        self._socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while data := self._socket.recv(1 << 16):
                self.read += data
        return self.read

    def close(self) -> None:
        self._socket.close()
