"""Where the key comes from that wraps the data keys: five sources with one interface, and the choice among them.

A source that is set but cannot be used raises VaultError with one sentence. None is ever tried in place of another.
"""

import base64
import binascii
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ccflare_core.config.options import ENCRYPTION_KEY, PASSPHRASE, PKCS11_PIN
from ccflare_core.config.settings import Settings
from ccflare_core.errors import VaultError
from ccflare_core.files import draft, make_private_folder, publish, sync_folder
from ccflare_core.secrets.references import read_private, read_secret
from ccflare_core.secrets.vault import KEY_BYTES, key_id, unwrap_key, wrap_key

SOURCES = ("pkcs11", "keyring", "passphrase", "environment", "file")
"""Their names, in the order in which `auto` looks for one that is configured."""

_ID = 8
_HEX = re.compile(r"[0-9A-Fa-f]{64}")


class KeySource(Protocol):
    """Wraps data keys. What it gives tells it later which of its own keys it has used."""

    @property
    def name(self) -> str:
        """One of SOURCES."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """`key`, readable only through this source with this `context`. Makes the source's key if it has none."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """What `wrap` was given. Raises VaultError if the source is out of reach or its key is another one."""

    def renew(self) -> None:
        """Have `wrap` use a new key from now on. The old one stays: backups of the database need it."""


class GivenKey:
    """A key that somebody else keeps, out of the variable ccflare_ENCRYPTION_KEY."""

    name = "environment"

    def __init__(self, key: bytes) -> None:
        """Take the 32 bytes."""
        self._key = key
        self._id = key_id(key)

    @classmethod
    def parse(cls, text: str, where: str = ENCRYPTION_KEY) -> "GivenKey":
        """The source of a key in base64 or hex. Raises VaultError, which quotes nothing of the text."""
        key = parse_key(text.strip())
        if key is None:
            raise VaultError(f"{where} is set but is not 32 bytes in base64 or hex: correct it, or unset it")
        return cls(key)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See KeySource."""
        return self._id + wrap_key(self._key, key, self._id + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See KeySource."""
        if wrapped[:_ID] != self._id:
            raise VaultError(f"{ENCRYPTION_KEY} is not the key that this database's keys are wrapped by: correct it")
        return unwrap_key(self._key, wrapped[_ID:], self._id + context)

    def renew(self) -> None:
        """Another key, from the place that keeps them."""
        raise VaultError("a new key for the environment has to be given on stdin")


class KeyFile:
    """Keys in a file with mode 0600, one a line in hex, newest first; `#` starts a remark. The first wrap makes it."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See KeySource."""
        try:
            if not self._path.exists():
                self._make()
        except OSError as error:
            raise VaultError(f"the key file {self._path} cannot be made: {error.strerror or error}") from error
        newest = self._read()[0]
        return key_id(newest) + wrap_key(newest, key, key_id(newest) + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See KeySource."""
        if not self._path.exists():
            raise VaultError(
                f"the key file {self._path} is missing: bring it back from your backup, or name the right one"
            )
        found = {key_id(key): key for key in self._read()}
        head = wrapped[:_ID]
        if head not in found:
            raise VaultError(f"the key file {self._path} is not the one of this database: bring that one back")
        return unwrap_key(found[head], wrapped[_ID:], head + context)

    def renew(self) -> None:
        """See KeySource. The file is replaced whole."""
        lines = [secrets.token_hex(KEY_BYTES), *(key.hex() for key in self._read())]
        with draft(self._path) as path:
            _write(path, lines)
            path.replace(self._path)
        sync_folder(self._path.parent)

    def _make(self) -> None:
        """Write a new key unless another process is first; the caller reads whichever key is there afterwards."""
        make_private_folder(self._path.parent)
        with draft(self._path) as path:
            _write(path, [secrets.token_hex(KEY_BYTES)])
            publish(path, self._path)

    def _read(self) -> list[bytes]:
        keys = []
        lines = read_private(self._path, "the key file").decode("ascii", "replace").splitlines()
        for number, line in enumerate(map(str.strip, lines), start=1):
            if line and not line.startswith("#"):
                if not _HEX.fullmatch(line):
                    raise VaultError(f"the key file {self._path} is damaged in line {number}: restore it from a backup")
                keys.append(bytes.fromhex(line))
        if not keys:
            raise VaultError(f"the key file {self._path} holds no key: restore it from your backup")
        return keys


def _write(path: Path, lines: list[str]) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def parse_key(text: str) -> bytes | None:
    """32 bytes in hex, base64 or base64url, with or without padding; None for anything else."""
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        standard = text.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def choose(settings: Settings, environ: Mapping[str, str]) -> KeySource:
    """The source that `ccflare_key_source` names; for `auto` the first of SOURCES that is configured.

    A keyring cannot be told from one that nobody wants used, so it counts only if it is named.
    """
    name = settings.key_source
    if name != "auto":
        return make(name, settings, environ)
    if settings.pkcs11_module is not None:
        return make("pkcs11", settings, environ)
    if PASSPHRASE in environ:
        return make("passphrase", settings, environ)
    return make("environment" if ENCRYPTION_KEY in environ else "file", settings, environ)


def make(name: str, settings: Settings, environ: Mapping[str, str], secret: str | None = None) -> KeySource:
    """The named source, with `secret` in place of what its variable says. Raises VaultError if it cannot be."""
    # Imported where it is chosen: a proxy with a key file has no use for the others.
    if name == "pkcs11":
        from ccflare_core.secrets.pkcs11 import Token

        if settings.pkcs11_module is None:
            raise VaultError("the key source pkcs11 needs a module: name its file in ccflare_pkcs11_module")
        return Token(
            settings.pkcs11_module, settings.pkcs11_token, lambda: _required(environ, PKCS11_PIN, "the token's PIN")
        )
    if name == "keyring":
        from ccflare_core.secrets.os_keyring import OSKeyring

        return OSKeyring()
    if name == "passphrase":
        from ccflare_core.secrets.passphrase import Passphrase

        return Passphrase(secret or _required(environ, PASSPHRASE, "the passphrase"))
    if name == "environment":
        return GivenKey.parse(secret or _required(environ, ENCRYPTION_KEY, "the key"))
    return KeyFile(settings.key_path)


def _required(environ: Mapping[str, str], variable: str, what: str) -> str:
    secret = read_secret(environ, variable)
    if secret is None:
        raise VaultError(f"{variable} is not set: set it to {what}, or to file:PATH or cmd:COMMAND")
    return secret
