"""The operating system's keyring as key source, through the package `keyring` (extra `[keyring]`).

A locked keyring waits for somebody to unlock it, on a server for ever. So each question has a time limit, and none is
asked unless the keyring was chosen.
"""

import secrets
import threading
from collections.abc import Callable
from typing import Protocol, cast

from ccflare_core.errors import VaultError
from ccflare_core.program import with_extra
from ccflare_core.secrets.vault import KEY_BYTES, key_id, unwrap_key, wrap_key

SERVICE = "ccflare"

_ID = 8
_SECONDS = 3.0


class Backend(Protocol):
    """What is used of the package `keyring`."""

    def get_password(self, service: str, username: str, /) -> str | None:
        """The stored text, or None."""

    def set_password(self, service: str, username: str, password: str, /) -> None:
        """Store it."""


class OSKeyring:
    """Keys in hex, each in an entry of the service `ccflare` that is called by the key's id."""

    name = "keyring"

    def __init__(self, backend: Backend | None = None, seconds: float = _SECONDS) -> None:
        """Raises VaultError if the package is not installed."""
        self._backend = backend or _backend()
        self._seconds = seconds
        self._keys: dict[bytes, bytes] = {}

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See KeySource."""
        if not self._keys:
            self.renew()
        head, wrapping = next(reversed(self._keys.items()))
        return head + wrap_key(wrapping, key, head + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See KeySource."""
        head = wrapped[:_ID]
        if head not in self._keys:
            text = self._ask(lambda: self._backend.get_password(SERVICE, head.hex()))
            if text is None:
                raise VaultError(f"the keyring has no entry {SERVICE}/{head.hex()}: bring it back from your backup")
            self._keys[head] = _parse(head, text)
        return unwrap_key(self._keys[head], wrapped[_ID:], head + context)

    def renew(self) -> None:
        """See KeySource. The new key is read back before it counts: some keyrings forget."""
        new = secrets.token_bytes(KEY_BYTES)
        entry = key_id(new).hex()
        self._ask(lambda: self._backend.set_password(SERVICE, entry, new.hex()))
        if self._ask(lambda: self._backend.get_password(SERVICE, entry)) != new.hex():
            raise VaultError("the keyring does not keep what it is given: choose another key source")
        self._keys.pop(key_id(new), None)
        self._keys[key_id(new)] = new

    def _ask[T](self, question: Callable[[], T]) -> T:
        """The answer, within the time limit. The thread of a question without answer ends with the process."""
        answers: list[T] = []
        problems: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=ask, name="ccflare-keyring", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if answers:
            return answers[0]
        if problems:
            kind = type(problems[0]).__name__
            raise VaultError(f"the keyring cannot be used ({kind}): unlock it, or choose another key source")
        raise VaultError(f"the keyring did not answer within {self._seconds:.0f} s: unlock it before the start")


def _parse(head: bytes, text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if key_id(key) != head:
        raise VaultError(f"the keyring's entry {SERVICE}/{head.hex()} was changed: bring it back from your backup")
    return key


def _backend() -> Backend:
    try:
        import keyring
    except ImportError:
        raise VaultError(f"the key source keyring needs the package keyring: {with_extra('keyring')}") from None
    return cast("Backend", keyring)
