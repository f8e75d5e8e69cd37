"""Puts a backup in the place of the database, and lets the audit log go on behind what the backup has of it.

The entry about it is signed and already in the database that is put in place. The second copy of the log learns of it
last: a restore that was refused, or that failed, leaves both as they were. `audit.py verify` takes what the second copy
has from before that entry for what was replaced; see check.py.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ccflare_core.audit.entries import RESTORE, By
from ccflare_core.audit.file import AuditFile
from ccflare_core.db import sqlite
from ccflare_core.db.engine import naming
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.files import draft, make_private_folder, publish
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.store.backup import BackupHead, Progress, unpack
from ccflare_core.store.store import Store

_SAMPLE = 100


class Restored(NamedTuple):
    """What was put in place, and where the old database lies now, if there was one."""

    head: BackupHead
    aside: Path | None


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
            lines = self._prepare(new, backup, head)
            aside = sqlite.set_aside(database, self._word)
            with naming(database):
                self._publish(new, aside)
        if self._file is not None:
            self._file.write(lines)
        return Restored(head, aside)

    def _prepare(self, new: Path, backup: Path, head: BackupHead) -> list[bytes]:
        """Check that this is a sound database whose secrets open, and write the entry into it; its lines."""
        kept = self._old_audit_keys()
        with contextlib.closing(Store.open(new, self._source, by=self._by, wall=self._wall)) as store:
            if problems := store.problems():
                raise StoreError(f"what is in the backup is damaged ({problems[0]}): use another backup")
            store.accounts.all()
            for request_id, part in store.history.bodies(_SAMPLE):
                store.body(request_id, part)
            before = store.audit.head()
            with store.audited(RESTORE, str(backup.absolute()), made_at=head.made_at, replaced=self._word):
                store.audit.adopt(kept)
            return [row.line() for row in store.audit.rows_after(before.last_id if before else 0, 10)]

    def _old_audit_keys(self) -> dict[str, bytes]:
        """What checks the replaced rows in the second copy; nothing where the old database cannot be read."""
        try:
            with contextlib.closing(Store.open(self._database, self._source, read_only=True)) as old:
                return old.audit.signer.keys()
        except CCFlareError:
            return {}

    def _publish(self, new: Path, aside: Path | None) -> None:
        try:
            is_published = publish(new, self._database)
        except OSError:
            if aside is not None:
                sqlite.rename(aside, self._database)
            raise
        if not is_published:
            raise StoreError("another program has just made a database here: move it away, and restore again")
