"""The stored list of blocked addresses."""

from typing import NamedTuple

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import BlockedAddressRow
from ccflare_core.errors import StoreError
from ccflare_core.http.addresses import Network, Networks
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms


class Block(NamedTuple):
    """A blocked network, since when (epoch seconds) and why."""

    network: Network
    created_at: float
    reason: str


class Blocklist:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._wall = context.wall
        self._record = context.record

    def all(self) -> list[Block]:
        """Every block, the oldest first."""
        query = BlockedAddressRow.select().order_by(BlockedAddressRow.created_at, BlockedAddressRow.network)
        with as_store_errors():
            return [Block(Network.parse(r.network), r.created_at / 1000, r.reason) for r in query.bind(self._database)]

    def networks(self) -> Networks:
        """What is blocked."""
        return Networks(block.network for block in self.all())

    def block(self, network: Network, reason: str = "") -> bool:
        """Block it from the next connection and the next request on; whether it was not blocked yet."""
        row = {"network": str(network), "created_at": to_ms(self._wall()), "reason": reason[:200]}
        with self._transaction():
            query = BlockedAddressRow.insert(row).on_conflict_ignore()
            before = BlockedAddressRow.select().where(BlockedAddressRow.network == str(network)).bind(self._database)
            is_new = not before.exists()
            query.execute(self._database)
            if is_new:
                self._record("address.block", str(network), reason=reason[:200])
            return is_new

    def unblock(self, network: Network) -> None:
        """Let it come again. Raises StoreError if just this network is not blocked."""
        with self._transaction():
            is_it = BlockedAddressRow.network == str(network)
            if not BlockedAddressRow.delete().where(is_it).execute(self._database):
                raise StoreError(f"{network} is not blocked as such: the list shows which networks are")
            self._record("address.unblock", str(network))
