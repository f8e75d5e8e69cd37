"""How many values each data key has sealed: its random nonces are safe for so many only.

The count is written in the transactions that store what was sealed, before they are committed, and always some way
ahead. So a process that is killed leaves it too high, never too low, and most transactions leave it alone. What was
sealed and not stored, as a transaction was rolled back, counts with the next one.
"""

from collections.abc import Mapping
from typing import Any, Final

from peewee import Database

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import SealedCountRow

AHEAD: Final = 1024
"""How much is added beyond what was sealed: one write for so many values, and what each process may leave too much."""
LIMIT: Final = 1 << 32
"""Values that a key may seal under random nonces of 96 bits (NIST SP 800-38D, 8.3)."""
ROTATE_AT: Final = 1 << 30
"""From here on a new key is advised: a quarter of the limit, where two equal nonces are still as unlikely as one in
2**37. A proxy that seals a hundred values a second, day and night, then has a year left to rotate in."""


class SealedCounts:
    """A part of the store, for the thread that it belongs to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._written: dict[str, int] = {}
        """What this process has added, by key id, with what the open transaction adds."""
        self._committed: dict[str, int] = {}

    def write(self, sealed: Mapping[str, int]) -> None:
        """Before a transaction is committed: add what this process has `sealed` in all, as far as it is not there."""
        for key_id, number in sealed.items():
            written = self._written.get(key_id, 0)
            if number > written:
                self._add(key_id, number + AHEAD - written)
                self._written[key_id] = number + AHEAD

    def committed(self) -> None:
        """The transaction is in the database."""
        self._committed.update(self._written)

    def rolled_back(self) -> None:
        """It is not, as far as anyone knows: add it again with the next one."""
        self._written = dict(self._committed)

    def _add(self, key_id: str, number: int) -> None:
        row = SealedCountRow
        query = row.insert(key_id=key_id, sealed=number)
        query.on_conflict(conflict_target=[row.key_id], update={row.sealed: row.sealed + number}).execute(
            self._database
        )


def sealed_counts(database: Database) -> dict[str, int]:
    """The counts by key id."""
    with as_store_errors():
        rows: Any = SealedCountRow.select(SealedCountRow.key_id, SealedCountRow.sealed).bind(database).tuples()
        return dict(rows)
