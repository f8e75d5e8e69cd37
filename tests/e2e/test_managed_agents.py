"""Managed Agents: served by one named account and no other one, for the keys that may; else passed as they came."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import (
    FakeUpstream,
    Gate,
    Header,
    close_before_head,
    event,
    failure,
    limited_for,
    permission_denied,
    sse_answer,
)
from fake_upstream.messages import json_answer
from harness import Proxy, Reply, eventually, via_base_url
from rig import Rig

NAMED, OTHER, OWN = "sk-ant-api03-named", "sk-ant-api03-other", "sk-ant-api03-the-clients-own"
SESSION = json_answer({"type": "session", "id": "sesn_1", "usage": {"input_tokens": 9, "output_tokens": 9}})
LIMITED = "/v1/vaults"
"""What nothing but the test of limits asks for."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: FakeUpstream) -> Iterator[Proxy]:
    """A proxy where another account goes first in all that is pooled."""
    quick: dict[str, Any] = {"ccflare_hold_seconds": 0, "ccflare_retry_attempts": 1, "ccflare_retry_delay_ms": 20}
    proxy = Proxy(upstream, ccflare_stateful_account="named", ccflare_passthrough="always", **quick)
    proxy.add_api_key("other", OTHER)
    proxy.add_api_key("named", NAMED, priority=60)
    with proxy:
        yield proxy


def credentials(upstream: FakeUpstream, since: int) -> list[str]:
    return [request.credential for request in upstream.requests[since:]]


def ask(proxy: Proxy, method: str, target: str, *fields: Header, body: bytes = b"") -> Reply:
    """One exchange of a client that has a credential of its own too."""
    with via_base_url(proxy) as client:
        return client.request(method, target, fields or ((b"x-api-key", OWN.encode()),), body)


def message_of(reply: Reply) -> str:
    return str(reply.json()["error"]["message"])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/agents"),
        ("GET", "/v1/sessions?limit=1&beta=true"),
        ("DELETE", "/v1/sessions/sesn_1"),
        ("POST", "/v1/sessions/sesn_1/events"),
        ("GET", "/v1/environments/env_1/work/stats"),
        ("GET", "/v1/memory_stores/memstore_1/memories/mem_1"),
        ("POST", "/v1/deployments/depl_1/run"),
        ("GET", "/v1/deployment_runs/drun_1"),
        ("POST", "/v1/dreams"),
    ],
)
def test_the_named_account_serves_them(proxy: Proxy, upstream: FakeUpstream, method: str, target: str) -> None:
    since = len(upstream.requests)
    upstream.answer(SESSION, path=target.partition("?")[0])

    reply = ask(proxy, method, target, body=b'{"system":"You."}' if method == "POST" else b"")

    assert (reply.status, reply.body) == (200, SESSION.chunks[0])
    (request,) = upstream.requests[since:]
    assert (request.method, request.target, request.credential) == (method, target, NAMED)


def test_all_else_is_pooled_and_moves_no_session_there(proxy: Proxy, upstream: FakeUpstream) -> None:
    since = len(upstream.requests)
    upstream.answer(SESSION, path="/v1/agents")
    assert ask(proxy, "GET", "/v1/agents").status == 200
    assert ask(proxy, "GET", "/v1/models").status == 200

    assert credentials(upstream, since) == [NAMED, OTHER]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PUT", "/v1/agents", 405),
        ("DELETE", "/v1/agents/agent_1", 405),
        ("GET", "/v1/sessions/", 400),
        ("GET", "/v1/Sessions", 400),
        ("GET", "/v1/session", 400),
    ],
)
def test_no_other_method_or_spelling_gets_it(
    proxy: Proxy, upstream: FakeUpstream, method: str, target: str, status: int
) -> None:
    since = len(upstream.requests)

    assert ask(proxy, method, target).status == status
    assert upstream.requests[since:] == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/environments/env_1/work/poll?block_ms=1"),
        ("POST", "/v1/environments/env_1/work/work_1/heartbeat"),
        ("POST", "/v1/tunnels/tunnel_1/reveal_token"),
        ("GET", "/v1/user_profiles"),
        ("GET", "/v1/sessions/sesn_1/other"),
    ],
)
def test_what_needs_a_key_of_its_own_keeps_it(proxy: Proxy, upstream: FakeUpstream, method: str, target: str) -> None:
    since = len(upstream.requests)
    upstream.answer(SESSION, path=target.partition("?")[0])

    assert ask(proxy, method, target).status == 200
    assert credentials(upstream, since) == [OWN]


