"""Selects recorded requests, measures what they take, and deletes them in small batches.

Whatever deletes does so in small batches, each a transaction of some milliseconds, so that those who write beside it
get their turn between two of them. Who stops in the middle has deleted some, and nothing is half there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from peewee import fn

from ccflare_core.accounts.affinity import session_key
from ccflare_core.anthropic.ids import Kind
from ccflare_core.clients.tags import split
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import (
    AttemptRow,
    OwnerRow,
    PayloadRow,
    RequestRow,
    RequestTagRow,
    SessionAccountRow,
    TunnelRow,
    WindowRow,
)
from ccflare_core.store.affinity import delete_served
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms
from ccflare_core.transcripts.read import Transcripts

Transaction = Callable[[], AbstractContextManager[None]]

_IDS = 500
_REQUESTS = 25
_BODIES = 25
_BYTES = 1024 * 1024
_WINDOWS = 250
_HOUR_MS = 3_600_000
_LED_BY = ((Kind.REQUEST, RequestRow.upstream_request_id), (Kind.MESSAGE, RequestRow.message_id))


class Selection(NamedTuple):
    """Which requests are meant: those of which all holds that is said. Times are epoch seconds."""

    since: float | None = None
    until: float | None = None
    session: str | None = None
    client: str | None = None
    """The name of a client's key, or its id, or the address of a client."""
    tag: str | None = None
    """As `name=value`."""

    def condition(self) -> Any:
        """The same for a query of `requests`."""
        parts: list[Any] = [RequestRow.id != ""]
        if self.since is not None:
            parts.append(RequestRow.timestamp >= to_ms(self.since))
        if self.until is not None:
            parts.append(RequestRow.timestamp < to_ms(self.until))
        if self.session is not None:
            parts.append(RequestRow.session_id == self.session)
        if self.client is not None:
            of_key = (RequestRow.client_name == self.client) | (RequestRow.client_id == self.client)
            parts.append(of_key | (RequestRow.client_ip == self.client))
        if self.tag is not None:
            name, value = split(self.tag)
            is_it = (RequestTagRow.name == name) & (RequestTagRow.value == value)
            parts.append(RequestRow.id.in_(RequestTagRow.select(RequestTagRow.request).where(is_it)))
        condition = parts[0]
        for part in parts[1:]:
            condition &= part
        return condition


class Extent(NamedTuple):
    """How much is meant. `bytes` are those that passed, not those that are stored."""

    requests: int
    bodies: int
    bytes: int


