"""What a monitoring system gets of this process, put together: counters, accounts, and what waits."""

from collections.abc import Iterator

from ccflare_core import __version__
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.reports.metrics import Family, Gauges, Histogram, Meter, of_accounts, of_loop, of_process
from ccflare_core.writer.writer import Writer


class Monitor:
    """Counts from now on. `lateness` is that of the event loop, which others measure."""

    def __init__(self, exchanges: Exchanges, writer: Writer, lateness: Histogram) -> None:
        self._lateness = lateness
        self._exchanges = exchanges
        self._writer = writer
        self._meter = Meter()
        exchanges.ended.append(self._meter.ended)

    def families(self) -> Iterator[Family]:
        """All that is known without a look at the database. Only the event loop's thread may call it."""
        writer = self._writer
        yield from self._meter.families()
        yield from of_accounts(self._exchanges.pool.status())
        now = Gauges(
            requests_open=len(self._exchanges.open),
            requests_held=len(self._exchanges.held),
            rows_waiting=writer.waiting_rows,
            lag_seconds=writer.lag,
            rows_lost=writer.dropped_rows,
            bodies_lost=writer.dropped_payloads,
        )
        yield from of_loop(self._lateness)
        yield from of_process(now, __version__)
