"""A row that one run has until it gives it back, is over, or was watched for too long: so no clocks have to agree."""

import secrets
from collections.abc import Mapping
from functools import reduce
from operator import and_
from typing import Any

from peewee import Database, Model

from ccflare_core.db.models import RunRow


def take_lease(
    database: Database,
    model: Any,
    key: Mapping[Any, object],
    owner: str,
    abandoned: str = "",
    *,
    told: Mapping[Any, object] | None = None,
    or_if: Any = None,
) -> bool:
    """Whether the run `owner` has the row of this key now. It has the columns `owner` and `term`, new with each lease.

    `abandoned` is a term that was watched for long enough, `told` what else the row says, and `or_if` when it is free
    besides. It takes a transaction.
    """
    table: type[Model] = model
    lease = {model.owner: owner, model.term: secrets.token_hex(8), **(told or {})}
    over = RunRow.select(RunRow.id).where(RunRow.ended_at.is_null(False))
    is_free = (model.owner == owner) | (model.term == abandoned) | model.owner.in_(over)
    if or_if is not None:
        is_free |= or_if
    if table.update(lease).where(is_row(key) & is_free).execute(database):
        return True
    new = table.insert({**lease, **key}).on_conflict_ignore()
    return bool(new.as_rowcount().execute(database))


def is_row(key: Mapping[Any, object]) -> Any:
    """The condition on these columns' values."""
    return reduce(and_, [column == value for column, value in key.items()])
