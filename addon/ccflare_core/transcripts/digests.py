"""What tells a body from every other one, reckoned on from an earlier body that begins the same. Pure."""

import hashlib
from collections.abc import Buffer
from typing import NamedTuple, Protocol, Self

_SIZE = 16
_STEP = 64 * 1024


class Hash(Protocol):
    """One of hashlib's."""

    def copy(self) -> Self: ...

    def digest(self) -> bytes: ...

    def update(self, data: Buffer, /) -> None: ...


class Digested(NamedTuple):
    """A body's digest, and how far it was reckoned at each of its steps."""

    digest: bytes
    steps: list[Hash]


def digest(body: bytes) -> bytes:
    """The digest alone."""
    return hashlib.sha256(body).digest()[:_SIZE]


def digest_on(body: bytes, earlier: Digested | None = None, same: int = 0) -> Digested:
    """The body's digest. Its first `same` bytes are those of the body that `earlier` is of."""
    steps: list[Hash] = earlier.steps[: same // _STEP] if earlier else []
    running = steps[-1].copy() if steps else hashlib.sha256()
    view = memoryview(body)
    for start in range(len(steps) * _STEP, len(body), _STEP):
        piece = view[start : start + _STEP]
        running.update(piece)
        if len(piece) == _STEP:
            steps.append(running.copy())
    return Digested(running.digest()[:_SIZE], steps)
