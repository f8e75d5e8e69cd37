"""What the database knows of who made what, for all proxies that share it. The ledger writes it as it is learned."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from peewee import fn

from ccflare_core.accounts.owners import FROM_LAST_USE, LIFETIMES, Holding, Owner, is_over
from ccflare_core.anthropic.ids import Id, Kind
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import AccountRow, OwnerRow
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

MOST = 100_000
"""How many ids of one account are remembered."""
_BATCH = 500


class StoredOwners:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext, most: int = MOST) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._wall = context.wall
        self._most = most

    def find(self, wanted: Sequence[Id]) -> dict[Id, Owner]:
        """The owners of those that are known, and whose time is not over."""
        found: dict[Id, Owner] = {}
        for kind in {each.kind for each in wanted}:
            texts = [each.text for each in wanted if each.kind is kind]
            for at in range(0, len(texts), _BATCH):
                is_it = (OwnerRow.kind == kind.value) & OwnerRow.text.in_(texts[at : at + _BATCH])
                columns = (OwnerRow.text, OwnerRow.account_id, OwnerRow.client_id, OwnerRow.made_at, OwnerRow.used_at)
                for text, account, client, made, used in self._rows(OwnerRow.select(*columns).where(is_it)):
                    found[Id(kind, text)] = Owner(account, client, made / 1000, used / 1000)
        return {id: owner for id, owner in found.items() if not is_over(id.kind, owner, self._wall())}

    def holdings(self, kind: Kind) -> list[Holding]:
        """What each account has of one kind, and for whom."""
        columns = OwnerRow.select(OwnerRow.account_id, OwnerRow.client_id, fn.MAX(OwnerRow.made_at))
        query = columns.where(OwnerRow.kind == kind.value).group_by(OwnerRow.account_id, OwnerRow.client_id)
        return [Holding(account, client, newest / 1000) for account, client, newest in self._rows(query)]

    # Its end

    def purge(self) -> Iterator[int]:
        """Delete, in small batches, what is too old and what is too much of one account; yields each batch's number."""
        for kind, seconds in LIFETIMES.items():
            since = OwnerRow.used_at if kind in FROM_LAST_USE else OwnerRow.made_at
            is_old = (OwnerRow.kind == kind.value) & (since < to_ms(self._wall() - seconds))
            while done := self._delete(OwnerRow.select(OwnerRow.kind, OwnerRow.text).where(is_old).limit(_BATCH)):
                yield done
        # Written while its account was being removed. Looked up each time: an account may be added meanwhile.
        is_left = OwnerRow.account_id.not_in(AccountRow.select(AccountRow.id))
        while done := self._delete(OwnerRow.select(OwnerRow.kind, OwnerRow.text).where(is_left).limit(_BATCH)):
            yield done
        for (account_id,) in self._rows(AccountRow.select(AccountRow.id)):
            count = OwnerRow.select(fn.COUNT(OwnerRow.text)).where(OwnerRow.account_id == account_id)
            yield 0
            yield from self._trim(account_id, int(self._rows(count)[0][0]) - self._most)

    def _trim(self, account_id: str, excess: int) -> Iterator[int]:
        """Delete so many of an account, the longest unused first."""
        columns = OwnerRow.select(OwnerRow.kind, OwnerRow.text).where(OwnerRow.account_id == account_id)
        while excess > 0 and (done := self._delete(columns.order_by(OwnerRow.used_at).limit(min(_BATCH, excess)))):
            excess -= done
            yield done

    def _delete(self, query: Any) -> int:
        rows = self._rows(query)
        with self._transaction() if rows else contextlib.nullcontext():
            for kind in {kind for kind, _ in rows}:
                texts = [text for each, text in rows if each == kind]
                is_it = (OwnerRow.kind == kind) & OwnerRow.text.in_(texts)
                OwnerRow.delete().where(is_it).execute(self._database)
        return len(rows)

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        with as_store_errors():
            return list(query.bind(self._database).tuples())
