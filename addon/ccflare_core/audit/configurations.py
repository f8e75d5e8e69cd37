"""Which options were last in use, so that a change of them is noticed and audited, at the start and at run time."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from peewee import Database

from ccflare_core.audit.chain import Audit
from ccflare_core.audit.entries import Record, Secret, cover
from ccflare_core.db.models import ConfigurationRow
from ccflare_core.errors import VaultError

Value = str | int | bool | Secret


class Configurations:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        *,
        transaction: Callable[[], AbstractContextManager[None]],
        record: Record,
    ) -> None:
        self._database = database
        self._audit = audit
        self._transaction = transaction
        self._record = record

    def take(self, scope: str, options: Mapping[str, Value]) -> list[str]:
        """Note the options that are in use at one place, those with a value other than the default.

        What differs from the last time becomes one entry, in the same transaction. Returns the names. A Secret is kept
        as its HMAC, and so is the entry's.
        """
        with self._transaction():
            before = self._last(scope)
            after = {name: self._text(value, before.get(name)) for name, value in options.items()}
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            if changed:
                self._store(scope, after)
                changes = {name: {"before": before.get(name), "after": after.get(name)} for name in changed}
                self._record("config.change", scope, changes=changes)
            return changed

    def _last(self, scope: str) -> dict[str, object]:
        row = ConfigurationRow.select().where(ConfigurationRow.scope == scope).bind(self._database).first()
        found = {} if row is None else json.loads(row.options)
        return found if isinstance(found, dict) else {}

    def _store(self, scope: str, options: Mapping[str, object]) -> None:
        text = json.dumps(options, sort_keys=True)
        changed = ConfigurationRow.update(options=text).where(ConfigurationRow.scope == scope)
        if not changed.execute(self._database):
            ConfigurationRow.insert(scope=scope, options=text).execute(self._database)

    def _text(self, value: Value, before: object) -> object:
        """The value as it is kept: a secret as its mark, under the old key while it stays the same."""
        if not isinstance(value, Secret):
            return cover(value) if isinstance(value, str) else value
        signer = self._audit.signer
        if isinstance(before, str) and before.count(":") == 2:
            try:
                if signer.digest(value.value, before.split(":")[1]) == before:
                    return before
            except (VaultError, ValueError):
                pass
        return signer.digest(value.value)
