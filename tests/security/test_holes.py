"""What a fresh attempt to break the first promises found, or thought of where no other test had."""

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ccflare_core.anthropic.request import models_asked
from ccflare_core.clients.keys import Role
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from fake_upstream import Answer, FakeUpstream, Gate, Header
from harness import RawClient, Truncated, eventually, via_connect
from rig import Rig

# --- A key's models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"}]},
        {"fallbacks": [{"model": "claude-opus-4-8"}]},
        {"fallback": {"model": "claude-opus-4-8"}},
    ],
    ids=["an advisor", "one of the fallbacks", "the fallback"],
)
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_model_that_is_run_beside_the_first_counts_as_asked_for(part: dict[str, object], is_batch: bool) -> None:
    asked = {"model": "claude-haiku-4-5", "messages": [], **part}
    body = {"requests": [{"custom_id": "1", "params": asked}]} if is_batch else asked

    assert models_asked(json.dumps(body).encode()) == ["claude-haiku-4-5", "claude-opus-4-8"]


def test_a_model_that_is_only_spoken_of_does_not_count() -> None:
    used = {"type": "tool_use", "id": "1", "name": "Task", "input": {"model": "claude-opus-4-8"}}
    schema = {"type": "object", "properties": {"model": {"type": "string"}}}
    body = {
        "model": "claude-haiku-4-5",
        "messages": [{"role": "assistant", "content": [used]}],
        "tools": [{"name": "Task", "input_schema": schema}],
    }

    assert models_asked(json.dumps(body).encode()) == ["claude-haiku-4-5"]


# --- A connection that was upgraded is a tunnel too -------------------------------------------------------------------

PROTOCOLS = ("websocket", "another")
"""mitmproxy reads the frames of the first; of others it passes the bytes on."""
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with (
        FakeUpstream(tls=True) as upstream,
        Rig.running(upstream, ccflare_open_loopback=True) as rig,
    ):
        yield rig


@pytest.fixture
def rig(bench: Rig) -> Rig:
    bench.renew("a")
    return bench


def add_keys(rig: Rig, *names: str) -> dict[str, str]:
    """New client keys that count by now, by their names."""
    with rig.stored() as store:
        secrets = {name: store.clients.add(new_key(name, time.time())) for name in names}

    def asked(secret: str) -> int:
        with rig.client() as client:  # a connection ends when a request on it is refused for its key
            return client.request("GET", "/api/x", (as_key(secret),)).status

    for secret in secrets.values():
        eventually(partial(asked, secret), lambda status: status == 404)
    return secrets


def as_key(secret: str) -> Header:
    return b"x-api-key", secret.encode()


def upgrade(rig: Rig, client: RawClient, protocol: str, secret: str) -> None:
    """Go on in another protocol on this connection, which the upstream keeps open."""
    head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
    rig.upstream.answer(Answer(chunks=(head, Gate()), raw=True), path="/api/live")
    fields = ((b"Connection", b"upgrade"), (b"Upgrade", protocol.encode()))
    client.send_request("GET", "/api/live", (as_key(secret), *fields))
    assert client.read_head().status == 101


def revoke(store: Store, name: str) -> None:
    store.clients.revoke(name)


def rotate(store: Store, name: str) -> None:
    store.clients.rotate(name, 0)


def expire(store: Store, name: str) -> None:
    store.clients.change(name, expires_at=time.time() + 0.5)


def demote(store: Store, name: str) -> None:
    store.clients.change(name, role=Role.VIEWER)


def assert_ends(client: RawClient) -> None:
    with contextlib.suppress(ConnectionError, Truncated):
        while client.detach().recv(65536):
            pass


@pytest.mark.parametrize("end", [revoke, rotate, expire, demote])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_upgraded_connection_ends_with_its_key_and_no_other_does(
    rig: Rig, protocol: str, end: Callable[[Store, str], None]
) -> None:
    name = f"key-{next(NUMBERS)}"
    secrets = add_keys(rig, name, f"{name}-other")
    with rig.client() as client, rig.client() as bystander:
        upgrade(rig, client, protocol, secrets[name])
        request = rig.upstream.requests[-1]
        upgrade(rig, bystander, protocol, secrets[f"{name}-other"])

        with rig.stored() as store:
            end(store, name)

        assert_ends(client)
        rig.upstream.wait_until(lambda: request.aborted)
        assert bystander.is_silent()


@pytest.mark.parametrize("ending", ["outer", "inner"])
def test_an_upgraded_connection_in_a_tunnel_ends_with_either_key(rig: Rig, ending: str) -> None:
    names = {place: f"key-{next(NUMBERS)}" for place in ("outer", "inner")}
    secrets = add_keys(rig, *names.values())
    proof = b"Basic " + base64.b64encode(f"key:{secrets[names['outer']]}".encode())
    fields = ((b"Proxy-Authorization", proof),)
    with via_connect(rig.proxy, "localhost", rig.upstream.port, headers=fields) as client:
        upgrade(rig, client, "another", secrets[names["inner"]])
        request = rig.upstream.requests[-1]

        with rig.stored() as store:
            revoke(store, names[ending])

        assert_ends(client)
        rig.upstream.wait_until(lambda: request.aborted)
