"""Never a client of ourselves: what would come back here is answered once, by whatever name it was asked for."""

import socket
from collections.abc import Iterator

import pytest

from fake_upstream import FakeUpstream
from harness import NOWHERE, Proxy, RawClient, Reply, claude_request

NAMES = ("0.0.0.0", "[::ffff:0.0.0.0]", "127.1", "2130706433", "127.0.0.1.", socket.gethostname())


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with FakeUpstream() as upstream, Proxy(upstream, ccflare_forward_other_hosts=True) as proxy:
        yield proxy


def ask(proxy: Proxy, target: str, host: str) -> Reply:
    with RawClient("127.0.0.1", proxy.port) as client:
        client.authority = host
        return client.request("GET", target)


def rows(proxy: Proxy, path: str) -> list[tuple[object, object, object]]:
    """What is recorded, once all of it has ended."""
    sql = "SELECT status_code, outcome, error_message FROM requests WHERE path = ?"
    found = proxy.rows(sql, (path,), until=lambda rows: rows and all(row["outcome"] for row in rows))
    return [(row["status_code"], row["outcome"], row["error_message"]) for row in found]


def leads_here(name: str) -> bool:
    """Whether this machine's resolver takes it for an address of the machine."""
    try:
        with socket.create_server(("0.0.0.0", 0)) as server:
            socket.create_connection((name.strip("[]"), server.getsockname()[1]), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", range(len(NAMES)))
@pytest.mark.parametrize("form", ["absolute", "host"])
def test_a_request_that_would_come_back_is_answered_once(proxy: Proxy, number: int, form: str) -> None:
    name = NAMES[number]
    path, authority = f"/loop/{number}/{form}", f"{name}:{proxy.port}"

    reply = ask(proxy, f"http://{authority}{path}" if form == "absolute" else path, authority)

    if leads_here(name):
        assert (reply.status, reply.header("x-should-retry")) == (508, "false")
        assert [row[:2] for row in rows(proxy, path)] == [(508, "refused")]
    else:
        assert reply.status in (403, 502)
        assert len(rows(proxy, path)) == 1


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0", "[::1]", "127.1"])
def test_no_tunnel_comes_back(proxy: Proxy, name: str) -> None:
    with RawClient("127.0.0.1", proxy.port) as client:
        client.authority = f"{name}:{proxy.port}"
        assert client.request("CONNECT", client.authority).status == 508


def test_another_service_of_this_machine_is_still_reached(proxy: Proxy) -> None:
    with FakeUpstream() as other:
        assert ask(proxy, f"http://0.0.0.0:{other.port}/v1/models", f"0.0.0.0:{other.port}").status == 200


class ToItself(Proxy):
    """A proxy whose upstream is the proxy."""

    def _for_upstream(self, upstream: FakeUpstream | str | None) -> dict[str, object]:
        return {"ccflare_upstream": f"http://{upstream}:{self.port}", "ccflare_token_url": NOWHERE}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_an_upstream_that_is_the_proxy_itself_is_answered_once(name: str) -> None:
    proxy = ToItself(name, ccflare_hold_seconds=0)
    proxy.add_api_key("work", "sk-ant-api03-work")
    with proxy:
        with RawClient("127.0.0.1", proxy.port) as client:
            client.authority = f"127.0.0.1:{proxy.port}"
            reply = client.request(*claude_request(300))

        assert (reply.status, reply.header("x-should-retry")) == (508, "false")
        assert b"ccflare_upstream" in reply.body
        sql = "SELECT status_code, attempts FROM requests WHERE outcome IS NOT NULL"
        (row,) = proxy.rows(sql, until=bool)
        assert (row["status_code"], row["attempts"]) == (508, 1)
        assert proxy.rows("SELECT verdict FROM attempts") == [{"verdict": "comes_back"}]
        assert proxy.rows("SELECT COUNT(*) AS n FROM scope_cooldowns") == [{"n": 0}]


def test_a_name_that_is_not_known_gets_the_remedy_that_helps() -> None:
    with FakeUpstream() as upstream, Proxy(upstream) as proxy:
        refused = ask(proxy, "/v1/models", f"host.docker.internal:{proxy.port}")
    assert refused.status == 403
    assert b"ccflare_allowed_hosts" in refused.body
    assert b"ccflare_forward_other_hosts" not in refused.body

    with FakeUpstream() as upstream, Proxy(upstream, ccflare_allowed_hosts="host.docker.internal") as proxy:
        assert ask(proxy, "/v1/models", f"host.docker.internal:{proxy.port}").status == 200
        assert ask(proxy, "/ccflare/health", f"host.docker.internal:{proxy.port}").status == 200
        assert ask(proxy, "/v1/models", f"evil.example:{proxy.port}").status == 403
