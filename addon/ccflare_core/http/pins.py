"""Which public keys an upstream host may have. Pure: what is pinned, not whether a connection keeps to it.

A pin is the SHA-256 of a certificate's SubjectPublicKeyInfo, in base64, as curl's `--pinnedpubkey` and RFC 7469 write
it. A new certificate for the same key keeps its pin.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

_DIGEST_BYTES = 32
FORM = "HOST=sha256/BASE64 with a comma between two of them"


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of each host; a host without any is not pinned."""

    of_host: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pins in `host=sha256/BASE64, host=sha256/BASE64, …`; ValueError if it is anything else."""
        found: dict[str, frozenset[str]] = {}
        for entry in filter(None, map(str.strip, text.split(","))):
            host, _, pin = entry.partition("=")
            host = host.strip().lower().strip("[]")
            if not host or not is_pin(pin.strip()):
                raise ValueError(f"a pin is {FORM}")
            found[host] = found.get(host, frozenset()) | {pin.strip()}
        return cls(found)

    def covers(self, host: str) -> bool:
        """Whether this host is pinned."""
        return host.lower() in self.of_host

    def allow(self, host: str, chain: Iterable[str]) -> bool:
        """Whether a verified chain with these pins may be this host's: one pin that is expected is enough."""
        expected = self.of_host.get(host.lower())
        return expected is None or not expected.isdisjoint(chain)

    def without_backup(self) -> list[str]:
        """The hosts that cannot be reached any more once their one pinned key is replaced."""
        return sorted(host for host, pins in self.of_host.items() if len(pins) < 2)


def is_pin(text: str) -> bool:
    """Whether `text` is `sha256/` and the base64 of 32 bytes."""
    method, _, digest = text.partition("/")
    try:
        return method == "sha256" and len(base64.b64decode(digest, validate=True)) == _DIGEST_BYTES
    except (binascii.Error, ValueError):
        return False


def are_pins(text: str) -> bool:
    """Whether `Pins.parse` understands it."""
    try:
        Pins.parse(text)
    except ValueError:
        return False
    return True
