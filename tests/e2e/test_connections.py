"""Connections to the upstream: who uses which of them, and when they end."""

from collections.abc import Iterator

import pytest

from fake_upstream import FakeUpstream
from harness import Truncated, claude_request
from rig import Rig


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


def test_the_end_of_a_clients_connection_is_its_own(rig: Rig) -> None:
    genuine = claude_request(3000, session=rig.session)
    fields = [(name, b"close" if name == b"Connection" else value) for name, value in genuine.headers]

    with rig.client() as client:
        reply = client.request(genuine.method, genuine.target, fields, genuine.body)
        with pytest.raises(Truncated):
            client.read_head()

    assert (reply.status, reply.header("connection")) == (200, "close")
    assert rig.requests[0].header_values("connection") == []
