"""The stored list of blocked addresses."""

import contextlib
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from ccflare_core.audit.signed_rows import Look
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import BlockedAddressRow
from ccflare_core.errors import StoreError
from ccflare_core.http.addresses import Network, Networks
from ccflare_core.program import typed
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_NOT_OURS = "changed or removed outside of ccflare"


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
        self._context = context

    def all(self) -> list[Block]:
        """Every block, the oldest first; with a data key also those that somebody else has changed or removed."""
        if self._context.vault is None:
            query = BlockedAddressRow.select().bind(self._database)
            with as_store_errors():
                return sorted((_block(row.network, row.created_at, row.reason) for row in query), key=_age)
        look = self._context.signed.look(BlockedAddressRow)
        sound: Iterable[Any] = look.sound.values()
        blocks = [_block(row["network"], row["created_at"], row["reason"]) for row in sound]
        blocks += [Block(network, 0.0, _NOT_OURS) for network in _readable(look.altered | look.gone)]
        return sorted(blocks, key=_age)

    def networks(self) -> Networks:
        """What is blocked."""
        return Networks(block.network for block in self.all())

    def block(self, network: Network, reason: str = "") -> bool:
        """Block it from the next connection and the next request on; whether it was not blocked yet."""
        row = {"network": str(network), "created_at": to_ms(self._wall()), "reason": reason[:200]}
        with self._transaction():
            look = self._context.signed.look(BlockedAddressRow)
            is_new = str(network) not in look.sound
            if is_new:
                self._delete([str(network), *_spellings(network, look)])
                BlockedAddressRow.insert(row).execute(self._database)
                self._context.signed.sign(BlockedAddressRow, str(network), row)
                self._record("address.block", str(network), reason=reason[:200])
            return is_new

    def unblock(self, network: Network) -> None:
        """Let it come again. Raises StoreError if just this network is not blocked."""
        with self._transaction():
            look = self._context.signed.look(BlockedAddressRow)
            if not (found := _spellings(network, look) + [each for each in look.sound if each == str(network)]):
                raise StoreError(f"{network} is not blocked as such: `{typed('access list')}` shows which networks are")
            self._delete(found)
            self._record("address.unblock", str(network))

    def keep(self, look: Look) -> None:
        """Block anew what somebody else has changed or removed, in a transaction of the store; the rest is dropped."""
        networks = _readable(look.altered | look.gone)
        self._delete(look.altered | look.gone)
        for network in networks:
            self.block(network, _NOT_OURS)

    def _delete(self, ids: Collection[str]) -> None:
        for each in ids:
            BlockedAddressRow.delete().where(BlockedAddressRow.network == each).execute(self._database)
        self._context.signed.forget(BlockedAddressRow, ids)


def _spellings(network: Network, look: Look) -> list[str]:
    """The ids of rows that somebody else has changed, put in or removed, and that mean this network."""
    return [each for each in look.altered | look.gone if _readable([each]) == [network]]


def _block(network: str, created_at: int, reason: str) -> Block:
    return Block(Network.parse(network), created_at / 1000, reason)


def _age(block: Block) -> tuple[float, str]:
    return block.created_at, str(block.network)


def _readable(ids: Iterable[str]) -> list[Network]:
    """The networks among these: whoever puts a row in may write anything."""
    found = []
    for each in sorted(ids):
        with contextlib.suppress(ValueError):
            found.append(Network.parse(each))
    return found
