"""Exchanges that learn who made what, on a database that answers when the test says so."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ccflare_core.accounts.owners import Holding, Owner
from ccflare_core.anthropic.ids import NO_IDS, Id, Kind, Named
from ccflare_core.errors import StoreError
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.ownership import Known, Ownership, Pending
from ccflare_core.exchange.records import Record
from ccflare_core.exchange.steps import Opening, Send
from exchange_kit import ASKED, JSON, OPUS, Bench, Reply, deliver, judged


class SlowStore:
    """A database that answers when the test says so."""

    def __init__(self) -> None:
        self.owners: dict[Id, Owner] = {}
        self.holding: list[Holding] = []
        self.is_ready = True
        self.is_broken = False
        self.looks = 0

    def find(self, wanted: Sequence[Id]) -> Pending[Mapping[Id, Owner]]:
        self.looks += 1
        return Answered(self, {each: self.owners[each] for each in wanted if each in self.owners})

    def holdings(self, kind: Kind) -> Pending[Sequence[Holding]]:
        return Answered(self, tuple(self.holding))


class Answered[T](Known[T]):
    def __init__(self, store: SlowStore, value: T) -> None:
        super().__init__(value)
        self._store = store

    def done(self) -> bool:
        return self._store.is_ready

    def result(self) -> T:
        if self._store.is_broken:
            raise StoreError("the disk is full")
        return super().result()


class OwnersBench(Bench):
    """A bench whose exchanges learn, and ask a database."""

    def __init__(self, ids: str = "ab", **options: Any) -> None:
        super().__init__(ids, **options)
        self.store = SlowStore()
        self.records: list[Record] = []
        clock, wall = lambda: self.clock.mono, lambda: self.clock.wall
        self.exchanges.ownership = Ownership(self.store, self.records.append, clock=clock, wall=wall)

    @property
    def ownership(self) -> Ownership:
        return self.exchanges.ownership

    def ask(self, opening: Opening = ASKED, named: Named = NO_IDS) -> Exchange:
        exchange = self.exchanges.begin(opening)
        exchange.admit(OPUS, b"{}", "", named)
        return exchange

    def answer(self, opening: Opening, content: Any, named: Named = NO_IDS, status: int = 200) -> Exchange:
        """A whole exchange that is answered so."""
        exchange = self.ask(opening, named)
        assert isinstance(exchange.next_step(), Send)
        reply = Reply(status, JSON, json.dumps(content).encode())
        judged(exchange, reply)
        deliver(exchange, reply)
        return exchange
