"""The proxy's side of the audit log. It lives on the event loop and never waits: the writer's thread writes."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from ccflare_core.audit.bursts import Bursts
from ccflare_core.audit.chain import Audit
from ccflare_core.audit.entries import By, Entry, Secret
from ccflare_core.store.store import Store

logger = logging.getLogger("ccflare")

PROXY = By("proxy")
_LOOK_SECONDS = 1.0
_ANCHOR_SECONDS = 3600.0

Options = Mapping[str, str | int | bool | Secret]


class Writing(Protocol):
    """The writer, as far as it is needed here."""

    @property
    def is_alive(self) -> bool: ...

    def call[T](self, function: Callable[[Store], T]) -> Future[T]: ...


class Auditor:
    """Takes note of what happens in the proxy. `stop_after` gives seconds; 0: never stop for lack of an audit log."""

    def __init__(
        self,
        writer: Writing,
        *,
        stop_after: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._writer = writer
        self._stop_after = stop_after
        self._clock = clock
        self._sleep = sleep
        self._bursts = Bursts()
        self._failing_since: Callable[[], float | None] = lambda: None
        self._dead_since: float | None = None
        self._is_halted = False
        self._anchored = ""

    def begin(self, store: Store, scope: str, options: Options, **detail: object) -> None:
        """Write that the proxy starts, in the writer's thread, with what changed in its options since the last time.

        Raises StoreError if that cannot be written: a proxy that cannot audit does not start.
        """
        self._failing_since = lambda: store.audit.failing_since
        store.configurations.take(scope, options)
        store.note("proxy.start", scope, "ok", options=digest(options), **detail)
        self._keep_anchor(store.audit)

    def end(self, store: Store, scope: str) -> None:
        """Write what is still open, and that the proxy stops."""
        for entry in self._bursts.all():
            store.report(entry)
        store.report(Entry.of(PROXY, "proxy.stop", scope))
        self._keep_anchor(store.audit)

    def note(self, entry: Entry) -> None:
        """Have an entry written about what has happened already. Any thread may call it."""
        self._writer.call(lambda store: store.report(entry))

    def denied(
        self,
        ip: str,
        reason: str,
        *,
        actor: str = "",
        target: str = "",
        request_id: str = "",
        action: str = "auth.denied",
    ) -> None:
        """Somebody was refused. All refusals of a burst from one source become one entry."""
        self._bursts.add(By(actor, ip, request_id), action, target, reason, self._clock())

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be audited at the moment."""
        return self._since() is not None

    def halted(self) -> str | None:
        """Why no new request is taken: nothing could be audited for too long. None while all is well."""
        since, limit = self._since(), self._stop_after()
        is_halted = bool(limit) and since is not None and self._clock() - since >= limit
        if is_halted != self._is_halted:
            self._is_halted = is_halted
            if is_halted:
                logger.error("new requests are refused: the audit log cannot be written for %.0f s already", limit)
            else:
                logger.warning("requests are taken again: the audit log can be written")
        return "Nothing can be audited at the moment, so no request is taken; try again later." if is_halted else None

    async def run(self) -> None:
        """Write the bursts that are over, and keep where the chain ends now and then, until cancelled."""
        anchored_at = self._clock()
        while True:
            await self._sleep(_LOOK_SECONDS)
            for entry in self._bursts.over(self._clock()):
                self.note(entry)
            if self._clock() - anchored_at >= _ANCHOR_SECONDS:
                anchored_at = self._clock()
                self._writer.call(lambda store: self._keep_anchor(store.audit))

    def _since(self) -> float | None:
        if self._writer.is_alive:
            self._dead_since = None
            return self._failing_since()
        if self._dead_since is None:
            self._dead_since = self._clock()
        return self._dead_since

    def _keep_anchor(self, audit: Audit) -> None:
        anchor = audit.anchor()
        if anchor and anchor != self._anchored:
            self._anchored = anchor
            audit.keep(anchor)
            logger.debug("audit anchor %s", anchor)


def digest(options: Options) -> str:
    """What tells two sets of options apart."""
    plain: dict[str, Any] = {name: "" if isinstance(value, Secret) else value for name, value in options.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
