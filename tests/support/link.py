"""The network between a proxy and a server, with its faults: it is slow, or it is gone without a word."""

import contextlib
import select
import socket
import threading
import time

from ccflare_mitm.host.closing import attach_filter

SO_DETACH_FILTER = 27
"""Linux, asm-generic/socket.h; Python has no name for it."""
_NOTHING = (0x06, 0, 0, 0)
"""A filter of the kernel's that lets no packet through, so none is acknowledged either: as a cable that is pulled."""


class Link(threading.Thread):
    """Passes bytes on between clients and a server's port, until it is closed."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._target = ("127.0.0.1", target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        """How many seconds each answer of the server is late."""
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._is_cut = False

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def cut(self) -> None:
        """No packet arrives any more: not of those who are connected, nor of those who try to."""
        with self._lock:
            self._is_cut = True
            for each in (self._listener, *self._clients):
                _drop_packets(each)

    def mend(self) -> None:
        """They do again."""
        with self._lock:
            self._is_cut = False
            for each in (self._listener, *self._clients):
                each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            with self._lock:
                self._clients.add(client)
                if self._is_cut:
                    _drop_packets(client)
            try:
                self._pass_on(client, server)
            finally:
                with self._lock:
                    self._clients.discard(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for source in select.select([client, server], [], [])[0]:
                if not (data := source.recv(65_536)):
                    return
                if source is server:
                    time.sleep(self.delay)
                (server if source is client else client).sendall(data)


def _drop_packets(each: socket.socket) -> None:
    attach_filter(each, [_NOTHING])
