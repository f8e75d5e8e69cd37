"""Backups: a whole database in one file that is worth nothing without the key.

    ccflare backup 1\\n | length of the head (4) | head: JSON | pieces: 1 MiB of the database each, and their tags (16)

The head has the data key that the backup's own key is made of, wrapped by the key source as in the database. So it
opens wherever that source has its key, and nowhere else. The head and the place of each piece are authenticated.

A passing copy (0600) of the database lies beside it meanwhile, on the disk that holds the like of it already. The way
back is in restore.py.
"""

import json
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from ccflare_core import __version__
from ccflare_core.db import sqlite
from ccflare_core.db.engine import naming
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.files import draft, publish_audited, unblocked
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.secrets.vault import Chunks, Vault
from ccflare_core.store.data_keys import DataKeys, Wrapped, unwrap

Progress = Callable[[int, int], None]

_MAGIC = b"ccflare backup 1\n"
_LENGTH = 4
_HEAD_LIMIT = 64 * 1024
_PIECE = 1024 * 1024
_TAG = 16
_IS_THERE = "there is a file already: name another one"
_DAMAGED = "it was changed, cut off or made with another key: use another backup"


class BackupHead(NamedTuple):
    """What a backup says of itself. `size` is that of the database in bytes."""

    key: Wrapped
    salt: bytes
    made_at: str
    size: int
    version: str = __version__

    def write(self) -> bytes:
        """The head as JSON."""
        names = {"key": self.key.id, "source": self.key.source, "wrapped": self.key.wrapped.hex()}
        rest = {"salt": self.salt.hex(), "made_at": self.made_at, "size": self.size, "version": self.version}
        return json.dumps(names | rest).encode()

    @classmethod
    def read(cls, text: bytes) -> Self:
        """What `write` wrote. Raises ValueError."""
        found: dict[str, Any] = json.loads(text)
        try:
            key = Wrapped(str(found["key"]), str(found["source"]), bytes.fromhex(found["wrapped"]))
            facts = (str(found["made_at"]), int(found["size"]), str(found["version"]))
            datetime.fromisoformat(facts[0])
            return cls(key, bytes.fromhex(found["salt"]), *facts)
        except (KeyError, TypeError) as error:
            raise ValueError("a name is missing") from error

    def chunks(self, vault: Vault) -> Chunks:
        """What seals and opens the pieces. Raises VaultError if the vault has not the key."""
        return Chunks(vault.mac("backup", self.salt, self.key.id), _MAGIC + self.write())


def make(
    database: Path, keys: DataKeys, target: Path, now: float, progress: Progress, entry: AbstractContextManager[None]
) -> BackupHead:
    """Write a backup of the database as it is now; others may write meanwhile. Never over a file that is there.

    `entry` is the transaction with the audit entry about it. Raises StoreError or VaultError, and then there is neither
    file nor entry.
    """
    if keys.vault is None:
        raise VaultError("a backup cannot be sealed without a key")
    with naming(target):
        if target.exists():
            raise StoreError(_IS_THERE)
        with draft(database) as plain, draft(target) as sealed:
            sqlite.copy(database, plain, progress)
            made_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
            head = BackupHead(keys.newest(), secrets.token_bytes(32), made_at, plain.stat().st_size)
            with plain.open("rb") as source, sealed.open("wb") as out:
                _seal(source, out, head, head.chunks(keys.vault))
                os.fsync(out.fileno())
            if not publish_audited(sealed, target, entry):
                raise StoreError(_IS_THERE)
    return head


def _seal(source: BinaryIO, out: BinaryIO, head: BackupHead, chunks: Chunks) -> None:
    text = head.write()
    out.write(_MAGIC + len(text).to_bytes(_LENGTH, "big") + text)
    number, piece = 0, source.read(_PIECE)
    while True:
        following = source.read(_PIECE)
        out.write(chunks.seal(number, piece, is_last=not following))
        if not following:
            return
        number, piece = number + 1, following


def unpack(backup: Path, source: KeySource, target: Path, progress: Progress) -> BackupHead:
    """Write the database in a backup into the empty file `target`. Raises StoreError or VaultError.

    Only what came out whole is a database: after an error throw `target` away.
    """
    with naming(backup), open(backup, "rb", opener=unblocked) as sealed, target.open("wb") as out:
        head = _read_head(sealed)
        if head.key.source != source.name:
            raise VaultError(
                f"this backup needs the key source {head.key.source}, but {source.name} is configured: "
                f"set ccflare_key_source to {head.key.source}"
            )
        _open(sealed, out, head, Vault([unwrap(source, head.key)]), progress)
        os.fsync(out.fileno())
    return head


def examine(backup: Path) -> BackupHead:
    """What the file says of itself, unless it has another size than it should. It takes no key.

    Raises StoreError.
    """
    with naming(backup), open(backup, "rb", opener=unblocked) as sealed:
        head = _read_head(sealed)
        pieces = max(1, -(-head.size // _PIECE))
        if backup.stat().st_size - sealed.tell() != head.size + pieces * _TAG:
            raise StoreError(_DAMAGED)
    return head


def _read_head(sealed: BinaryIO) -> BackupHead:
    if sealed.read(len(_MAGIC)) != _MAGIC:
        raise StoreError(f"this is no backup: name a file that `{typed('maintain backup')}` has made")
    length = int.from_bytes(sealed.read(_LENGTH), "big")
    try:
        return BackupHead.read(sealed.read(min(length, _HEAD_LIMIT)))
    except (ValueError, RecursionError) as error:
        raise StoreError(_DAMAGED) from error


def _open(sealed: BinaryIO, out: BinaryIO, head: BackupHead, vault: Vault, progress: Progress) -> None:
    chunks = head.chunks(vault)
    number, piece = 0, sealed.read(_PIECE + _TAG)
    while True:
        following = sealed.read(_PIECE + _TAG)
        try:
            out.write(chunks.open(number, piece, is_last=not following))
        except VaultError as error:
            raise StoreError(_DAMAGED) from error
        progress(min(head.size, (number + 1) * _PIECE), head.size)
        if not following:
            return
        number, piece = number + 1, following
