"""Brings answers of ours that come in pieces to their streams, a task for each, as long as their clients take them."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from mitmproxy.proxy import events

from ccflare_core.anthropic.answers import Pieces
from ccflare_mitm.wire.deadlines import ReaderStalled
from ccflare_mitm.wire.layer import FailoverLayer, LayerCommand
from ccflare_mitm.wire.pieces import Piece, PiecesOver
from ccflare_mitm.wire.sockets import reset, unsent_bytes
from ccflare_mitm.wire.stream import FailoverStream

logger = logging.getLogger("ccflare")

UNSENT_BYTES: Final = 256 * 1024
"""What may wait in this process for a client to take it. More than that it will not take, and is cut off."""


class Feeder:
    """See the module. `handlers` are mitmproxy's open connections, by the client's id."""

    def __init__(self, handlers: Mapping[Any, Any]) -> None:
        self._handlers = handlers
        self._working: set[asyncio.Task[None]] = set()

    def start(self, layer: FailoverLayer, stream: FailoverStream, pieces: Pieces) -> None:
        """Bring these to the stream as they come, until one of the two ends."""
        task = asyncio.get_running_loop().create_task(self._feed(layer, stream, pieces))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _feed(self, layer: FailoverLayer, stream: FailoverStream, pieces: Pieces) -> None:
        try:
            async for piece in pieces:
                if self._unsent(layer, stream) > UNSENT_BYTES:
                    await self._cut_off(layer, stream)
                    return
                await self._tell(layer, stream, Piece(piece))
            await self._tell(layer, stream, PiecesOver())
        except Exception:
            logger.exception("A page that goes on has failed; it ends here")
            await self._cut_off(layer, stream)
        finally:
            pieces.close()

    async def _tell(self, layer: FailoverLayer, stream: FailoverStream, event: events.Event) -> None:
        if handler := self._handlers.get(layer.context.client.id):
            await LayerCommand(layer, messages=[(stream, event)]).bring(handler)

    def _unsent(self, layer: FailoverLayer, stream: FailoverStream) -> int:
        handler = self._handlers.get(layer.context.client.id)
        in_socket = unsent_bytes(handler, layer.context.client) if handler else 0
        return in_socket + layer.waiting_bytes().get(stream.stream_id, 0)

    async def _cut_off(self, layer: FailoverLayer, stream: FailoverStream) -> None:
        """End it with what waits. Over HTTP/1 the connection ends with it: a proper close would wait for its reader."""
        handler = self._handlers.get(layer.context.client.id)
        if handler is None:
            return
        if stream.flow.request.is_http2:
            await LayerCommand(layer, stalled=[stream.stream_id]).bring(handler)
            return
        await self._tell(layer, stream, ReaderStalled())
        if connection := handler.transports.get(layer.context.client):
            reset(connection.writer)
