"""Request and response bodies <-> what the database keeps of them. The one place that knows the format.

A stored format names itself, so that others can live beside it. `zstd+sealed/1` is one zstd frame, sealed
for its place.
"""

from collections.abc import Sequence

import zstandard

from ccflare_core.errors import VaultError
from ccflare_core.vault import Vault

FORMAT = "zstd+sealed/1"
CLEAR = "clear"
"""The format of a body that an import has put there as it is, until `scripts/keys.py migrate-plaintext` seals it."""

LEVEL = 1
"""The work is done while the proxy serves. On 100 KB of JSON, level 3 takes 40 % longer and saves 6-10 %."""


def encode(bodies: Sequence[tuple[bytes, str]], vault: Vault) -> list[tuple[str, bytes]]:
    """For each body and place the format's name and the bytes to store, readable only at that place.

    All are compressed in one call: each call lets go of the interpreter's lock, and getting it back beside a busy
    event loop costs both more than a small body does.
    """
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    if any(body for body, _ in bodies):
        packed = compressor.multi_compress_to_buffer([body for body, _ in bodies])
        frames = [packed[index].tobytes() for index in range(len(packed))]
    else:  # it refuses to work for nothing
        frames = [compressor.compress(b"")] * len(bodies)
    return [(FORMAT, vault.seal(frame, where)) for frame, (_, where) in zip(frames, bodies, strict=True)]


def decode(format: str, sealed: bytes, vault: Vault, place: str) -> bytes:
    """The body that was stored. Raises VaultError if the format is unknown or the bytes do not open."""
    if format != FORMAT:
        raise VaultError(f"a stored body has the format {format!r}, which this version does not know: use a newer one")
    try:
        return zstandard.ZstdDecompressor().decompress(vault.open(sealed, place))
    except zstandard.ZstdError as error:
        raise VaultError(f"a stored body cannot be unpacked: {error}") from error
