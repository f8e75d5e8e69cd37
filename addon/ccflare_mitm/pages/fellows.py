"""The other workers of the same proxy, as far as one page is to tell of all: each hands its figures to the others.

They meet in a folder that the supervisor has made for them and nobody else: each listens there at a socket of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ccflare_core.reports.metrics import Family
from ccflare_core.reports.worker_metrics import merged, read, write
from ccflare_core.workers import MOST

logger = logging.getLogger("ccflare")

SECONDS: Final = 2.0
"""How long all of them together may take; one that does not answer is left out."""
MOST_BYTES: Final = 16 * 1024 * 1024
_PART_BYTES: Final = 64 * 1024


class Fellows:
    """Of a worker with this number, in this folder; of a proxy that is no worker there are none."""

    def __init__(self, number: int | None = None, folder: Path | None = None) -> None:
        self._number = number
        self._folder = folder
        self._server: asyncio.Server | None = None

    async def serve(self, families: Callable[[], Iterable[Family]]) -> None:
        """Hand over these to whichever of the others asks, until cancelled."""
        if self._folder is None or self._number is None:
            return

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(write(families()))
            writer.close()

        place = self._folder / str(self._number)
        place.unlink(missing_ok=True)  # of the one that had this number before
        try:
            server = await asyncio.start_unix_server(answer, place)
        except OSError as error:
            logger.warning("the other workers cannot ask this one for its metrics: %s", error.strerror or error)
            return
        async with server:
            await server.serve_forever()

    async def all_families(self, own: Iterable[Family]) -> list[Family]:
        """The families of all workers, by a label; of a proxy that is no worker its own, without one."""
        if self._folder is None or self._number is None:
            return [*own]
        others = [self._folder / str(number) for number in range(1, MOST + 1) if number != self._number]
        others = [path for path in others if path.is_socket()]
        found = await asyncio.gather(*(self._ask(path) for path in others))
        told = {int(path.name): families for path, families in zip(others, found, strict=True) if families}
        return [*merged({self._number: [*own], **told})]

    async def _ask(self, path: Path) -> list[Family]:
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return read(await _all_of(reader))
                finally:
                    writer.close()
        except (OSError, ValueError, RecursionError, TimeoutError) as error:
            logger.debug("worker %s does not tell its metrics: %s", path.name, error)
            return []


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes. Raises ValueError if that is too much."""
    found = bytearray()
    while part := await reader.read(_PART_BYTES):
        found += part
        if len(found) > MOST_BYTES:
            raise ValueError("these are too many bytes")
    return bytes(found)
