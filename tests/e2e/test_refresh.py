"""OAuth accounts that stay alive: real proxies, a token endpoint that takes each refresh token once, and kill -9."""

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.config.location import Location
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from database_kit import KEY, KEY_VARIABLE, start_python
from fake_upstream import (
    MESSAGES,
    TOKEN,
    Answer,
    FakeUpstream,
    Gate,
    Request,
    error,
    failure,
    limited_5h,
    stall_before_head,
    unauthorized,
)
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url, via_connect

ROUNDS = 50 if os.environ.get("CCFLARE_LONG_TESTS") else 15


@contextlib.contextmanager
def opened(proxy: Proxy) -> Iterator[Store]:
    """The proxy's own file, opened beside it."""
    store = Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))
    try:
        yield store
    finally:
        store.close()


def accepting_only_new(upstream: FakeUpstream, old: str) -> None:
    """From now on the upstream refuses this access token."""
    upstream.always(unauthorized(), credential=old, path=MESSAGES)


def slowly(upstream: FakeUpstream, seconds: float) -> None:
    """The token endpoint acts at once and answers later."""
    upstream.always(lambda request: stall_before_head(seconds, upstream.logins.token(request)), path=TOKEN)


def ask(proxy: Proxy) -> int:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(4000, stream=False)).status


def health(proxy: Proxy) -> dict[str, dict[str, Any]]:
    with via_base_url(proxy) as client:
        accounts = client.request("GET", "/ccflare/health").json()["accounts"]
    return {account["name"]: account for account in accounts}


def wait_for_account(proxy: Proxy, name: str = "max") -> None:
    eventually(lambda: name in health(proxy))


def sent(upstream: FakeUpstream, path: str) -> list[Request]:
    return [request for request in upstream.requests if request.path == path]


# --- one refresh ----------------------------------------------------------------------------------------------------


REVOKED = error(403, "permission_error", "OAuth token has been revoked. Please obtain a new token.")


@pytest.mark.parametrize("refusal", [unauthorized(), REVOKED], ids=["401", "403 revoked"])
def test_a_refused_token_is_renewed_inside_the_request(
    upstream: FakeUpstream, start_proxy: StartProxy, refusal: Answer
) -> None:
    access, refresh = upstream.logins.new_login()
    upstream.always(refusal, credential=access, path=MESSAGES)
    proxy = start_proxy(upstream)
    proxy.add_tokens("invalid_grant", access, refresh)
    wait_for_account(proxy, "invalid_grant")

    assert ask(proxy) == 200

    assert [request.path for request in upstream.requests] == [MESSAGES, TOKEN, MESSAGES]
    assert upstream.requests[2].credential not in (access, "")
    sql = "SELECT outcome, failover_attempts, attempts FROM requests WHERE outcome IS NOT NULL"
    rows = proxy.rows(sql, until=bool)
    assert rows == [{"outcome": "ok", "failover_attempts": 0, "attempts": 2}]
    with opened(proxy) as store:
        assert store.accounts.all()[0].access_token == upstream.requests[2].credential


