"""Deletes what was recorded once it is too old or takes too much room, little by little.

It works in the writer's thread, between two batches of records: one short step, then a pause four times as long, so
that other writers are not kept waiting. When there is no room it says that less is to be recorded; traffic goes
on whatever happens here.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ccflare_core.config.record_mode import Mode
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine import Space
from ccflare_core.errors import CCFlareError
from ccflare_core.store.store import Store
from ccflare_core.writer.duty import Duty

logger = logging.getLogger("ccflare")

DAY = 86_400
_ROUND_SECONDS, _FULL_SECONDS = 60.0, 5.0
"""From the beginning of one round to the next, and when there is too much."""

_THIN_SECONDS = 3600.0
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
_SHARE = 4
"""A pause is so many times as long as the step before it."""

_HOUR = 3600
_WINDOW_DAYS = 30
"""Readings of limits that are older are thinned to one an hour."""

_SHRUNK_PAGES = 200
_SPARE_BYTES = 1024 * 1024
_MODES = tuple(Mode)

_BEGIN, _END = 0.90, 0.85
"""Parts of the limit: where deleting begins, and where it ends."""

_LEVELS = ((Mode.OFF, "nothing is recorded", 1.0, 2), (Mode.METADATA, "no bodies are kept", 0.95, 1))
"""What may be recorded, what that means, from which part of the limit on, and below which share of the minimum."""


class Policy(NamedTuple):
    """What the options say; 0 is no limit."""

    payload_days: int
    request_days: int
    limit_bytes: int
    minimum_free_bytes: int
    session_seconds: int = 30 * DAY

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        """What these settings say."""
        return cls(
            settings.payload_days,
            settings.request_days,
            settings.database_limit_bytes,
            settings.minimum_free_bytes,
            settings.session_seconds,
        )


class Retention:
    """Keeps the record within its bounds. All but `allowed` is for the writer's thread."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        tell: Callable[[str], None],
        *,
        duty: Duty | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        """`policy` is asked each time, since options can change; `tell` gets sentences for the log.

        Without a `duty` the database has this proxy alone. With it, it deletes while the duty is its own.
        """
        self._policy = policy
        self._tell = tell
        self._duty = duty
        self._clock = clock
        self._wall = wall
        self._steps: Iterator[int] | None = None
        self._due_at = self._round_at = float("-inf")
        self._most = Mode.FULL
        self._told: set[str] = set()
        self._thinned_at: dict[int, float] = {}

    def allowed(self, mode: Mode) -> Mode:
        """What of a wish to record can be had at the moment. Any thread may ask."""
        return min(mode, self._most, key=_MODES.index)

    def due_in(self) -> float:
        """Seconds until there is something to do."""
        return max(0.0, self._due_at - self._clock())

    def work(self, store: Store) -> None:
        """Do one step, if it is time. Raises StoreError or VaultError; then it begins anew, later."""
        if self._duty is not None:
            self._duty.step(store)
        began = self._clock()
        if began < self._due_at:
            return
        self._due_at = began + _LOOK_SECONDS
        try:
            self._step(store, began)
        except CCFlareError:
            self._steps = None
            self._due_at = began + _ROUND_SECONDS
            raise
        if self._steps is not None:
            now = self._clock()
            self._due_at = now + max(_PAUSE_SECONDS, _SHARE * (now - began))

    def _step(self, store: Store, now: float) -> None:
        is_full = self._look(store.space())
        if self._duty is not None and not self._duty.is_mine:
            self._steps = None
            return
        if self._steps is None:
            if now - self._round_at < (_FULL_SECONDS if is_full else _ROUND_SECONDS):
                return
            self._round_at = now
            self._steps = self._round(store)
        if next(self._steps, None) is None:
            self._steps = None

    def _round(self, store: Store) -> Iterator[int]:
        """All there is to do, with a yield after each step."""
        policy, now = self._policy(), self._wall()
        logger.debug("upkeep: what is too old or too much is deleted")
        days, age = policy.request_days or 100 * 365, policy.payload_days or 100 * 365
        while store.history.delete_oldest_bodies(now - age * DAY):
            yield 1
        while ids := store.history.oldest(now - days * DAY):
            yield from store.history.delete(ids)
        yield from self._thin(store, _WINDOW_DAYS * DAY, days * DAY)
        yield store.history.delete_tunnels(now - days * DAY)
        yield store.runs.purge(now - (days + 1) * DAY)  # no request of theirs is left, whatever the clocks say
        yield store.notices.purge(now - days * DAY)
        yield store.browser_sessions.purge()
        yield from store.owners.purge()
        yield from store.affinity.purge(now - policy.session_seconds)
        while store.transcripts.collect_garbage():
            yield 1
        yield from self._make_room(store, policy.limit_bytes, now)
        while (space := store.space()) and space.spare > max(_SPARE_BYTES, space.used // 20):
            store.shrink(_SHRUNK_PAGES)
            yield 1

    def _make_room(self, store: Store, limit: int, now: float) -> Iterator[int]:
        """Let the oldest go until the database is well below its limit: first bodies, then readings, then rows."""
        if not _is_over(store.space(), limit, _BEGIN):
            return
        self._tell_once("the database comes near its limit (ccflare_database_limit_bytes): what is oldest is deleted")
        history = store.history
        while _is_over(store.space(), limit, _END) and history.delete_oldest_bodies(now):
            yield 1
            while store.transcripts.collect_garbage():
                yield 1
        if _is_over(store.space(), limit, _END):
            yield from self._thin(store, _HOUR, _WINDOW_DAYS * DAY)
        while _is_over(store.space(), limit, _END) and (ids := history.oldest(now - _HOUR)):
            yield from history.delete(ids)

    def _thin(self, store: Store, age: int, greatest_age: int) -> Iterator[int]:
        """Once an hour: it looks at all readings."""
        if self._clock() - self._thinned_at.get(age, float("-inf")) >= _THIN_SECONDS:
            self._thinned_at[age] = self._clock()
            yield from store.history.thin_windows(self._wall() - age, self._wall() - greatest_age)

    def _look(self, space: Space | None) -> bool:
        """Set what may be recorded; whether there is something to delete for lack of room."""
        policy = self._policy()
        if space is None:
            if policy.limit_bytes:
                self._tell_once("ccflare_database_limit_bytes is for a file and does nothing on a database server")
            return False
        verdict = _verdict(space, policy)
        if _MODES.index(verdict[0]) > _MODES.index(self._most):  # but not at the first byte that is free again
            verdict = _verdict(space, policy._replace(minimum_free_bytes=policy.minimum_free_bytes * 11 // 10))
        self._set(*verdict)
        return _is_over(space, policy.limit_bytes, _BEGIN)

    def _set(self, most: Mode, why: str) -> None:
        if most != self._most:
            self._most = most
            self._tell(why)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def _verdict(space: Space, policy: Policy) -> tuple[Mode, str]:
    """How much may be recorded, and the sentence for that."""
    for most, what, part, share in _LEVELS:
        if space.disk + space.spare < policy.minimum_free_bytes // share:
            return most, f"the disk is nearly full: {what} until there is more room (ccflare_minimum_free_bytes)"
        if _is_over(space, policy.limit_bytes, part):
            return most, f"the database is at its limit: {what} until it is smaller (ccflare_database_limit_bytes)"
    return Mode.FULL, "there is room again: all is recorded as before"


def _is_over(space: Space | None, limit: int, part: float) -> bool:
    return space is not None and bool(limit) and space.used >= limit * part
