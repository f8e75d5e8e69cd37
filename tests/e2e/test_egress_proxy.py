"""Proxies on the way out, as companies have them: real ones, and a real proxy of ours that goes through them."""

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ccflare_core.http.egress import EgressProxy
from connect_proxy import ConnectProxy
from fake_upstream import TOKEN, FakeUpstream
from harness import Proxy, claude_request, eventually, via_connect
from rig import Rig

PASSWORD = "p4ssw0rd-of-the-proxy"
LOGIN = f"somebody:{PASSWORD}"
ENCODED = base64.b64encode(LOGIN.encode()).decode()


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        yield upstream


@pytest.fixture
def way(api: FakeUpstream) -> Iterator[ConnectProxy]:
    with ConnectProxy(api.port, login=LOGIN) as proxy:
        yield proxy


def in_file(folder: Path, proxy: ConnectProxy) -> str:
    """What `ccflare_egress_proxy` says of a proxy whose login is in a file."""
    file = folder / "egress"
    file.touch(0o600)
    file.write_text(f"{proxy.whole_url}\n")
    return f"file:{file}"


# --- everything goes the same way


class Told(NamedTuple):
    """How the proxy is told of the one on its way."""

    mode: str
    by_option: bool

    def __str__(self) -> str:
        return f"{self.mode}-{'option' if self.by_option else 'mode'}"


TOLD = [Told("upstream", False), Told("regular", True), Told("upstream", True)]


def due(api: FakeUpstream) -> dict[str, Any]:
    """The fields of an account whose token is to be refreshed at once."""
    access, refresh = api.logins.new_login()
    return {"access_token": access, "refresh_token": refresh, "expires_at": time.time() + 60}


def refreshes(api: FakeUpstream) -> int:
    return sum(request.path == TOKEN for request in api.requests)


@pytest.mark.parametrize("told", TOLD, ids=str)
def test_requests_and_refreshes_go_by_the_same_proxy(
    told: Told, api: FakeUpstream, way: ConnectProxy, tmp_path: Path
) -> None:
    """With its login; nothing goes past it, and the proxy that the mode may name besides sees nothing."""
    with ConnectProxy(api.port) as other:
        mode = (other if told.by_option else way).mode if told.mode == "upstream" else None
        option, auth = (in_file(tmp_path, way), None) if told.by_option else (None, LOGIN)
        with Rig.running(api, mode=mode, ccflare_egress_proxy=option, upstream_auth=auth) as rig:
            connected, refreshed = api.connections, refreshes(api)
            rig.fresh("a", **due(api))
            eventually(lambda: refreshes(api) > refreshed)
            assert rig.ask().status == 200
            if told.mode == "regular":
                with via_connect(rig.proxy, "localhost", api.port) as client:
                    assert client.request(*claude_request(3000)).status == 200
            log = rig.proxy.log()
        assert other.heads == []

    assert set(way.asked_for) == {f"localhost:{api.port}"}
    assert len(way.heads) == api.connections - connected >= 2
    assert PASSWORD not in log
    assert ENCODED not in log


def test_a_proxy_that_would_read_credentials_or_be_left_out_stops_the_start() -> None:
    options: dict[str, Any] = {"ccflare_egress_proxy": "http://127.0.0.1:9", "connection_strategy": "eager"}
    with pytest.raises(RuntimeError) as refused, Proxy("http://127.0.0.1:9", **options):
        pass

    assert "ccflare_egress_proxy: it would show the accounts' credentials to that proxy" in str(refused.value)
    assert "connection_strategy: with ccflare_egress_proxy it has to be lazy" in str(refused.value)


# --- an account with a proxy of its own


@pytest.fixture(scope="module")
def bench(api: FakeUpstream) -> Iterator[Rig]:
    with Rig.running(api, ccflare_connect_seconds=10) as rig:
        yield rig


def own(proxy: ConnectProxy, login: str = LOGIN) -> dict[str, EgressProxy]:
    """An account's field."""
    user, _, password = login.partition(":")
    return {"proxy": replace(EgressProxy.parse(proxy.url), user=user, password=password)}


def test_an_accounts_traffic_and_refreshes_go_by_its_own_proxy(
    bench: Rig, api: FakeUpstream, way: ConnectProxy
) -> None:
    """No other account's do, and nobody can read which proxy it is."""
    refreshed, connected = refreshes(api), api.connections
    bench.fresh("a", "b", each={"a": {**due(api), **own(way)}})
    eventually(lambda: refreshes(api) > refreshed)
    assert bench.ask().status == 200
    tunnels = len(way.heads)
    assert tunnels == api.connections - connected == 2

    bench.change("a", paused=True)
    bench.wait_for_reason("a", "paused")
    bench.change("b", refresh_token=due(api)["refresh_token"], expires_at=time.time() + 60)
    eventually(lambda: refreshes(api) > refreshed + 1)
    assert bench.ask().status == 200
    assert len(way.heads) == tunnels

    shown = (bench.proxy.log(), bench.proxy.database.read_bytes().decode("latin-1"), str(bench.health()))
    for secret in (PASSWORD, ENCODED, way.url):
        assert all(secret not in text for text in shown)


