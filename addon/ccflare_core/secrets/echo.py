"""The credential that was sent, found and blanked in what comes back for it. Pure.

An upstream that quotes a request's head in its answer would tell the client, and every artefact that shows the answer,
whose account it is. `Echo` looks for that one secret and nothing else: in heads in any case of letters (HTTP/2 writes
names small), in bodies byte for byte. What is blanked keeps its length, so that lengths told before stay true.
"""

import traceback
from collections.abc import Sequence

from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.headers import Header
from ccflare_core.secrets import redact

DECODED_BYTES = 1024 * 1024
"""How much an encoded body may come to and still be searched."""

_BLANK = b"[redacted]"


class Echo:
    """Looks for one secret. Holds it, so it must not be shown."""

    __slots__ = ("_lower", "_mask", "_secret", "_waiting")

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._lower = self._secret.lower()
        self._mask = _BLANK.ljust(len(self._secret), b"*")[: len(self._secret)]
        self._waiting = b""

    def __repr__(self) -> str:
        return "Echo()"

    # Heads

    def is_in(self, text: str) -> bool:
        """Whether a short text, such as a model's name, has the secret inside."""
        return self._lower in text.encode("utf-8", "replace").lower()

    def in_line(self, value: bytes) -> bytes:
        """A value of a head with the secret blanked."""
        lower = value.lower()
        at = lower.find(self._lower)
        while at >= 0:
            value = value[:at] + self._mask + value[at + len(self._mask) :]
            at = lower.find(self._lower, at + len(self._mask))
        return value

    def in_fields(self, fields: Sequence[Header]) -> tuple[Header, ...]:
        """Header fields with the secret blanked; a field that is named after it is left out."""
        if self._lower not in b"\0".join([part for field in fields for part in field]).lower():
            return tuple(fields)
        return tuple((name, self.in_line(value)) for name, value in fields if self._lower not in name.lower())

    # Bodies

    def pass_on(self, chunk: bytes) -> bytes:
        """What of a body can go on now that `chunk` has come; what may be the secret's beginning waits for the rest."""
        data = (self._waiting + chunk).replace(self._secret, self._mask)
        cut = len(data) - self._begun(data)
        self._waiting = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """What still waits, at the body's end."""
        rest, self._waiting = self._waiting, b""
        return rest

    def in_encoded(self, body: bytes, coding: str) -> bytes | None:
        """A whole body in this content coding: itself if it has no secret, else decoded and with the secret blanked.

        None if it cannot be searched.
        """
        decoder = Decoder(coding, DECODED_BYTES)
        plain = decoder.feed(body)
        if decoder.trouble is not None:
            return None
        if self._secret in plain:
            return plain.replace(self._secret, self._mask)
        return None if self._secret in body else body  # behind the end of what is encoded

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the secret's first ones."""
        longest = min(len(data), len(self._secret) - 1)
        return next((size for size in range(longest, 0, -1) if self._secret.startswith(data[-size:])), 0)


def trace(error: BaseException, echo: Echo | None = None) -> str:
    """An exception with its traceback, for the log: its text may quote what was read, so what is secret is blanked."""
    told = "".join(traceback.format_exception(error)).rstrip()
    return redact.text(told if echo is None else echo.in_line(told.encode("utf-8", "replace")).decode())
