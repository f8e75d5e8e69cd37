"""Secrets at rest: AES-256-GCM, one key ring, one layout. The only importer of a cipher.

Sealed bytes are `version (1) | key id (8) | nonce (12) | ciphertext and tag`. The version, the key id and the
place (table, column and row) are authenticated with the ciphertext, so what was moved to another row or
column does not open there. Nonces are random: NIST SP 800-38D allows 2**32 values for one key.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ccflare_core.errors import VaultError
from ccflare_core.files import draft, make_private_folder, publish

KEY_VARIABLE = "ccflare_ENCRYPTION_KEY"

_VERSION = b"\x01"
_KEY_BYTES = 32
_HEAD = 1 + 8  # version and key id
_NONCE = 12
_TAG = 16
_KEY_FILE_LIMIT = 65_536
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_DOES_NOT_OPEN = "a sealed value does not open: it was sealed with another key, moved, or changed"


def place(table: str, column: str, row_id: str) -> str:
    """The place a value is sealed for. Only the last part may hold a `|`, so no two places read alike."""
    if "|" in table or "|" in column:
        raise ValueError("a table's or column's name cannot hold '|'")
    return f"{table}|{column}|{row_id}"


class Vault:
    """Seals with the newest key of a ring and opens with any of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take the keys, newest first. Raises VaultError if there is none or one has not 32 bytes."""
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise VaultError("the vault needs at least one key, and every key has 32 bytes: check the key's source")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._newest = _key_id(keys[0])

    def __repr__(self) -> str:
        return f"Vault(key_ids={[key_id.hex() for key_id in self._ciphers]})"

    @property
    def key_id(self) -> str:
        """The id of the key that seals now, in hex. It says nothing about the key."""
        return self._newest.hex()

    def seal(self, plain: bytes, place: str) -> bytes:
        """`plain`, readable only with the newest key and only at `place`."""
        head = _VERSION + self._newest
        nonce = os.urandom(_NONCE)
        return head + nonce + self._ciphers[self._newest].encrypt(nonce, plain, _bound(head, place))

    def open(self, sealed: bytes, place: str) -> bytes:
        """What was sealed for `place`. Raises one VaultError whatever the reason: it teaches nothing."""
        head, nonce, rest = sealed[:_HEAD], sealed[_HEAD : _HEAD + _NONCE], sealed[_HEAD + _NONCE :]
        cipher = self._ciphers.get(head[1:])
        if head[:1] != _VERSION or cipher is None or len(rest) < _TAG:
            raise VaultError(_DOES_NOT_OPEN)
        try:
            return cipher.decrypt(nonce, rest, _bound(head, place))
        except InvalidTag:
            raise VaultError(_DOES_NOT_OPEN) from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether it was sealed in today's layout with the newest key."""
        return sealed[:_HEAD] == _VERSION + self._newest

    def rewrap(self, sealed: bytes, place: str) -> bytes:
        """The same secret for the same place, sealed with the newest key. Raises VaultError like `open`."""
        return self.seal(self.open(sealed, place), place)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"ccflare key id\0" + key).digest()[: _HEAD - 1]


def _bound(head: bytes, place: str) -> bytes:
    """What the cipher authenticates beside the ciphertext: `version|key id|place`."""
    return b"|".join((head[:1], head[1:], place.encode()))


def load_vault(environ: Mapping[str, str], key_file: Path) -> Vault:
    """A vault with the key of the environment, else with those of `key_file`, which the first run makes.

    A key that is set but unusable raises VaultError: going on with another one, or none, would hide it.
    No message quotes a key.
    """
    text = environ.get(KEY_VARIABLE)
    if text is not None:
        key = _parse_key(text.strip())
        if key is None:
            raise VaultError(f"{KEY_VARIABLE} is set but is not 32 bytes in base64 or hex: correct it, or unset it")
        return Vault([key])
    try:
        if not key_file.exists():
            _make_key_file(key_file)
        return Vault(_read_key_file(key_file))
    except OSError as error:
        raise VaultError(f"the key file {key_file} cannot be used: {error.strerror or error}") from error


def _parse_key(text: str) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        standard = text.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _make_key_file(key_file: Path) -> None:
    """Write a new key unless another process is first; the caller reads whichever key is there afterwards."""
    make_private_folder(key_file.parent)
    with draft(key_file) as path:
        with path.open("w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        publish(path, key_file)


def _read_key_file(key_file: Path) -> list[bytes]:
    """The keys, one a line in hex, newest first; blank lines and lines that start with `#` do not count."""
    with key_file.open("rb") as file:
        _check_private(key_file, os.fstat(file.fileno()))
        lines = file.read(_KEY_FILE_LIMIT).decode("ascii", "replace").splitlines()
    keys = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            if not _HEX.fullmatch(line):
                raise VaultError(f"the key file {key_file} is damaged in line {number}: restore it from a backup")
            keys.append(bytes.fromhex(line))
    if not keys:
        raise VaultError(f"the key file {key_file} holds no key: restore it from your backup")
    return keys


def _check_private(key_file: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise VaultError(f"the key file {key_file} is not a plain file: name another one")
    if info.st_uid not in (os.geteuid(), 0):
        raise VaultError(f"the key file {key_file} belongs to another user: give it to the user that runs ccflare")
    if info.st_mode & 0o077:
        raise VaultError(f"the key file {key_file} is open to other users: run `chmod 600 {key_file}`")
