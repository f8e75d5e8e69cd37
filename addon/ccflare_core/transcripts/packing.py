"""Packs bodies for the database and unpacks them. The one place that knows the formats.

A stored format names itself, so that others can live beside it:

zstd+sealed/1    one zstd frame, sealed for its place: small bodies, answers, and each block of a large request
blocks+sealed/1  the same, with a manifest in it: which blocks make the body, and what stands between them

A block's address is a MAC of its content under a key that comes from the newest data key. Who has a copy of the
database cannot try whether a text occurs in it. Rotation gives a block a new address too, so nothing in the database
depends on a data key that was retired. Until all is sealed anew, equal content may lie there twice.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from operator import sub
from typing import NamedTuple

from ccflare_core.errors import VaultError
from ccflare_core.http.zstd import LIBRARY
from ccflare_core.secrets.vault import Vault, place
from ccflare_core.transcripts.digests import digest
from ccflare_core.transcripts.splitting import join

FORMAT = "zstd+sealed/1"
MANIFEST = "blocks+sealed/1"
CLEAR = "clear"
"""The format of a body that an import has put there as it is, until `scripts/keys.py migrate-plaintext` seals it."""

LEVEL = 1
"""The work is done while the proxy serves. On 100 KB of JSON, level 3 takes 40 % longer and saves 6-10 %."""

_ADDRESS = 16


class Manifest(NamedTuple):
    """How a body is made: the ids of its blocks in order, and what is put in between (see splitting.py).

    The digest of the whole body stands in it too: whatever happens to the blocks, no wrong body is ever given out.
    """

    digest: bytes
    blocks: list[int]
    inserts: list[tuple[int, bytes]]


def encode(bodies: Sequence[tuple[bytes, str]], vault: Vault) -> list[bytes]:
    """For each body and place the bytes to store in FORMAT, readable only at that place."""
    frames = LIBRARY.compress_all([body for body, _ in bodies], LEVEL)
    return [vault.seal(frame, where) for frame, (_, where) in zip(frames, bodies, strict=True)]


def decode(sealed: bytes, vault: Vault, place: str) -> bytes:
    """What was stored in FORMAT. Raises VaultError if the bytes do not open."""
    return decode_all([(sealed, place)], vault)[0]


def decode_all(stored: Iterable[tuple[bytes, str]], vault: Vault) -> list[bytes]:
    """The same for many, which costs less than one after the other."""
    try:
        return LIBRARY.decompress_all(vault.open(sealed, place) for sealed, place in stored)
    except ValueError as error:
        raise VaultError(f"a stored body cannot be unpacked: {error}") from error


def body_place(part: str, request_id: str) -> str:
    """The place that a body, or its manifest, is sealed for."""
    return place("payloads", part, request_id)


def block_place(address: bytes) -> str:
    """The place that a block is sealed for."""
    return place("payloads", "block", address.hex())


def address(content: bytes, vault: Vault) -> bytes:
    """The name of a block with this content, as long as the newest key stays the same."""
    return vault.mac("blocks", content)[:_ADDRESS]


def reseal_block(sealed: bytes, at: bytes, vault: Vault) -> tuple[bytes, bytes]:
    """The address and the bytes of a block under the newest key. Raises VaultError if it does not open."""
    content = decode(sealed, vault, block_place(at))
    new = address(content, vault)
    return new, vault.move(sealed, block_place(at), block_place(new))


def write_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON. Blocks that came together have ids in a row, and zstd makes little of their steps."""
    steps = list(map(sub, manifest.blocks, chain((0,), manifest.blocks)))
    inserts = [(offset, text.decode("latin-1")) for offset, text in manifest.inserts]
    return json.dumps((manifest.digest.hex(), steps, inserts), separators=(",", ":")).encode()


def read_manifest(data: bytes) -> Manifest:
    """What `write_manifest` wrote."""
    known, steps, inserts = json.loads(data)
    texts = [(offset, text.encode("latin-1")) for offset, text in inserts]
    return Manifest(bytes.fromhex(known), list(accumulate(steps)), texts)


def assemble(manifest: Manifest, pieces: Sequence[bytes]) -> bytes:
    """The body. Raises VaultError if it is not the one that was recorded."""
    try:
        body = join(pieces, manifest.inserts)
    except ValueError:
        body = b""
    if digest(body) != manifest.digest:
        raise VaultError("a stored body does not come out as it was recorded: its blocks were changed")
    return body