def test_an_event_stream_is_not_held(proxy: Proxy, upstream: FakeUpstream) -> None:
    gate = Gate()
    events = [event({"type": f"session.status_{word}", "id": word}) for word in ("running", "idle")]
    upstream.answer(sse_answer(events[0], gate, events[1]), path="/v1/sessions/sesn_2/events/stream")

    with via_base_url(proxy) as client:
        client.send_request("GET", "/v1/sessions/sesn_2/events/stream?beta=true")
        assert client.read_head().status == 200
        seen = client.events()
        assert next(seen) == {"type": "session.status_running", "id": "running"}
        assert gate.reached.wait(60)
        gate.open()
        assert next(seen) == {"type": "session.status_idle", "id": "idle"}


def test_what_fails_is_asked_again_only_if_it_is_a_question(proxy: Proxy, upstream: FakeUpstream) -> None:
    for method, times in (("POST", 1), ("GET", 2)):
        since = len(upstream.requests)
        path = f"/v1/sessions/sesn_{method}/events"
        upstream.always(failure(500), path=path)
        reply = ask(proxy, method, path)
        assert reply.status == 500
        assert credentials(upstream, since) == [NAMED] * times
        recover(proxy, upstream)


def recover(proxy: Proxy, upstream: FakeUpstream) -> None:
    """Wait until the named account rests no longer for a failure of the upstream's."""
    path = "/v1/dreams/drm_1"
    upstream.always(SESSION, path=path)
    eventually(lambda: ask(proxy, "GET", path).status, lambda status: status == 200)


def test_an_answer_that_never_came_is_no_reason_to_do_it_twice(proxy: Proxy, upstream: FakeUpstream) -> None:
    since = len(upstream.requests)
    upstream.answer(close_before_head(), path="/v1/sessions/sesn_3/events")

    assert ask(proxy, "POST", "/v1/sessions/sesn_3/events").status == 502
    assert credentials(upstream, since) == [NAMED]
    recover(proxy, upstream)


def test_a_refusal_of_the_upstreams_reaches_the_client(proxy: Proxy, upstream: FakeUpstream) -> None:
    since = len(upstream.requests)
    upstream.answer(permission_denied(), path="/v1/agents/agent_9")

    assert ask(proxy, "GET", "/v1/agents/agent_9").status == 403
    assert credentials(upstream, since) == [NAMED]
    upstream.answer(SESSION, path="/v1/agents/agent_8")
    assert ask(proxy, "GET", "/v1/agents/agent_8").status == 200, "nobody rests for it"


def test_figures_are_recorded_and_bodies_are_not(proxy: Proxy, upstream: FakeUpstream) -> None:
    upstream.answer(SESSION, path="/v1/vaults/vlt_7/credentials")
    secret = b'{"auth":{"type":"static_bearer","token":"a-token-of-another-service"}}'
    assert ask(proxy, "POST", "/v1/vaults/vlt_7/credentials", body=secret).status == 200

    sql = "SELECT * FROM requests WHERE path = '/v1/vaults/vlt_7/credentials'"
    (row,) = proxy.rows(sql, until=lambda rows: rows and rows[0]["outcome"])
    assert (row["account_name"], row["outcome"], row["cost_usd"], row["total_tokens"]) == ("named", "ok", None, None)
    assert proxy.rows("SELECT * FROM payloads WHERE request_id = ?", (row["id"],)) == []


def test_it_is_never_another_account_when_the_named_one_cannot(proxy: Proxy, upstream: FakeUpstream) -> None:
    """Not the client's own either, though ccflare_passthrough=always sends all else out with it."""
    since = len(upstream.requests)
    proxy.accounts("pause", "named")
    try:
        paused = eventually(lambda: ask(proxy, "GET", "/v1/sessions"), lambda reply: reply.status == 503)
        assert message_of(paused) == (
            "This request is about Managed Agents, which live in account named, "
            "and that account cannot serve it now (named: paused). "
            "It is back when somebody sees to it: `scripts/accounts.py list` says what it lacks."
        )
    finally:
        proxy.accounts("resume", "named")
    assert set(credentials(upstream, since)) <= {NAMED}
    recover(proxy, upstream)


