"""A body in pieces with the address of each, and what tells the whole one from others. Pure.

What an earlier body of the conversation has in common with it is neither cut nor named nor digested again.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ccflare_core.transcripts.changes import alike
from ccflare_core.transcripts.digests import Digested, digest_on
from ccflare_core.transcripts.moving import Taken, take_out
from ccflare_core.transcripts.splitting import Cuts, cut, has_structure


class Pieces(NamedTuple):
    """A body that was cut: the address of each piece, and what stands between them."""

    body: bytes
    cuts: Cuts
    taken: Taken
    addresses: list[bytes]
    digested: Digested

    def __repr__(self) -> str:
        return "<Pieces>"

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        numbers = len(self.cuts.places) + len(self.cuts.ends) + sum(map(len, self.taken.places))
        return len(self.body) + len(self.cuts.rest) + 40 * numbers + 64 * len(self.addresses)


def pieces(body: bytes, address: Callable[[bytes], bytes], earlier: Pieces | None = None) -> Pieces | None:
    """The pieces, or None if the body is a single one. An `earlier` body has its addresses by the same function."""
    if not has_structure(body):
        return None
    same = alike(earlier.body, 0, body, 0, min(len(earlier.body), len(body))) if earlier else 0
    taken = take_out(body, earlier.taken if earlier else None, same)
    cuts = cut(taken.rest, earlier.cuts if earlier else None)
    if len(cuts.ends) <= 2:  # the beginning and the end
        return None
    digested = digest_on(body, earlier.digested if earlier else None, same)
    return Pieces(body, cuts, taken, list(_addresses(cuts, address, earlier)), digested)


def _addresses(cuts: Cuts, address: Callable[[bytes], bytes], earlier: Pieces | None) -> Iterator[bytes]:
    back = len(cuts.ends) - 1 - cuts.kept_back
    if earlier:
        yield from earlier.addresses[: cuts.kept_front]
    for number in range(cuts.kept_front, back):
        yield address(cuts.piece(number))
    if earlier and cuts.kept_back:
        yield from earlier.addresses[-cuts.kept_back :]
