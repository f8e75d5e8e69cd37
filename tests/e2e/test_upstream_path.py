"""A gateway whose path goes before the API's: upstream sees both, the client and the record its own alone."""

from collections.abc import Iterator

import pytest

from fake_upstream import FakeUpstream, Request, json_answer, sse
from harness import claude_request, via_connect
from rig import Rig

PREFIX = "/llm/anthropic"
OWN = (b"Authorization", b"Bearer the-clients-own")


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        upstream.always(sse(5), path=f"{PREFIX}/v1/messages")
        upstream.always(json_answer({"fine": True}), path=f"{PREFIX}/api/oauth/profile")
        yield upstream


@pytest.fixture(scope="module")
def bench(api: FakeUpstream) -> Iterator[Rig]:
    with Rig.running(api, ccflare_upstream=f"{api.url}{PREFIX}/") as rig:
        yield rig


def last(api: FakeUpstream) -> Request:
    return api.requests[-1]


def test_an_accounts_request_goes_to_the_gateways_path(bench: Rig, api: FakeUpstream) -> None:
    bench.fresh("a")

    assert bench.ask().status == 200

    assert (last(api).target, last(api).credential) == (f"{PREFIX}/v1/messages?beta=true", bench.secret("a"))
    assert (bench.row()["path"], bench.row()["query"]) == ("/v1/messages", "beta=true")


def test_a_request_that_passes_goes_there_too(bench: Rig, api: FakeUpstream) -> None:
    with bench.client() as client:
        assert client.request("GET", "/api/oauth/profile?full=1", (OWN,)).json() == {"fine": True}

    assert (last(api).target, last(api).credential) == (f"{PREFIX}/api/oauth/profile?full=1", "the-clients-own")


def test_a_client_that_comes_by_a_tunnel_is_served_alike(bench: Rig, api: FakeUpstream) -> None:
    bench.fresh("a")

    with via_connect(bench.proxy, "localhost", api.port) as client:
        assert client.request(*claude_request(3000)).status == 200

    assert last(api).path == f"{PREFIX}/v1/messages"


def test_what_gets_an_account_is_the_clients_path_alone(bench: Rig, api: FakeUpstream) -> None:
    """Another path behind the gateway's is no other way to a credential."""
    bench.fresh("a")
    with bench.client() as client:
        for path in (f"{PREFIX}/v1/messages", "/v1/../v1/messages", "/v1//messages"):
            client.request("POST", path, (OWN,), b"{}")

    assert all(request.credential != bench.secret("a") for request in bench.requests)
