"""What a stream is told of an answer of ours that comes in pieces."""

from dataclasses import dataclass

from mitmproxy.proxy import events


@dataclass(frozen=True)
class Piece(events.Event):
    """To a stream: the next piece."""

    data: bytes


class PiecesOver(events.Event):
    """To a stream: there are no more."""
