"""A key source that a person can remember: Argon2id (RFC 9106) makes the key out of a passphrase.

The parameters are stored with what is wrapped, so that they can grow. They are bounded on reading: an edit of them
could otherwise make the next start take all memory.
"""

import os
import struct
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ccflare_core.config.options import PASSPHRASE
from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import KEY_BYTES, unwrap_key, wrap_key

SHORTEST = 12
"""Characters. NIST SP 800-63B asks for 8 where guessing is throttled; a stolen file throttles nobody."""

_HEAD = struct.Struct(">16sIBB")
_MOST_MEMORY_KIB, _MOST_ITERATIONS, _MOST_LANES = 1024 * 1024, 16, 16


class _Parameters(NamedTuple):
    salt: bytes
    memory_kib: int
    iterations: int
    lanes: int

    def problem(self) -> str | None:
        if not (
            8 * self.lanes <= self.memory_kib <= _MOST_MEMORY_KIB
            and 1 <= self.iterations <= _MOST_ITERATIONS
            and 1 <= self.lanes <= _MOST_LANES
        ):
            return "a data key asks for more work than any passphrase is worth: the database was changed, restore it"
        return None


class Passphrase:
    """Wraps with a key out of a passphrase. Deriving it takes about 0.2 s and 64 MiB, once for each salt."""

    name = "passphrase"

    def __init__(self, passphrase: str) -> None:
        """Raises VaultError if it is too short."""
        if len(passphrase) < SHORTEST:
            raise VaultError(
                f"{PASSPHRASE} is too short: take at least {SHORTEST} characters, better five random words"
            )
        self._passphrase = passphrase
        self._keys: dict[_Parameters, bytes] = {}

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See KeySource."""
        # RFC 9106, section 4, the second recommended option.
        parameters = next(reversed(self._keys), None) or _Parameters(os.urandom(16), 64 * 1024, 3, 4)
        head = _HEAD.pack(*parameters)
        return head + wrap_key(self._derive(parameters), key, head + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See KeySource."""
        if len(wrapped) < _HEAD.size:
            raise VaultError("a data key is cut off: restore the database from a backup")
        head = wrapped[: _HEAD.size]
        parameters = _Parameters(*_HEAD.unpack(head))
        if problem := parameters.problem():
            raise VaultError(problem)
        try:
            return unwrap_key(self._derive(parameters), wrapped[_HEAD.size :], head + context)
        except VaultError:
            del self._keys[parameters]
            raise VaultError(f"{PASSPHRASE} is not the passphrase of this database: correct it") from None

    def renew(self) -> None:
        """Another passphrase comes from its owner."""
        raise VaultError("a new passphrase has to be given on stdin")

    def _derive(self, parameters: _Parameters) -> bytes:
        if parameters not in self._keys:
            salt, memory, iterations, lanes = parameters
            try:
                derivation = Argon2id(
                    salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory
                )
                self._keys[parameters] = derivation.derive(self._passphrase.encode())
            except UnsupportedAlgorithm:
                raise VaultError("this build of cryptography has no Argon2id: take the one from PyPI") from None
        return self._keys[parameters]
