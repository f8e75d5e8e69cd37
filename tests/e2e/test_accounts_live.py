"""What scripts/accounts.py changes, a running proxy follows within a second."""

import json
import time
from urllib.parse import quote

import pytest

from asking import wait_for_key
from fake_upstream import FakeUpstream
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url

ONE, TWO = "sk-ant-api03-one", "sk-ant-api03-two"


def health(proxy: Proxy) -> dict[str, str]:
    """Each account's reason, as the health page tells it."""
    with via_base_url(proxy) as client:
        answer = client.request("GET", "/ccflare/health").json()
    return {account["name"]: account["reason"] for account in answer["accounts"]}


def served_by(proxy: Proxy, upstream: FakeUpstream) -> str:
    """The credential that the next request goes out with."""
    with via_base_url(proxy) as client:
        assert client.request(*claude_request()).status == 200
    return upstream.requests[-1].credential


def test_accounts_come_and_go_while_it_runs(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream)
    assert health(proxy) == {}

    proxy.add_api_key("one", ONE)
    eventually(lambda: health(proxy) == {"one": "serving"})
    assert served_by(proxy, upstream) == ONE

    proxy.accounts("rename", "one", "first")
    eventually(lambda: health(proxy) == {"first": "serving"})

    proxy.accounts("remove", "first", "--yes")
    eventually(lambda: health(proxy) == {})


def test_a_paused_account_gets_nothing_until_it_is_resumed(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE}, ccflare_hold_seconds=0)
    proxy.accounts("pause", "one")
    eventually(lambda: health(proxy) == {"one": "paused"})
    with via_base_url(proxy) as client:
        reply = client.request(*claude_request())
    assert reply.status == 503
    assert "one: paused" in reply.json()["error"]["message"]
    assert upstream.requests == []

    proxy.accounts("resume", "one")
    eventually(lambda: health(proxy) == {"one": "serving"})
    assert served_by(proxy, upstream) == ONE


def test_keys_of_one_organization_are_told_from_their_answers(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE, "two": TWO, "max": "sk-ant-oat01-max"}, ranked=True)
    told = "two and one are API keys of one organization, and share its limits."
    with via_base_url(proxy) as client:
        client.request(*claude_request())
        proxy.accounts("priority", "two", "1")
        eventually(lambda: client.request(*claude_request()).status and upstream.requests[-1].credential == TWO)

    assert eventually(lambda: proxy.accounts("list"), lambda listed: told in listed)


def test_account_is_known_by_its_name_in_any_spelling(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"工作": ONE, "M\u00fcller": TWO}, ranked=True)
    secret = proxy.add_client_key("boss", "--role", "admin")
    own = (b"x-api-key", secret.encode())
    wait_for_key(proxy, secret)
    name = "Mu\u0308ller"  # as a Mac's file names have it
    with via_base_url(proxy) as client:
        client.request("GET", "/v1/files", (own, (b"x-ccflare-account", name.encode())))
        assert upstream.requests[-1].credential == TWO
        assert client.request("POST", f"/ccflare/accounts/{quote(name)}/pause", (own,)).status == 200
        told = eventually(
            lambda: client.request("GET", "/ccflare/health", (own,)).json()["accounts"],
            lambda accounts: accounts[1]["reason"] == "paused",
        )
    assert [account["name"] for account in told] == ["工作", "M\u00fcller"]


def test_a_priority_of_1_takes_over_a_session(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE, "two": TWO}, ranked=True)
    session = "the-same"
    with via_base_url(proxy) as client:
        client.request(*claude_request(session=session))
        proxy.accounts("priority", "two", "1")
        eventually(
            lambda: client.request(*claude_request(session=session)).status and upstream.requests[-1].credential == TWO
        )
    assert {request.credential for request in upstream.requests[:-1]} == {ONE}


def test_an_expired_token_that_cannot_be_renewed_says_so(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, ccflare_hold_seconds=0)
    tokens = json.dumps({"access_token": "sk-ant-oat01-old", "expires_at": int(time.time() * 1000) - 1000})
    proxy.accounts("add", "old", "--tokens", "-", stdin=tokens)
    eventually(lambda: health(proxy) == {"old": "needs login: token expired"})
    with via_base_url(proxy) as client:
        assert client.request(*claude_request()).status == 503
    assert upstream.requests == []


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_no_list_shows_a_secret(upstream: FakeUpstream, start_proxy: StartProxy, form: str) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE, "max": "sk-ant-oat01-max"})
    listed = proxy.accounts("list", "--format", form)
    assert "one" in listed
    assert "sk-ant" not in listed