def test_a_limit_is_told_with_its_end(proxy: Proxy, upstream: FakeUpstream) -> None:
    since = len(upstream.requests)
    upstream.answer(limited_for(4), path=LIMITED)

    reply = ask(proxy, "GET", LIMITED)

    assert reply.status == 503
    assert reply.json()["error"]["accounts"][0]["name"] == "named"
    assert "and that account cannot serve it now (named: cooling until" in message_of(reply)
    assert " It is back at " in message_of(reply)
    assert 1 <= int(reply.head.header("retry-after") or 0) <= 5
    assert credentials(upstream, since) == [NAMED]
    recover(proxy, upstream)


def test_an_option_that_names_nobody_is_refused_at_the_start(tmp_path: Path, upstream: FakeUpstream) -> None:
    proxy = Proxy(upstream, folder=tmp_path, ccflare_stateful_account="nobody")
    with pytest.raises(RuntimeError, match="ended with 1"):
        proxy.start()
    assert "ccflare_stateful_account: there is no account called nobody; `scripts/accounts.py list`" in proxy.log()
    proxy.close()


def test_without_the_option_they_pass_and_the_log_says_so_once(upstream: FakeUpstream) -> None:
    with Rig.running(upstream) as rig:
        rig.fresh("a")
        upstream.always(SESSION, path="/v1/sessions")
        since = len(upstream.requests)
        for _ in range(3):
            assert ask(rig.proxy, "GET", "/v1/sessions").status == 200
        assert ask(rig.proxy, "PUT", "/v1/sessions").status == 200

        assert credentials(upstream, since) == [OWN] * 4
        told = "Managed Agents (sessions, …) pass with the client's own credential: ccflare_stateful_account names"
        assert rig.proxy.wait_for_log(told).count("ccflare_stateful_account") == 1


# --- client keys ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(upstream: FakeUpstream) -> Iterator[Proxy]:
    proxy = Proxy(upstream, ccflare_stateful_account="named", ccflare_hold_seconds=0)
    proxy.add_api_key("named", NAMED)
    with proxy:
        yield proxy


def with_key(secret: str) -> Header:
    return (b"x-api-key", secret.encode())


def test_a_key_has_to_be_made_for_them(keyed: Proxy, upstream: FakeUpstream) -> None:
    upstream.always(SESSION, path="/v1/sessions")
    plain, made = keyed.add_client_key("plain"), keyed.add_client_key("made", "--stateful")
    elsewhere = keyed.add_client_key("elsewhere", "--stateful", "--not-accounts", "named")
    admin = keyed.add_client_key("admin", "--role", "admin")
    eventually(lambda: ask(keyed, "GET", "/v1/models", with_key(admin)).status, lambda status: status == 200)
    since = len(upstream.requests)

    replies = [ask(keyed, "GET", "/v1/sessions", with_key(key)) for key in (plain, made, elsewhere, admin)]

    assert [reply.status for reply in replies] == [403, 200, 403, 403]
    assert message_of(replies[0]) == message_of(replies[3]) == "This client key may not use Managed Agents."
    assert message_of(replies[2]) == "This client key may not use the account that Managed Agents live in."
    assert credentials(upstream, since) == [NAMED]
    limits = {key["name"]: key["stateful"] for key in json.loads(listed(keyed))}
    assert limits.items() >= {"plain": False, "made": True, "elsewhere": True, "admin": False}.items()


def listed(proxy: Proxy) -> str:
    return proxy.run_script("keys.py", "client", "list", "--format", "json")


def test_a_key_can_be_changed_and_takes_no_limit_that_agents_would_pass_by(
    keyed: Proxy, upstream: FakeUpstream
) -> None:
    upstream.always(SESSION, path="/v1/sessions")
    secret = keyed.add_client_key("changed")
    eventually(lambda: ask(keyed, "GET", "/v1/sessions", with_key(secret)).status, lambda status: status == 403)
    keyed.run_script("keys.py", "client", "change", "changed", "--stateful")
    eventually(lambda: ask(keyed, "GET", "/v1/sessions", with_key(secret)).status, lambda status: status == 200)

    with pytest.raises(AssertionError, match="no list of models"):
        keyed.run_script("keys.py", "client", "change", "changed", "--dollars-per-day", "5")
