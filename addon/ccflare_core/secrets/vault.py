"""Secrets at rest: AES-256-GCM, one ring of data keys, one layout. The only importer of a cipher.

Sealed bytes are `version (1) | key id (8) | nonce (12) | ciphertext and tag`. The version, the key id and the
place (table, column and row) are authenticated with the ciphertext, so what was moved to another row or
column does not open there. Nonces are random: NIST SP 800-38D allows 2**32 values for one key, so they are counted
(sealed_counts.py).

No data key encrypts by itself. HKDF-SHA256 makes one key for each purpose out of it, so bodies that anyone can send
never meet the key of the tokens. The data keys lie in the database, each wrapped by a key from outside of it: see
data_keys.py and key_sources.py.
"""

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeGuard, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ccflare_core.errors import VaultError

KEY_BYTES = 32
HEAD = 1 + 8
"""How many of the first bytes of a sealed value tell its layout and its key."""

Purpose = Literal["audit", "backup", "blocks", "links", "pepper", "rows", "runs", "sessions"]

_VERSION = b"\x01"
_NONCE = 12
_TAG = 16
_DOES_NOT_OPEN = "a sealed value does not open: it was sealed with another key, moved, or changed"


def place(table: str, column: str, row_id: str) -> str:
    """The place a value is sealed for. Only the last part may hold a `|`, so no two places read alike."""
    if "|" in table or "|" in column:
        raise ValueError("a table's or column's name cannot hold '|'")
    return f"{table}|{column}|{row_id}"


class _DataKey:
    """One data key, and what was derived from it."""

    def __init__(self, key: bytes) -> None:
        self.id = key_id(key)
        self.macs = {purpose: _derive(key, purpose) for purpose in get_args(Purpose)}
        self._tokens = AESGCM(_derive(key, "tokens"))
        self._payloads = AESGCM(_derive(key, "payloads"))

    def cipher(self, place: str) -> AESGCM:
        return self._payloads if place.startswith("payloads|") else self._tokens


class Vault:
    """Seals with the newest key of a ring and opens with any of them."""

    def __init__(self, keys: Sequence[bytes], look: Callable[[], object] = lambda: None) -> None:
        """Take the keys, newest first. `look` is called, once a value, for a key that is not in the ring.

        Raises VaultError if there is no key or one has not 32 bytes.
        """
        self._look = look
        self._sealed: Counter[bytes] = Counter()
        self.replace(keys)

    def __repr__(self) -> str:
        return f"Vault(key_ids={self.key_ids})"

    def replace(self, keys: Sequence[bytes]) -> None:
        """Go on with these keys, newest first. Raises VaultError as __init__ does."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise VaultError("the vault needs at least one key, and every key has 32 bytes: check the key's source")
        self._ring = {key.id: key for key in map(_DataKey, keys)}
        self._newest = next(iter(self._ring.values()))

    @property
    def key_id(self) -> str:
        """The id of the key that seals now, in hex. It says nothing about the key."""
        return self._newest.id.hex()

    @property
    def key_ids(self) -> list[str]:
        """The ids of all keys, newest first, in hex."""
        return [each.hex() for each in self._ring]

    def seal(self, plain: bytes, place: str) -> bytes:
        """`plain`, readable only with the newest key and only at `place`."""
        head = _VERSION + self._newest.id
        self._sealed[self._newest.id] += 1
        nonce = os.urandom(_NONCE)
        return head + nonce + self._newest.cipher(place).encrypt(nonce, plain, _bound(head, place))

    @property
    def sealed(self) -> dict[str, int]:
        """How many values each key has sealed here, by its id in hex."""
        return {each.hex(): number for each, number in self._sealed.items()}

    def open(self, sealed: bytes, place: str) -> bytes:
        """What was sealed for `place`. Raises one VaultError whatever the reason: it teaches nothing."""
        head, nonce, rest = sealed[:HEAD], sealed[HEAD : HEAD + _NONCE], sealed[HEAD + _NONCE :]
        if head[:1] != _VERSION or len(rest) < _TAG:
            raise VaultError(_DOES_NOT_OPEN)
        if head[1:] not in self._ring:
            self._look()
        key = self._ring.get(head[1:])
        if key is None:
            raise VaultError(_DOES_NOT_OPEN)
        try:
            return key.cipher(place).decrypt(nonce, rest, _bound(head, place))
        except InvalidTag:
            raise VaultError(_DOES_NOT_OPEN) from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether it was sealed in today's layout with the newest key."""
        return sealed[:HEAD] == _VERSION + self._newest.id

    def rewrap(self, sealed: bytes, place: str) -> bytes:
        """The same secret for the same place, sealed with the newest key. Raises VaultError like `open`."""
        return self.move(sealed, place, place)

    def move(self, sealed: bytes, place: str, other: str) -> bytes:
        """The same secret for another place. Raises VaultError like `open`."""
        return self.seal(self.open(sealed, place), other)

    def mac(self, purpose: Purpose, data: bytes, key_id: str | None = None) -> bytes:
        """HMAC-SHA256 of `data`, under the newest key's key for this purpose or that of another key.

        The key's id has to be stored with it. Raises VaultError if the ring has no such key.
        """
        key = self._newest if key_id is None else self._find(key_id)
        return hmac.digest(key.macs[purpose], data, "sha256")

    def audit_key(self, key_id: str) -> bytes:
        """What `mac` uses for "audit", to be kept for the day when the data key is gone. Raises VaultError as it."""
        return self._find(key_id).macs["audit"]

    def _find(self, key_id: str) -> _DataKey:
        wanted = bytes.fromhex(key_id)
        if wanted not in self._ring:
            self._look()
        if wanted not in self._ring:
            raise VaultError(f"the data key {key_id} is not in the ring: it was retired")
        return self._ring[wanted]


