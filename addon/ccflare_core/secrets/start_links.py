"""Links that log the owner in, made by whoever can read the data key: the proxy at its start, and `ccflare dashboard`.

A link is good for all proxies on the database, for some minutes, and once: the database has the ones that were used.
"""

import base64
import binascii
import hmac
import secrets
from typing import NamedTuple

from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import Vault

GOOD_SECONDS = 15 * 60
_NONCE_BYTES = 32


class Link(NamedTuple):
    """What is in a link that was made here: when it ends (epoch seconds), and what tells it from all others."""

    until: int
    nonce: bytes


def new_token(vault: Vault, now: float) -> str:
    """A token for a link."""
    link = Link(int(now) + GOOD_SECONDS, secrets.token_bytes(_NONCE_BYTES))
    return ".".join((vault.key_id, str(link.until), _text(link.nonce), _text(_mac(vault, vault.key_id, link))))


def read_token(vault: Vault, token: str, now: float) -> Link | None:
    """The link of this token; None if it was not made for this database, or is over. It may have been used."""
    try:
        key_id, until, nonce, mac = token.split(".")
        link = Link(int(until), _bytes(nonce))
        is_right = hmac.compare_digest(_mac(vault, key_id, link), _bytes(mac))
    except (ValueError, VaultError, binascii.Error):
        return None
    return link if is_right and now < link.until else None


def link(scheme: str, address: str, token: str) -> str:
    """The link itself; `address` is host and port of the proxy."""
    return f"{scheme}://{address}/ccflare/login?token={token}"


def _mac(vault: Vault, key_id: str, link: Link) -> bytes:
    return vault.mac("links", b"|".join((b"%d" % link.until, link.nonce)), key_id)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
