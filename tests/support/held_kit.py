"""Flows whose bodies are held, over a record that a test writes."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mitmproxy import http
from mitmproxy.test import tflow

from ccflare_core.errors import StoreError
from ccflare_core.transcripts.read import Body
from ccflare_mitm.inspector.held import Held, Recorded


class Desk:
    """A Held with what it asks: `record` is the database, and what is put there is there once it is `written`."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.now = 0.0
        self.record: dict[str, dict[str, Body]] = {}
        self.trouble = ""
        self.asked: list[str] = []
        self._marks: list[Future[bool]] = []
        self._soon: list[Callable[[], object]] = []
        self.held = Held(lambda: self.limit, self._recorded, self._written, self._later, lambda: self.now)

    def _recorded(self, exchange_id: str) -> Future[Recorded]:
        self.asked.append(exchange_id)
        answer: Future[Recorded] = Future()
        if self.trouble:
            answer.set_exception(StoreError(self.trouble))
        else:
            answer.set_result(self.record.get(exchange_id, {}))
        return answer

    def _written(self) -> Future[bool]:
        self._marks.append(Future())
        return self._marks[-1]

    def _later(self, function: Callable[..., object], *arguments: Any) -> None:
        self._soon.append(lambda: function(*arguments))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done any more."""
        return not self._marks and not self._soon

    def write(self, times: int = 10) -> None:
        """All is in the database that was put so far, and the event loop has a turn; so often at most."""
        for _ in range(times):
            if self._marks:
                self._marks.pop(0).set_result(True)
            while self._soon:
                self._soon.pop(0)()


def finished(request: bytes = b"q" * 3000, response: bytes | None = b"a" * 2000, **heads: str) -> http.HTTPFlow:
    """A flow that is over; `heads` are those of its answer."""
    flow: http.HTTPFlow = tflow.tflow(resp=response is not None)
    flow.live = False
    flow.request.raw_content = request
    if flow.response is not None:
        flow.response.raw_content = response
        flow.response.headers.update({name.replace("_", "-"): value for name, value in heads.items()})
    return flow


def body(content: bytes, size: int = 0, *, redactions: int = 0, coding: str = "") -> Body:
    """A recorded one; of a `size` that is larger, its beginning."""
    return Body(content, "", coding, size > len(content), size or len(content), redactions)


def held() -> Held:
    """One that lets nothing go."""
    return Desk(limit=2**40).held