@pytest.mark.timeout(300)
def test_a_thousand_requests_on_an_expired_token_are_one_refresh(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    slowly(upstream, 2)
    proxy = start_proxy(upstream, ccflare_client_head_seconds=600)  # they are silent until there is the account
    access, refresh = upstream.logins.new_login()
    request = claude_request(2000, stream=False)
    with contextlib.ExitStack() as clients:
        held = [clients.enter_context(via_base_url(proxy, 120.0)) for _ in range(1000)]
        proxy.add_tokens("max", access, refresh, expires_in=-60)
        wait_for_account(proxy)
        for client in held:
            client.send_request(*request)
        statuses = {client.read_head().status for client in held}

    assert statuses == {200}
    assert (upstream.logins.refreshes, upstream.logins.reuses) == (1, 0)
    assert {request.credential for request in sent(upstream, MESSAGES)}.isdisjoint({access})


def test_two_proxies_on_one_database_are_one_refresh(
    location: Location, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    slowly(upstream, 1)
    one = start_proxy(upstream, database=location, environment=KEY_VARIABLE)
    two = start_proxy(upstream, database=location, environment=KEY_VARIABLE)
    access, refresh = upstream.logins.new_login()
    one.add_tokens("max", access, refresh, expires_in=-60)
    for proxy in (one, two):
        wait_for_account(proxy)

    statuses: list[int] = []
    threads = [threading.Thread(target=lambda p=p: statuses.append(ask(p))) for p in (one, two) * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert statuses == [200] * 20
    assert (upstream.logins.refreshes, upstream.logins.reuses) == (1, 0)


def test_an_idle_account_is_refreshed_ahead_of_time(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=1700)

    upstream.wait_until(lambda: upstream.logins.refreshes == 1)

    eventually(lambda: health(proxy)["max"]["token"], lambda token: token == "valid for 8 h")
    assert health(proxy)["max"]["warning"] is None
    assert health(proxy)["max"]["login_expires_at"] is not None


def test_the_shells_proxy_settings_are_ignored_and_certificates_verified_as_the_proxy_does(
    tls_upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    proxy = start_proxy(tls_upstream, environment=environment)
    proxy.add_tokens("max", *tls_upstream.logins.new_login(), expires_in=-1)

    tls_upstream.wait_until(lambda: tls_upstream.logins.refreshes == 1)

    assert ask(proxy) == 200


def test_the_clients_own_refresh_passes_untouched(tls_upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    access, refresh = tls_upstream.logins.new_login()
    proxy = start_proxy(tls_upstream, accounts={"max": "sk-ant-oat01-the-accounts"})
    body = json.dumps({"grant_type": "refresh_token", "refresh_token": refresh}).encode()
    headers = ((b"Content-Type", b"application/json"), (b"Authorization", b"Bearer " + access.encode()))

    with via_connect(proxy, "localhost", tls_upstream.port) as client:
        reply = client.request("POST", TOKEN, headers, body)

    assert reply.status == 200
    assert reply.json()["access_token"].startswith("sk-ant-oat01-")
    assert [(r.body, r.credential) for r in sent(tls_upstream, TOKEN)] == [(body, access)]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_valid_token_is_used_while_the_endpoint_is_down(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    upstream.always(failure(503, html=True), path=TOKEN)
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=600)
    upstream.wait_until(lambda: bool(sent(upstream, TOKEN)))

    assert ask(proxy) == 200

    eventually(lambda: health(proxy)["max"]["token"], lambda state: "back-off until" in state)
    assert len(sent(upstream, TOKEN)) == 1


def test_an_expired_token_that_cannot_be_renewed_is_an_honest_503(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    upstream.always(Answer(200, ((b"content-type", b"text/html"),), (b"<html>invalid_grant</html>",)), path=TOKEN)
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=-1)
    upstream.wait_until(lambda: bool(sent(upstream, TOKEN)))

    with via_base_url(proxy) as client:
        reply = client.request(*claude_request(4000))

    assert reply.status == 503
    assert "max: refreshing: token expired, next try at" in reply.json()["error"]["message"]
    assert 1 <= int(reply.header("retry-after") or 0) <= 73
    assert sent(upstream, MESSAGES) == []


def test_a_login_that_has_ended_is_said_and_the_others_serve(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    access, refresh = upstream.logins.new_login()
    upstream.logins.end(refresh)
    accepting_only_new(upstream, access)
    proxy = start_proxy(upstream, accounts={"other": "sk-ant-oat01-other"})
    proxy.add_tokens("max", access, refresh, priority=1)
    wait_for_account(proxy)

    assert ask(proxy) == 200
    assert ask(proxy) == 200

    assert health(proxy)["max"]["reason"] == health(proxy)["max"]["token"] == "needs login"
    assert "log in again" in health(proxy)["max"]["warning"]
    assert upstream.logins.refreshes == 1
    with opened(proxy) as store:
        assert store.accounts.by_name("max").needs_login


def test_a_login_during_a_refresh_wins(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    gate = Gate()
    upstream.always(lambda request: replace(upstream.logins.token(request), before=(gate,)), path=TOKEN)
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=-1)
    upstream.wait_until(lambda: upstream.logins.refreshes == 1)
    access, refresh = upstream.logins.new_login()

    with opened(proxy) as store:
        account = store.accounts.by_name("max")
        store.accounts.update(account.id, access_token=access, refresh_token=refresh, expires_at=time.time() + 28_800)
    gate.open()  # for the late answer
    eventually(lambda: health(proxy)["max"]["token"], lambda token: token == "valid for 8 h")

    assert ask(proxy) == 200
    assert [request.credential for request in sent(upstream, MESSAGES)] == [access]
    with opened(proxy) as store:
        assert store.accounts.by_name("max").refresh_token == refresh
    assert (upstream.logins.refreshes, upstream.logins.reuses) == (1, 0)


def test_a_proxy_that_stops_reads_the_answer_first(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    slowly(upstream, 2)
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=-1)
    upstream.wait_until(lambda: upstream.logins.refreshes == 1)

    assert proxy.stop() == 0

    with opened(proxy) as store:
        assert upstream.logins.is_live(store.accounts.all()[0].refresh_token or "")


def test_an_answer_lost_to_kill_9_is_one_more_try_and_then_needs_its_owner(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    slowly(upstream, 5)
    proxy = start_proxy(upstream)
    proxy.add_tokens("max", *upstream.logins.new_login(), expires_in=-1)
    upstream.wait_until(lambda: upstream.logins.refreshes == 1)
    proxy.kill()
    upstream.always(upstream.logins.token, path=TOKEN)

    proxy.start()

    eventually(lambda: health(proxy)["max"]["reason"], lambda reason: reason == "needs login")
    time.sleep(2)
    assert (upstream.logins.refreshes, upstream.logins.reuses) == (2, 1)


def test_no_token_is_in_the_log_the_database_or_the_health_page(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    access, refresh = upstream.logins.new_login()
    accepting_only_new(upstream, access)
    upstream.answer(failure(500), limited_5h(time.time() + 60), path=TOKEN)
    proxy = start_proxy(upstream, ccflare_log_level="debug")
    proxy.add_tokens("max", access, refresh, expires_in=-1)
    proxy.add_tokens("other", *upstream.logins.new_login(), expires_in=-1)
    eventually(lambda: len(sent(upstream, TOKEN)) >= 2)
    ask(proxy)
    shown = json.dumps(health(proxy))

    proxy.stop()

    kept = b"".join(path.read_bytes() for path in proxy.database.parent.iterdir())
    assert "sk-ant-o" not in proxy.log() + shown
    assert b"sk-ant-o" not in kept


# --- kill -9 at any moment ------------------------------------------------------------------------------------------

_REFRESH_FOR_EVER = """
import asyncio, sys
from ccflare_core.anthropic import oauth
from ccflare_core.http.client import Fetcher
from ccflare_core.config.location import parse
from ccflare_core.accounts.token_refresh import Refresher
from ccflare_core.store.store import Store
from ccflare_core.secrets.key_sources import GivenKey

async def main(path, url, owner):
    store = Store.open(parse(path), GivenKey(b"k" * 32))
    store.runs.start(owner, "elsewhere", 1)
    async def call(function):
        return function(store)
    refresher = Refresher(call=call, send=Fetcher().send, endpoints=lambda: oauth.Endpoints(token_url=url), owner=owner)
    account = store.accounts.all()[0]
    while True:
        account = (await refresher.refresh(account, account.access_token)).account
        if account.needs_login:
            print("needs login", flush=True)
            return
        print(account.access_token, flush=True)  # it is used from here on

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(400)
def test_kill_9_at_any_moment_spends_nothing_twice_and_loses_nothing_that_was_committed(
    upstream: FakeUpstream, location: Location
) -> None:
    """Only an answer on its way when the process dies is lost; that is found out by one try, and never by a second."""
    chance = random.Random(20261124)
    pause = (0.0, 0.0, 0.01)
    upstream.always(lambda r: stall_before_head(chance.choice(pause), upstream.logins.token(r)), path=TOKEN)
    store = Store.open(location, KEY)
    lost = 0
    for number in range(ROUNDS):
        account = new_login(store, upstream)
        reuses = upstream.logins.reuses
        used = killed(location, upstream, f"run-{number}", after=chance.uniform(0, 0.06))
        assert upstream.logins.reuses == reuses

        stored = store.accounts.all()[0]
        was_committed = upstream.logins.is_live(stored.refresh_token or "")
        assert stored.access_token == used[-1] or stored.access_token not in [account.access_token, *used]
        store.runs.close_dead("nowhere", lambda pid: False, time.time() + 4000)

        used = killed(location, upstream, f"run-{number}-again", after=0.0)
        assert (used == ["needs login"]) is not was_committed
        assert upstream.logins.reuses == reuses + (not was_committed)
        lost += not was_committed
    store.close()
    print(f"{ROUNDS} kills, {lost} of them with an answer on its way")
    assert lost < ROUNDS


def new_login(store: Store, upstream: FakeUpstream) -> Account:
    access, refresh = upstream.logins.new_login()
    for old in store.accounts.all():
        store.accounts.remove(old.id)
    account = Account("a", "max", Kind.OAUTH, access_token=access, refresh_token=refresh, expires_at=time.time() + 9999)
    store.accounts.add(account)
    return account


def killed(database: Location, upstream: FakeUpstream, owner: str, *, after: float) -> list[str]:
    """What a process that refreshes for ever has used, until it was killed so many seconds after its first token."""
    child = start_python(_REFRESH_FOR_EVER, database, upstream.url + TOKEN, owner)
    try:
        first = child.stdout.readline() if child.stdout else ""
        time.sleep(after)
    finally:
        child.kill()
    rest = child.communicate(timeout=60)[0]
    eventually(lambda: upstream.open_connections == 0)  # what it has sent has arrived
    return [line for line in (first + rest).split("\n")[:-1] if line]
