"""How the proxy stops: what is open may go on for a while, and the log says what is waited for and for how long."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection

from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.steps import Outcome
from ccflare_core.text import some
from ccflare_core.writer.writer import Writer

logger = logging.getLogger("ccflare")

WRITE_SECONDS = 10.0
"""How long it may take until all is written down."""
UNTOLD_SECONDS = 0.5
"""What takes no longer needs no word."""
DRAIN_POLL = 0.05


async def drain(exchanges: Exchanges, unserved: Callable[[], int], seconds: float, hurry: asyncio.Event) -> None:
    """Wait for open exchanges until `hurry` shortens it, and record the rest as cut.

    Connections that are `unserved` are waited for as well: one that has just come is to have its answer, and one whose
    client reads slowly the rest of it.
    """
    if exchanges.open and seconds:
        logger.info(
            "stopping: %s may go on for up to %.0f s; a second Ctrl-C, or signal, ends that",
            open_ones([exchange.status for exchange in exchanges.open.values()]),
            seconds,
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (exchanges.open or unserved()) and loop.time() < deadline and not hurry.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), DRAIN_POLL)
    if cut := exchanges.finish_all(Outcome.SHUTDOWN):
        logger.warning("%s cut by the shutdown", some(cut, "open exchange"))


def open_ones(statuses: Collection[int | None]) -> str:
    """How many requests are open, and in how many the client has a part of the answer: these have a status."""
    told = some(len(statuses), "open request")
    answered = sum(status is not None for status in statuses)
    if not answered:
        return told
    return f"{told}, {'' if len(statuses) == 1 else f'{answered} of them '}in the midst of an answer,"


def write_down(writer: Writer, last: Callable[[], object]) -> None:
    """Block until all is written, or for as long as that may take. `last` gives the writer what comes at the end."""
    if not writer.flush(UNTOLD_SECONDS) and (waiting := writer.waiting_rows):
        logger.info("stopping: waiting up to %.0f s for the database to take %d rows", WRITE_SECONDS, waiting)
    if writer.flush(WRITE_SECONDS / 2):
        last()
    writer.close(WRITE_SECONDS / 2)
