"""What the processes of one proxy tell each other, where several serve one port: the supervisor and its workers.

Each worker has a socket to the supervisor. One byte is one message, and its end is the other's end.
"""

from typing import NamedTuple, Self

VARIABLE = "CCFLARE_WORKER"
"""Says to a process that it is a worker, and which: the text of a Place."""
MOST = 64

PREPARED = b"p"
"""From a worker: it could serve, and waits for GO."""
SERVING = b"s"
"""From a worker: it listens."""
GO = b"g"
"""To a worker: listen. It comes when all are prepared."""
STOP = b"t"
"""To a worker: end as a proxy does at a signal; once more: do not wait for open answers."""


class Place(NamedTuple):
    """Which worker a process is, and the number of its end of the socket."""

    number: int
    """From 1 on."""
    is_first: bool
    """Whether no worker was there before it: whoever has the port then is somebody else."""
    descriptor: int
    folder: str = ""
    """Where the workers can meet, which is for nobody else; "" if nowhere."""

    def __str__(self) -> str:
        return f"{self.number} {self.is_first:d} {self.descriptor} {self.folder}".rstrip()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that was written so. Raises ValueError."""
        number, is_first, descriptor, *folder = text.split(" ", 3)
        return cls(int(number), bool(int(is_first)), int(descriptor), *folder)
