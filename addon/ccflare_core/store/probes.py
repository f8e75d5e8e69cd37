"""Which run may send the first request after a rest, see accounts/probes.py."""

from typing import Any

from peewee import Database

from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.accounts.probes import Claim
from ccflare_core.db.models import CooldownRow, ProbeRow
from ccflare_core.store.context import StoreContext
from ccflare_core.store.leases import is_row, take_lease
from ccflare_core.text import to_ms

_SAME_MS = 1000
"""By how much the ends of two rests differ at least."""


class StoredProbes:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._wall = context.wall

    def take(self, cooldown: Cooldown, owner: str, abandoned: str = "") -> Claim:
        """Claim the part of the account after this rest for the run `owner`.

        Nobody can while the part rests for longer than the run knows yet. A claim that was for an earlier rest is over.
        `abandoned` is the term of one that the run has watched for long enough to end it.
        """
        until = to_ms(cooldown.until)
        with self._transaction():
            if self._rests_longer(cooldown, until):
                return Claim(False, "")
            key = _key(cooldown.account_id, cooldown.part)
            is_mine = take_lease(
                self._database,
                ProbeRow,
                key,
                owner,
                abandoned,
                told={ProbeRow.until: until},
                or_if=ProbeRow.until < until - _SAME_MS,
            )
            row = ProbeRow.select(ProbeRow.term).where(is_row(key)).bind(self._database)
            return Claim(is_mine, row.get().term)

    def _rests_longer(self, cooldown: Cooldown, until: int) -> bool:
        part = cooldown.part
        is_part = (CooldownRow.scope == str(part.scope)) & (CooldownRow.name == part.name)
        is_longer = CooldownRow.until > max(until + _SAME_MS, to_ms(self._wall()))
        query = CooldownRow.select().where((CooldownRow.account_id == cooldown.account_id) & is_part & is_longer)
        return bool(query.bind(self._database).exists())


def end_probe(database: Database, account_id: str, part: Part, term: str) -> None:
    """Give back the claim of this term, if it is still the one that there is. It takes a transaction."""
    ProbeRow.delete().where(is_row(_key(account_id, part)) & (ProbeRow.term == term)).execute(database)


def _key(account_id: str, part: Part) -> dict[Any, object]:
    return {ProbeRow.account_id: account_id, ProbeRow.scope: str(part.scope), ProbeRow.name: part.name}
