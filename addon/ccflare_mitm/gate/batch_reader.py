"""Reads the batches that client keys want to make, and says whether they may: by their models, and by their budgets.

That takes seconds for a large one, so it is done in a thread, one batch after the other, while the exchange waits.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mitmproxy import http

from ccflare_core.anthropic.batch_requests import BatchSize, Unreadable, weigh
from ccflare_core.anthropic.routes import BATCHES
from ccflare_core.clients.budgets import Budgets, has_budget
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.steps import LOOK_SECONDS, Wait
from ccflare_core.http.rejection import Rejection

_MODEL = "This client key may not use this model."

type Denied = Callable[[http.HTTPFlow, Exchange, Rejection], None]


def model_not_allowed(key: ClientKey) -> Rejection:
    """What is asked of a model that is not on the key's list."""
    return Rejection(403, f"{_MODEL} It may use {', '.join(key.models)}.", audit=_MODEL)


def makes_batch(request: http.Request) -> bool:
    """Whether a request for the upstream's API makes a batch."""
    return request.method == "POST" and request.path.partition("?")[0] == BATCHES


class BatchReader:
    """See the module. `denied` is told of what is refused."""

    def __init__(self, budgets: Budgets, exchanges: Exchanges, denied: Denied) -> None:
        self._budgets = budgets
        self._exchanges = exchanges
        self._denied = denied
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ccflare-batches")

    def weigh(self, flow: http.HTTPFlow, exchange: Exchange, key: ClientKey, body: bytes, encoding: str) -> None:
        """Begin to read the batch, and let the exchange wait until that is done."""

        def read() -> BatchSize:
            if exchange.outcome is not None:
                raise Unreadable("its client has left")
            return weigh(body, encoding, self._exchanges.prices)

        reading = self._thread.submit(read)

        def clearance() -> Wait | Rejection | Counted:
            if not reading.done():
                return Wait(LOOK_SECONDS)
            decided = self._decide(exchange, key, reading)
            if isinstance(decided, Rejection):
                self._denied(flow, exchange, decided)
            return decided

        exchange.await_clearance(clearance)

    def _decide(self, exchange: Exchange, key: ClientKey, reading: Future[BatchSize]) -> Rejection | Counted:
        try:
            batch = reading.result()
        except Unreadable as problem:
            return _unreadable(key, str(problem)) or Counted()
        if not all(key.may_use_model(model) for model in batch.models):
            return model_not_allowed(key)
        size = (batch.tokens, batch.dollars)
        if rejection := self._budgets.too_large(key, batch.requests, *size, self._exchanges.wall()):
            return rejection
        self._budgets.reserve(exchange.id, key, exchange.started_at, *size)
        return Counted(*size)


def _unreadable(key: ClientKey, why: str) -> Rejection | None:
    """Why a batch of which nothing is known goes no further; None if nothing depends on it."""
    told = f"This batch cannot be counted in the budget of the client key {key.name}, for {why}."
    if key.models:
        told = f"The models of this batch cannot be compared with those of the client key {key.name}, for {why}."
    return Rejection(400, told, is_final=True, audit=told) if key.models or has_budget(key) else None
