"""Puts a backup in the place of the database, and lets the audit log go on behind what the backup has of it.

The entry about it is signed and already in the database that is put in place. The second copy of the log learns of it
last: a restore that was refused, or that failed, leaves both as they were. `audit.py verify` takes what the second copy
has from before that entry for what was replaced; see check.py.

What must not come back with a backup is carried over from the database that is set aside; see carry_over.py.
"""

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ccflare_core.audit.entries import RESTORE, By
from ccflare_core.audit.file import AuditFile
from ccflare_core.db import sqlite
from ccflare_core.db.engine import naming
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.files import beside, draft, make_private_folder
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.store.backup import BackupHead, Progress, unpack
from ccflare_core.store.carry_over import Carried, Current, Row
from ccflare_core.store.store import Store

_SAMPLE = 100


class Restored(NamedTuple):
    """What was put in place, where the old database lies now, if there was one, and what came over from it."""

    head: BackupHead
    aside: Path | None
    carried: Carried


class _Old(NamedTuple):
    """What is to be known of the database that is set aside: None with the reason, if it cannot be read."""

    current: Current | None
    why: str = ""
    is_there: bool = True


class Restore:
    """One restore. `word` goes into the old database's new name; entries are those of `by`, with a copy in `file`."""

    def __init__(
        self,
        database: Path,
        source: KeySource,
        *,
        word: str,
        by: By,
        file: AuditFile | None,
        wall: Callable[[], float],
        progress: Progress,
    ) -> None:
        self._database = database
        self._source = source
        self._word = word
        self._by = by
        self._file = file
        self._wall = wall
        self._progress = progress

    def run(self, backup: Path) -> Restored:
        """Make the backup the database. Raises StoreError or VaultError, and then all is as before."""
        database = self._database
        with naming(database):
            sqlite.check_unused(database)
            make_private_folder(database.parent)
        with contextlib.ExitStack() as stack:
            with naming(database):
                new = stack.enter_context(draft(database))
            head = unpack(backup, self._source, new, self._progress)
            lines, carried = self._prepare(new, backup, head)
            aside = sqlite.replace(database, new, self._word)
        if self._file is not None:
            self._file.write(lines)
        return Restored(head, aside, carried)

    def _prepare(self, new: Path, backup: Path, head: BackupHead) -> tuple[list[bytes], Carried]:
        """Check that this is a sound database whose secrets open, and write the entries into it; their lines."""
        old = self._look_at_old()
        with contextlib.closing(Store.open(new, self._source, by=self._by, wall=self._wall)) as store:
            if problems := store.problems():
                raise StoreError(f"what is in the backup is damaged ({problems[0]}): use another backup")
            store.accounts.all()
            for request_id, part in store.history.bodies(_SAMPLE):
                store.body(request_id, part)
            before = store.audit.head()
            carried = self._carry(store, old, str(backup.absolute()), head)
            return [row.line() for row in store.audit.rows_after(before.last_id if before else 0, 10)], carried

    def _carry(self, store: Store, old: _Old, backup: str, head: BackupHead) -> Carried:
        """Take up what the old database has, with the entry about the restore, which says what that was."""
        current, carried, told = old.current, Carried(has_old=old.is_there), dict[str, object]()
        is_related = current is not None and not current.key_ids.isdisjoint(store.audit.signer.key_ids())
        returned = self._adopt_keys(store, current.data_keys) if current is not None else []
        with store.audited(RESTORE, backup, made_at=head.made_at, replaced=self._word, carried=told):
            if current is not None:
                store.audit.adopt(current.audit_keys)
                carried = store.carry_over.write(current, is_related=is_related)
                carried.back |= {"data keys": returned} if is_related and returned else {}
            elif old.is_there:
                carried = store.carry_over.distrust(old.why)
            told |= {name: value for name, value in asdict(carried).items() if value}
        return carried

    def _adopt_keys(self, store: Store, theirs: list[Row]) -> list[str]:
        """Have the data keys that the old database's rows need; the ids of those that only the backup has."""
        mine = [key.id for key in store.data_keys()]
        if store.keys is not None:
            store.keys.adopt(theirs)
        return [each for each in mine if each not in {row["id"] for row in theirs}]

    def _look_at_old(self) -> _Old:
        """The old database is brought up to date where that is needed to read it; nothing else in it is changed."""
        database = self._database
        if not database.exists() and not beside(database, "-wal").exists():
            return _Old(None, is_there=False)
        try:
            sqlite.check_unused(database)
            if not database.exists():
                raise StoreError("the file is missing although its -wal is there")
            with contextlib.closing(Store.open(database, self._source, wall=self._wall)) as old:
                return _Old(old.carry_over.read(old.audit.signer.keys()))
        except (CCFlareError, ValueError, TypeError) as error:
            return _Old(None, str(error))