class Chunks:
    """Seals a stream piece by piece. None can be changed, moved or left out, nor the end be cut off, unseen."""

    def __init__(self, key: bytes, context: bytes) -> None:
        """The key is for this one stream. `context` is authenticated with each piece."""
        self._cipher = AESGCM(key)
        self._context = context

    def seal(self, number: int, plain: bytes, *, is_last: bool) -> bytes:
        """The piece with this number, 16 bytes longer."""
        return self._cipher.encrypt(_counted(number, is_last), plain, self._context)

    def open(self, number: int, sealed: bytes, *, is_last: bool) -> bytes:
        """What `seal` was given. Raises one VaultError whatever the reason."""
        try:
            return self._cipher.decrypt(_counted(number, is_last), sealed, self._context)
        except (InvalidTag, ValueError):
            raise VaultError(_DOES_NOT_OPEN) from None


def is_sealed(value: bytes | str) -> TypeGuard[bytes]:
    """Whether it looks like a sealed value. No token does: tokens are printable."""
    return isinstance(value, bytes) and value[:1] == _VERSION


def head_of(key_id: str) -> bytes:
    """What every value starts with that the key of this id has sealed."""
    return _VERSION + bytes.fromhex(key_id)


def key_id(key: bytes) -> bytes:
    """The 8 bytes that name a key and say nothing about it."""
    return hashlib.sha256(b"ccflare key id\0" + key).digest()[: HEAD - 1]


def wrap_key(wrapping: bytes, key: bytes, context: bytes) -> bytes:
    """`key` under another one, readable only with the same `context`: `nonce (12) | ciphertext and tag`."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(wrapping).encrypt(nonce, key, context)


def unwrap_key(wrapping: bytes, wrapped: bytes, context: bytes) -> bytes:
    """What `wrap_key` wrapped. Raises one VaultError whatever the reason."""
    try:
        return AESGCM(wrapping).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], context)
    except (InvalidTag, ValueError):
        raise VaultError("a data key does not unwrap: it was wrapped by another key, or changed") from None


def _counted(number: int, is_last: bool) -> bytes:
    """A nonce that says where in the stream a piece belongs."""
    return number.to_bytes(_NONCE - 1, "big") + bytes([is_last])


def _bound(head: bytes, place: str) -> bytes:
    """What the cipher authenticates beside the ciphertext: `version|key id|place`."""
    return b"|".join((head[:1], head[1:], place.encode()))


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"ccflare " + purpose.encode()).derive(key)