class History:
    """A part of the store: the requests with all that belongs to them, and the readings of limits."""

    def __init__(self, context: StoreContext, transcripts: Transcripts) -> None:
        self._database = context.database
        self._transcripts = transcripts
        self._transaction = context.transaction

    # What there is

    def extent(self, selection: Selection) -> Extent:
        """How much the selection covers."""
        covered = PayloadRow.select(fn.COUNT(PayloadRow.part), fn.COALESCE(fn.SUM(PayloadRow.size), 0))
        covered = covered.join(RequestRow).where(selection.condition())
        requests = RequestRow.select(fn.COUNT(RequestRow.id)).where(selection.condition())
        ((bodies, size),) = self._rows(covered)
        return Extent(int(self._rows(requests)[0][0]), int(bodies), int(size))

    def ids(self, selection: Selection) -> Iterator[list[str]]:
        """The ids of these requests, some hundred at a time, in the order of the ids, which is that of time."""
        last = ""
        while found := self._ids(selection.condition() & (RequestRow.id > last), RequestRow.id, _IDS):
            yield found
            last = found[-1]

    def rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """These requests as the columns of their table, in the order of the ids."""
        return self._dicts(RequestRow.select().where(RequestRow.id.in_(ids)).order_by(RequestRow.id))

    def attempts(self, request_id: str) -> list[dict[str, Any]]:
        """The attempts of a request as the columns of their table, in order."""
        query = AttemptRow.select().where(AttemptRow.request == request_id)
        return self._dicts(query.order_by(AttemptRow.number, AttemptRow.id))

    def bodies(self, most: int) -> Iterator[tuple[str, str]]:
        """Request id and part of up to `most` bodies, taken evenly from all."""
        total = int(self._rows(PayloadRow.select(fn.COUNT(PayloadRow.part)))[0][0])
        for number in range(min(most, total)):
            query = PayloadRow.select(PayloadRow.request, PayloadRow.part)
            at = number * total // min(most, total)
            yield from self._rows(query.order_by(PayloadRow.request, PayloadRow.part).limit(1).offset(at))

    # Its end

    def delete(self, ids: Sequence[str], *, bodies_only: bool = False) -> Iterator[int]:
        """Delete these requests with their attempts and bodies, or the bodies alone; yields each batch's number.

        `Transcripts.collect_garbage` frees the blocks of the bodies. With a request goes what its own ids led to: its
        account's cache and thread, and which account holds its session. Files and the like stay, for the account still
        has them.
        """
        for batch in self._batches(ids):
            done = self._transcripts.delete_payloads(batch)
            yield done if bodies_only else 0
        for at in range(0, 0 if bodies_only else len(ids), _REQUESTS):
            with self._transaction():
                some = ids[at : at + _REQUESTS]
                for kind, column in _LED_BY:
                    is_its = OwnerRow.text.in_(RequestRow.select(column).where(RequestRow.id.in_(some)))
                    OwnerRow.delete().where((OwnerRow.kind == kind.value) & is_its).execute(self._database)
                named = RequestRow.select(RequestRow.session_id).where(RequestRow.id.in_(some)).distinct()
                keys = [session_key(session) for (session,) in self._rows(named) if session]
                delete_served(self._database, SessionAccountRow.session.in_(keys))
                done = int(RequestRow.delete().where(RequestRow.id.in_(some)).execute(self._database))
            yield done

    def delete_tunnels(self, before: float) -> int:
        """Delete the rows of tunnels that were opened before this moment; how many."""
        with self._transaction():
            is_old = TunnelRow.opened_at < to_ms(before)
            return int(TunnelRow.delete().where(is_old).execute(self._database))

    def delete_oldest_bodies(self, before: float) -> int:
        """Delete one batch of the oldest bodies, of requests from before this moment; how many. 0: no more are so old.

        An id begins with its time, so the table's key is the order of age.
        """
        oldest = PayloadRow.select(PayloadRow.request).order_by(PayloadRow.request).limit(_BODIES)
        is_old = RequestRow.id.in_(oldest) & (RequestRow.timestamp < to_ms(before))
        ids = self._ids(is_old, RequestRow.id, _BODIES)
        for batch in self._batches(ids):
            return self._transcripts.delete_payloads(batch)
        return 0

    def oldest(self, before: float) -> list[str]:
        """The ids of a few of the oldest requests, of those that have ended and began before this moment."""
        is_old = (RequestRow.timestamp < to_ms(before)) & RequestRow.outcome.is_null(False)
        return self._ids(is_old, RequestRow.timestamp, _REQUESTS)

    def thin_windows(self, before: float, delete_before: float) -> Iterator[int]:
        """Of the readings from before `before` keep each window's last of an hour, and from `delete_before` on none.

        Yields how many were deleted of each batch that was looked at.
        """
        last, kept = 0, dict[tuple[str, str], tuple[int, int]]()
        columns = WindowRow.select(WindowRow.id, WindowRow.account_id, WindowRow.name, WindowRow.at)
        query = columns.order_by(WindowRow.id).limit(_WINDOWS)
        while rows := self._rows(query.where(WindowRow.id > last)):
            dead = []
            for number, account_id, name, at in rows:
                if at < to_ms(delete_before):
                    dead.append(number)
                elif at < to_ms(before):
                    hour, other = kept.get((account_id, name), (-1, 0))
                    dead += [other] if hour == at // _HOUR_MS else []
                    kept[account_id, name] = at // _HOUR_MS, number
            if dead:
                with self._transaction():
                    WindowRow.delete().where(WindowRow.id.in_(dead)).execute(self._database)
            yield len(dead)
            if rows[0][3] >= to_ms(before):
                return  # the rest is younger still
            last = rows[-1][0]

    def _batches(self, ids: Sequence[str]) -> Iterator[list[str]]:
        """Those of the requests that have bodies, in groups that are quickly deleted."""
        size = fn.SUM(fn.LENGTH(PayloadRow.body))
        query = PayloadRow.select(PayloadRow.request, size).where(PayloadRow.request.in_(ids))
        batch: list[str] = []
        total = 0
        for request_id, weight in self._rows(query.group_by(PayloadRow.request).order_by(PayloadRow.request)):
            if batch and (total + weight > _BYTES or len(batch) >= _BODIES):
                yield batch
                batch, total = [], 0
            batch.append(request_id)
            total += weight
        if batch:
            yield batch

    def _ids(self, condition: Any, order: Any, limit: int) -> list[str]:
        query = RequestRow.select(RequestRow.id).where(condition).order_by(order).limit(limit)
        return [each for (each,) in self._rows(query)]

    def _dicts(self, query: Any) -> list[dict[str, Any]]:
        with as_store_errors():
            return list(query.bind(self._database).dicts())

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        with as_store_errors():
            return list(query.bind(self._database).tuples())
