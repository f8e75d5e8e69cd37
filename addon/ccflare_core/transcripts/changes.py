"""What two bodies have in common: the runs of bytes that stand in both. Pure.

Of a conversation nearly all is sent again with every turn. What is new lies in few places: the last messages, and
markers that move. So bytes are compared from both ends, a large slice at a time, and where they differ it is looked
shortly behind for the place from which they are alike again. What is not found costs work, and nothing else.
"""

from collections.abc import Iterator
from typing import NamedTuple

_SLICE = 64 * 1024
_MOST_CHANGES = 6
"""In how many places it is looked from either end."""
_PROBE = 48
_SKIPPED = (64, 512, 4096)
"""How many bytes behind a change the ones lie that are looked for."""
_FAR = 128 * 1024
"""How much may have come in between."""


class Run(NamedTuple):
    """`length` bytes that begin at `old` in the one body and at `new` in the other."""

    old: int
    new: int
    length: int


def alike(old: bytes, at: int, new: bytes, to: int, most: int) -> int:
    """How many bytes are the same from these places on, `most` at most."""
    view = memoryview(old)  # a slice of it is no copy
    done, size = 0, min(_SLICE, most)
    while size:
        if new.startswith(view[at + done : at + done + size], to + done):
            done += size
            size = min(size, most - done)
        else:
            size //= 2  # one of them is not
            most = min(most, done + 2 * size + 1)
    return done


def alike_before(old: bytes, at: int, new: bytes, to: int, most: int) -> int:
    """How many bytes are the same directly before these places, `most` at most."""
    view = memoryview(old)
    done, size = 0, min(_SLICE, most)
    while size:
        if new.startswith(view[at - done - size : at - done], to - done - size):
            done += size
            size = min(size, most - done)
        else:
            size //= 2
            most = min(most, done + 2 * size + 1)
    return done


def runs(old: bytes, new: bytes) -> list[Run]:
    """What is unchanged, in order."""
    first = alike(old, 0, new, 0, min(len(old), len(new)))
    behind = list(_from_end(old, new, first))
    end = behind[-1] if behind else Run(len(old), len(new), 0)
    return [*_from_start(old, new, first, end), *reversed(behind)]


def _from_end(old: bytes, new: bytes, first: int) -> Iterator[Run]:
    at, to = len(old), len(new)
    for _ in range(_MOST_CHANGES):
        length = alike_before(old, at, new, to, min(at, to) - first)
        at, to = at - length, to - length
        if length:
            yield Run(at, to, length)
        for skipped in _SKIPPED:
            probe = old[max(at - skipped, first) : max(at - skipped, first) + _PROBE]
            found = new.rfind(probe, max(first, to - _FAR), to) if at - skipped > first else -1
            if found >= 0:
                more = alike(old, at - skipped, new, found, min(skipped, to - found))
                at, to = at - skipped + more, found + more
                break
        else:
            return


def _from_start(old: bytes, new: bytes, first: int, end: Run) -> Iterator[Run]:
    if first:
        yield Run(0, 0, first)
    at = to = first
    for _ in range(_MOST_CHANGES):
        for skipped in _SKIPPED:
            probe = old[at + skipped : at + skipped + _PROBE]
            found = new.find(probe, to, min(to + _FAR, end.new)) if at + skipped + _PROBE <= end.old else -1
            if found >= 0:
                less = alike_before(old, at + skipped, new, found, min(skipped, found - to))
                at, to = at + skipped - less, found - less
                break
        else:
            return
        length = alike(old, at, new, to, min(end.old - at, end.new - to))
        yield Run(at, to, length)
        at, to = at + length, to + length
