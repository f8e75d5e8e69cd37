"""An upstream that takes bodies without keeping them: how large they were, and their hash, is all that is left."""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

GOOD = (200, {"id": "file_011CNha8iCJcU1wXNR6q4V8w", "type": "file", "filename": "x", "size_bytes": 1})


def read_head(file: IO[bytes]) -> bytes | None:
    """The lines of a request's head; None at the end of the connection."""
    lines = []
    while (line := file.readline()) != b"\r\n":
        if not line:
            return None
        lines.append(line)
    return b"".join(lines)


@dataclass
class Arrived:
    """One request, as far as it has come."""

    head: bytes
    size: int = 0
    is_whole: bool = False
    digest: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def header(self, name: bytes) -> bytes:
        """The value of a header field, b"" if there is none."""
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return next((value.strip() for key, _, value in lines if key.lower() == name), b"")


class Sink:
    """See the module. `answers` are given one after the other, then GOOD; one with `early` bytes comes after so many.

    While `gate` is not set, nothing of a body is read.
    """

    def __init__(self) -> None:
        self.requests: list[Arrived] = []
        self.answers: list[tuple[int, dict[str, object]]] = []
        self.early: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self.gate.set()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            while (head := read_head(file)) is not None:
                arrived = Arrived(head)
                self.requests.append(arrived)
                hashed = hashlib.sha256()
                try:
                    for part in self._parts(arrived, file):
                        arrived.size += len(part)
                        hashed.update(part)
                        if self.early is not None and arrived.size >= self.early:
                            break
                    else:
                        arrived.is_whole = True
                finally:
                    arrived.digest = hashed.hexdigest()
                    arrived.ended.set()
                status, content = self.answers.pop(0) if self.answers else GOOD
                body = json.dumps(content).encode()
                fields = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
                connection.sendall(b"HTTP/1.1 %d x\r\n%s\r\n%s" % (status, fields, body))
                if not arrived.is_whole:
                    while file.read1(65536):  # a reset would take the answer with it
                        pass
                    return

    def _parts(self, arrived: Arrived, file: object) -> Iterator[bytes]:
        read = file.read1  # type: ignore[attr-defined]
        line = file.readline  # type: ignore[attr-defined]
        if b"chunked" in arrived.header(b"transfer-encoding"):
            while size := int(line() or b"-1", 16):
                if size < 0:
                    raise ConnectionResetError("the body broke off")
                yield file.read(size)  # type: ignore[attr-defined]
                line()
            line()
            return
        left = int(arrived.header(b"content-length") or 0)
        while left:
            self.gate.wait(120)
            if not (part := read(min(left, 65536))):
                raise ConnectionResetError("the body broke off")
            left -= len(part)
            yield part
