"""What tests on a shared proxy start from. Each file makes its own `bench`, a proxy with the options that it needs."""

from collections.abc import Iterator

import pytest

from harness import Port, RawClient
from rig import Rig


@pytest.fixture
def rig(bench: Rig) -> Rig:
    """The bench with two accounts as good as new, a first."""
    bench.renew("a", "b")
    return bench


@pytest.fixture
def client(rig: Rig) -> Iterator[RawClient]:
    """A connection to it."""
    with rig.client() as client:
        yield client


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else gets meanwhile."""
    reserved = Port()
    yield reserved.number
    reserved.release()