def test_no_connection_is_shared_between_two_ways_out(bench: Rig, api: FakeUpstream, way: ConnectProxy) -> None:
    """One client's connection, one upstream: each account goes its own way, also two logins with one proxy."""
    with ConnectProxy(api.port) as open_one:
        bench.fresh("a", "b", "c", "d", each={"a": own(way), "b": own(way, "other:pw"), "c": own(open_one, "")})
        way.login = ""  # takes everybody, and notes who they say they are
        with bench.client() as client:
            for name in "abcd":
                if name != "a":
                    before = chr(ord(name) - 1)
                    bench.change(before, paused=True)
                    bench.wait_for_reason(before, "paused")
                for _ in range(2):
                    reply = client.request(*claude_request(3000))
                    assert reply.status == 200
        logins = [head.partition(b"Proxy-Authorization: Basic ")[2].split(b"\r\n")[0] for head in way.heads]

    assert bench.asked == list("aabbccdd")
    assert [base64.b64decode(login).decode() for login in logins] == [LOGIN, "other:pw"]
    assert [b"Authorization" in head for head in open_one.heads] == [False]


def break_it(how: str, proxy: ConnectProxy) -> str:
    """Let it fail this way; the words that tell of it."""
    if how == "away":
        proxy.stop()
        return "the connection was refused"
    if how == "login":
        proxy.login = "somebody:else"
        return "407: it wants another user and password"
    proxy.status = int(how)
    return f"{how}: it does not reach the host"


@pytest.mark.parametrize("how", ["away", "login", "502"])
def test_a_proxy_that_fails_rests_its_accounts_alone(
    how: str, bench: Rig, api: FakeUpstream, way: ConnectProxy
) -> None:
    bench.fresh("a", "b", "c", each={"a": own(way), "b": own(way)})
    words = break_it(how, way)

    reply = bench.ask()

    assert (reply.status, bench.asked) == (200, ["c"])
    assert bench.row()["account"] == "c"
    assert bench.kinds() == ["proxy_failure", "ok"]
    for name in "ab":
        (rest,) = bench.rests(name)
        assert (rest.family, rest.source) == ("", "proxy_failure")
        assert words in rest.reason
    assert bench.rests("c") == []
    assert bench.is_idle()


def test_a_proxy_that_all_go_by_is_asked_again_before_the_client_hears_of_it(
    api: FakeUpstream, way: ConnectProxy
) -> None:
    """There is no other way, so it is as with an upstream that fails: it may be back in a moment."""
    way.status = 502
    options: dict[str, Any] = {"ccflare_egress_proxy": way.url}
    way.login = ""
    with Rig.running(api, **options) as rig:
        rig.fresh("a", "b")
        reply = rig.ask()
        asked = len(way.heads)

    assert (reply.status, rig.requests, asked) == (502, [], 2)
    told = reply.json()["error"]["message"]
    assert told == (
        "The upstream could not be used: no way through the proxy: it refused the tunnel "
        "(502: it does not reach the host)."
    )


def test_a_proxy_that_opens_the_tls_gets_nothing_and_rests_its_account(bench: Rig, api: FakeUpstream) -> None:
    with FakeUpstream(tls=True) as impostor, ConnectProxy(impostor.port) as reader:
        bench.fresh("a", "b", each={"a": own(reader, "")})
        reply = bench.ask()
        assert impostor.requests == []

    assert (reply.status, bench.asked, bench.row()["account"]) == (200, ["b"], "b")
    assert bench.kinds() == ["not_trusted", "ok"]
    (rest,) = bench.rests("a")
    assert "its proxy leads to no certificate that is good for the name in ccflare_upstream" in rest.reason


def test_a_proxy_is_reached_by_tls_and_verified(bench: Rig, api: FakeUpstream) -> None:
    with ConnectProxy(api.port, login=LOGIN, shows=api) as way, FakeUpstream(tls=True) as other:
        bench.fresh("a", each=dict.fromkeys("a", own(way)))
        assert bench.ask().status == 200
        assert len(way.heads) == 1
        with ConnectProxy(api.port, login=LOGIN, shows=other) as impostor:
            bench.fresh("a", "b", each=dict.fromkeys("a", own(impostor)))
            assert bench.ask().status == 200

    assert (bench.asked, bench.row()["account"]) == (["b"], "b")
    assert bench.kinds() == ["proxy_failure", "ok"]
    assert impostor.heads == []


def test_an_account_with_a_proxy_gets_no_upstream_without_tls() -> None:
    with FakeUpstream() as plain, ConnectProxy(plain.port) as reader, Rig.running(plain) as rig:
        rig.fresh("a", "b", each={"a": own(reader, "")})
        assert rig.ask().status == 200

        assert (rig.asked, reader.heads, rig.row()["account"]) == (["b"], [], "b")
        assert "its proxy could read the credential" in rig.rests("a")[0].reason


def test_an_accounts_proxy_that_is_this_proxy_itself_is_left_after_one_try(bench: Rig) -> None:
    here = EgressProxy.parse(f"http://127.0.0.1:{bench.proxy.port}")
    bench.fresh("a", "b", each={"a": {"proxy": here}})

    assert (bench.ask().status, bench.asked, bench.row()["account"]) == (200, ["b"], "b")
    assert bench.kinds() == ["comes_back", "ok"]
    assert bench.rests("a")[0].reason == "its proxy leads back to this one"
