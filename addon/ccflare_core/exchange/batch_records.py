"""What an exchange tells of batches, as records: that one was made, has ended, or what its results took. Pure."""

from collections.abc import Iterator

from ccflare_core.anthropic.routes import BATCHES, batch_of_results
from ccflare_core.anthropic.usage_reader import LINES
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.records import BatchDropped, BatchEnded, BatchMade, BatchRead
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story
from ccflare_core.text import to_ms


def is_about_batches(exchange: Story) -> bool:
    """Whether it makes a batch, or looks at some."""
    return exchange.metered and exchange.opening.path.startswith(BATCHES)


def tells_of_batches(exchange: Story) -> bool:
    """Whether something of batches may be otherwise now than it was before this exchange."""
    if not is_about_batches(exchange):
        return False
    is_ended = exchange.reading is not None and any(batch.is_ended for batch in exchange.reading.batches)
    return is_ended or exchange.opening.method == "POST" or batch_of_results(exchange.opening.path) is not None


type BatchRecord = BatchMade | BatchDropped | BatchEnded | BatchRead


def batch_records(exchange: Story, at_ms: int, tokens: int | None) -> Iterator[BatchRecord]:
    """The records of an exchange that has ended; `tokens` are those that its answer tells, in all."""
    if not is_about_batches(exchange):
        return
    if (opening := exchange.opening).path == BATCHES and opening.method == "POST":
        yield from _made(exchange)
    elif (batch_id := batch_of_results(opening.path)) and _is_read(exchange):
        usd = None if exchange.cost is None else float(exchange.cost)
        yield BatchRead(batch_id, exchange.id, opening.client_key, at_ms, tokens or 0, usd if tokens else 0.0)
    for batch in exchange.reading.batches if exchange.reading else ():
        if batch.is_ended:
            yield BatchEnded(batch.id, at_ms, batch.succeeded, batch.requests)


def _is_read(exchange: Story) -> bool:
    """Whether results came whole, in a form that could be read. Without a message in them they took nothing."""
    reading, media = exchange.reading, exchange.capture.content_type.partition(";")[0].strip().lower()
    is_good = exchange.outcome is Outcome.OK and exchange.status == 200
    return is_good and media in LINES and reading is not None and reading.is_readable


def reserved(exchange: Story, counted: Counted, batch_id: str = "") -> BatchMade:
    """The batch that an exchange makes, or may make; without an id it has that of the exchange."""
    return BatchMade(
        id=batch_id or exchange.id,
        request_id=exchange.id,
        client_id=exchange.opening.client_key,
        at_ms=to_ms(exchange.started_at),
        tokens=counted.tokens,
        usd=None if counted.dollars is None else float(counted.dollars),
    )


def _made(exchange: Story) -> Iterator[BatchMade | BatchDropped]:
    """It is noted if there is one, or if nobody knows. One that nobody's budget counts is noted for its results."""
    batches = exchange.reading.batches if exchange.reading else ()
    if batches or exchange.counted.tokens:
        yield reserved(exchange, exchange.counted, batches[0].id if batches else "")
    else:
        yield BatchDropped(exchange.id)
