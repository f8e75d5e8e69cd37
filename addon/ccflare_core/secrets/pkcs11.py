"""A PKCS#11 token (HSM, smart card, SoftHSM) as key source, through the package `python-pkcs11` (extra `[hsm]`).

The wrapping key is made on the token and cannot leave it. The token works at the start and when a data key is made;
a token that is pulled out later stops nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccflare_core.config.options import PKCS11_PIN
from ccflare_core.errors import VaultError
from ccflare_core.program import with_extra

LABEL = "ccflare"

_ID = 8
_NONCE = 12


class Token:
    """Wraps with an AES-256 key on the token: sensitive, not extractable, labelled `ccflare`, found by its id."""

    name = "pkcs11"

    def __init__(self, module: Path, label: str, pin: Callable[[], str]) -> None:
        """`label` may be empty if there is one token only. `pin` is asked at each use. Raises VaultError."""
        self._module = module
        self._label = label
        self._pin = pin
        self._pkcs11: Any = _package()
        self._id: bytes | None = None
        self._refused = False

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See KeySource."""
        with self._session(rw=self._id is None) as session:
            if self._id is None:
                self._id = self._generate(session)
            head, nonce = self._id, os.urandom(_NONCE)
            return (
                head
                + nonce
                + bytes(
                    self._key(session, head).encrypt(
                        key, mechanism=self._gcm, mechanism_param=self._bound(nonce, head + context)
                    )
                )
            )

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See KeySource."""
        head, nonce, rest = wrapped[:_ID], wrapped[_ID : _ID + _NONCE], wrapped[_ID + _NONCE :]
        with self._session(rw=False) as session:
            bound = self._bound(nonce, head + context)
            key = bytes(self._key(session, head).decrypt(rest, mechanism=self._gcm, mechanism_param=bound))
        self._id = head
        return key

    def renew(self) -> None:
        """See KeySource."""
        with self._session(rw=True) as session:
            self._id = self._generate(session)

    @property
    def _gcm(self) -> Any:
        return self._pkcs11.Mechanism.AES_GCM

    def _bound(self, nonce: bytes, aad: bytes) -> Any:
        return self._pkcs11.GCMParams(nonce, aad)

    @contextmanager
    def _session(self, *, rw: bool) -> Iterator[Any]:
        """A session of the token's user; every error of the block as VaultError.

        A token locks after a few wrong PINs, so one that was refused is never shown again.
        """
        if self._refused:
            raise VaultError(f"the token refused {PKCS11_PIN}: correct it and start again")
        errors = self._pkcs11.exceptions
        try:
            with self._token().open(user_pin=self._pin(), rw=rw) as session:
                yield session
        except (errors.PinIncorrect, errors.PinLocked, errors.PinInvalid, errors.PinLenRange, errors.PinExpired):
            self._refused = True
            raise VaultError(f"the token refused {PKCS11_PIN}: correct it, before a token locks itself") from None
        except (errors.PKCS11Error, RuntimeError) as error:
            # A tampered value gives a GeneralError with most tokens, and no text.
            kind = type(error).__name__
            raise VaultError(f"the PKCS#11 token fails ({kind}): check that it is the right one and works") from None

    def _token(self) -> Any:
        try:
            library = self._pkcs11.lib(str(self._module))
        except (self._pkcs11.exceptions.PKCS11Error, RuntimeError):
            raise VaultError(
                f"{self._module} cannot be loaded: name a PKCS#11 library in ccflare_pkcs11_module"
            ) from None
        tokens = [slot.get_token() for slot in library.get_slots(token_present=True)]
        ready = self._pkcs11.TokenFlag.USER_PIN_INITIALIZED
        found = [each for each in tokens if (each.label == self._label if self._label else each.flags & ready)]
        if len(found) != 1:
            which = f"labelled {self._label}" if self._label else "that is ready"
            many = "no token" if not found else "more than one token"
            raise VaultError(f"{self._module} shows {many} {which}: name one in ccflare_pkcs11_token")
        return found[0]

    def _key(self, session: Any, key_id: bytes) -> Any:
        try:
            return session.get_key(object_class=self._pkcs11.ObjectClass.SECRET_KEY, label=LABEL, id=key_id)
        except self._pkcs11.exceptions.NoSuchKey:
            raise VaultError(f"the token has no key {LABEL}/{key_id.hex()}: take the token of this database") from None

    def _generate(self, session: Any) -> bytes:
        attribute, key_id = self._pkcs11.Attribute, os.urandom(_ID)
        session.generate_key(
            self._pkcs11.KeyType.AES,
            256,
            id=key_id,
            label=LABEL,
            store=True,
            capabilities=self._pkcs11.MechanismFlag.ENCRYPT | self._pkcs11.MechanismFlag.DECRYPT,
            template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False},
        )
        return key_id


def _package() -> Any:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError:
        raise VaultError(f"the key source pkcs11 needs the package python-pkcs11: {with_extra('hsm')}") from None
    return pkcs11
