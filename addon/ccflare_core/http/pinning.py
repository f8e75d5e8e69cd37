"""Whether a verified connection leads to a pinned key. For mitmproxy's connections and for our own client's alike.

Pins come on top of the usual verification, which has succeeded before anyone asks here, and never in its place.
"""

import base64
import hashlib
import logging
import time
from collections.abc import Callable, Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ccflare_core.http.pins import Pins

logger = logging.getLogger("ccflare")

NOT_PINNED = "certificate not pinned"
"""How the cause is called, in the log and in the record."""
REMINDER_SECONDS = 3600.0


def spki_pin(certificate: x509.Certificate | bytes) -> str:
    """The pin of a certificate (or of its DER): `sha256/` and the base64 of its public key's SHA-256."""
    if isinstance(certificate, bytes):
        certificate = x509.load_der_x509_certificate(certificate)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256/{base64.b64encode(hashlib.sha256(key).digest()).decode()}"


class PinGuard:
    """Accepts or refuses connections; asks for the pins and for the mode each time, so both can change."""

    def __init__(
        self,
        pins: Callable[[], Pins],
        *,
        enforced: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pins = pins
        self._enforced = enforced
        self._clock = clock
        self._reminded: dict[str, float] = {}

    def covers(self, host: str) -> bool:
        """Whether this host is pinned, so that its connections have to be shown here."""
        return self._pins().covers(host)

    def accepts(self, host: str, chain: Iterable[str]) -> bool:
        """Whether a connection whose verified chain has these pins may be used for this host.

        A mismatch is logged once per host and hour. In report-only mode that is all that comes of it.
        """
        return self.judge(host, self._pins().allow(host, chain))

    def judge(self, host: str, kept: bool) -> bool:
        """The same, where somebody else has seen whether the chain has a pinned key."""
        if kept:
            return True
        self._remind(host)
        return not self._enforced()

    def _remind(self, host: str) -> None:
        now = self._clock()
        if now - self._reminded.get(host, -REMINDER_SECONDS) < REMINDER_SECONDS:
            return
        self._reminded[host] = now
        what = "nothing is sent to it" if self._enforced() else "it is used all the same, as only reports are wanted"
        logger.warning("%s: %s has no key of ccflare_upstream_pins; %s", NOT_PINNED, host, what)
