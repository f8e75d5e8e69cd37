"""Reads the batches that client keys want to make, and says whether they may: by their models, and by their budgets.

That takes seconds for a large one, so it is done in a thread, one batch after the other, while the exchange waits.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from mitmproxy import http

from ccflare_core.anthropic.batch_requests import BatchSize, Unreadable, requests_of, weigh
from ccflare_core.anthropic.ids import Named, named_in_batch
from ccflare_core.clients.budgets import has_budget
from ccflare_core.clients.keys import ClientKey
from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.errors import StoreError
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.steps import LOOK_SECONDS, Wait
from ccflare_core.exchange.story import Spooled
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.gate.rule_reader import Judge

_MODEL = "This client key may not use this model."

type Denied = Callable[[http.HTTPFlow, Exchange, Rejection], None]


def model_not_allowed(key: ClientKey) -> Rejection:
    """What is asked of a model that is not on the key's list."""
    return Rejection(403, f"{_MODEL} It may use {', '.join(key.models)}.", audit=_MODEL)


class BatchReader:
    """See the module. `denied` is told of what is refused."""

    def __init__(self, rates: RateLimits, exchanges: Exchanges, denied: Denied) -> None:
        self._rates = rates
        self._exchanges = exchanges
        self._denied = denied
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ccflare-batches")

    def await_spool(self, exchange: Exchange, spool: Spooled) -> None:
        """Let the exchange of a batch that nobody has to read wait until it is on the disk."""

        def clearance() -> Wait | Rejection | Counted:
            if not spool.is_written:
                return Wait(LOOK_SECONDS)
            return Rejection(503, spool.trouble) if spool.trouble else Counted()

        exchange.await_clearance(clearance)

    def weigh(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        key: ClientKey | None,
        body: bytes | Iterator[bytes],
        encoding: str,
        judge: Judge | None = None,
    ) -> None:
        """Begin to read the batch, and let the exchange wait until that is done. `judge` has a say in it, too."""

        def read() -> BatchSize:
            if exchange.outcome is not None:
                raise Unreadable("its client has left")
            return weigh(body, encoding, self._exchanges.prices)

        reading = self._thread.submit(read)

        def clearance() -> Wait | Rejection | Counted:
            if not reading.done():
                return Wait(LOOK_SECONDS)
            decided = self._decide(exchange, key, judge, reading)
            if isinstance(decided, Rejection):
                self._denied(flow, exchange, decided)
            return decided

        exchange.await_clearance(clearance)

    def _decide(
        self, exchange: Exchange, key: ClientKey | None, judge: Judge | None, reading: Future[BatchSize]
    ) -> Rejection | Counted:
        try:
            batch = reading.result()
        except Unreadable as problem:
            if judge is not None:
                told = f"The models of this batch cannot be compared with the rules, for {problem}."
                return Rejection(400, told, is_final=True, audit=told)
            return (key and _unreadable(key, str(problem))) or Counted()
        except StoreError as problem:
            return Rejection(503, str(problem))
        if judge is not None and (rejection := judge(batch)) is not None:
            return rejection
        if key is None:
            return Counted()
        if not all(key.may_use_model(model) for model in batch.models):
            return model_not_allowed(key)
        size = (batch.tokens, batch.dollars)
        if rejection := self._rates.too_large(key, batch.requests, *size, self._exchanges.wall()):
            return rejection
        self._rates.budgets.reserve(exchange.id, key, exchange.started_at, *size)
        return Counted(*size)


def _unreadable(key: ClientKey, why: str) -> Rejection | None:
    """Why a batch of which nothing is known goes no further; None if nothing depends on it."""
    told = f"This batch cannot be counted in the budget of the client key {key.name}, for {why}."
    if key.models:
        told = f"The models of this batch cannot be compared with those of the client key {key.name}, for {why}."
    return Rejection(400, told, is_final=True, audit=told) if key.models or has_budget(key) else None


def named_on_disk(spool: Spooled, encoding: str, *, strict: bool) -> Named:
    """What the batch names, as `ids.named_by` says it of a body. Waits for the disk, so it is for a thread."""
    try:
        return named_in_batch(requests_of(spool.pieces(), encoding), strict=strict)
    except (Unreadable, StoreError):
        return Named(problem="its body is no JSON that has one reading only")
