"""A real receiver of OpenTelemetry, from PyPI (oteltap), and what it was sent, in words that tests compare."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from harness import Port, accepts, eventually

SERVER, CLIENT, ERROR = 2, 3, 2
"""Kinds of spans, and the status of one that has failed, as the protocol has them."""


class Seen(NamedTuple):
    """A span as it arrived. Ids are hexadecimal, times in seconds since the epoch."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    begun: float
    ended: float
    failed: bool
    attributes: dict[str, Any]


class Tap:
    """What has arrived at `url`, while `tapped` lasts."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Seen] = []
        self.metrics: dict[str, Any] = {}
        """The last state of each, by its name."""
        self._port = port

    async def take(self, is_here: threading.Event, over: asyncio.Event) -> None:
        """Receive until it is over."""
        async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(self._port)) as receiver:
            spans, metrics = receiver.stream_traces(), receiver.stream_metrics()
            tasks = [asyncio.create_task(self._keep_spans(spans)), asyncio.create_task(self._keep_metrics(metrics))]
            is_here.set()
            await over.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_spans(self, spans: AsyncIterator[Any]) -> None:
        async for span in spans:
            self.spans.append(seen(span))

    async def _keep_metrics(self, metrics: AsyncIterator[Any]) -> None:
        async for metric in metrics:
            self.metrics[metric.name] = metric


@contextlib.contextmanager
def tapped(port: Port | None = None) -> Iterator[Tap]:
    """A receiver, in a thread and a loop of its own."""
    port = port or Port()
    tap, loop, over, is_here = Tap(port.number), asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(tap.take(is_here, over),))
    thread.start()
    try:
        assert is_here.wait(60)
        eventually(lambda: accepts(port.number))
        yield tap
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        port.release()


def seen(span: Any) -> Seen:
    """A span of the protocol."""
    return Seen(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == ERROR,
        {each.key: value_of(each.value) for each in span.attributes},
    )


def value_of(value: Any) -> Any:
    """The value of an attribute."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)
