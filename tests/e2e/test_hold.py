"""When no account is free: the request is held and then served, or refused in a way that clients wait on."""

import datetime
import json
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from ccflare_core.text import local_time
from fake_upstream import (
    Answer,
    FakeUpstream,
    Gate,
    Request,
    cut_midway,
    limited_5h,
    limited_for,
    message_json,
    model_bucket,
    out_of_credits,
    sse,
)
from harness import ClaudeRequest, RawClient, StartProxy, Truncated, claude_request, eventually
from rig import Rig, texts

HOLD = 30


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_hold_seconds=HOLD) as rig:
        yield rig


@pytest.fixture
def rig(bench: Rig) -> Rig:
    """One account."""
    bench.fresh("a")
    return bench


def exhaust(rig: Rig, **seconds: float) -> float:
    """Let these accounts rest that long; when the first one is back (monotonic). Upstream is asked once for each."""
    ends: dict[str, float] = {}

    def limit(name: str, _: Request) -> Answer:
        ends[name] = int(time.time() + seconds[name]) + 1  # upstream tells whole seconds
        return limited_5h(ends[name])

    for name in seconds:
        rig.script(name, partial(limit, name))
    with rig.client() as client:
        rig.send(client, session="the one that meets the limit")
        for name in seconds:
            rig.wait_for_reason(name, "5h window spent")
    eventually(rig.is_idle)
    return time.monotonic() + min(ends.values()) - time.time()


def held(rig: Rig, session: str) -> RawClient:
    """A client whose request is held."""
    client = rig.client()
    rig.send(client, session=session)
    return client


def test_a_request_is_held_and_served_when_the_account_is_back(rig: Rig) -> None:
    end = exhaust(rig, a=2.5)
    with held(rig, rig.session) as client:
        assert client.is_silent(0.3)
        assert rig.asked == ["a"]

        assert client.read_head().status == 200
        assert texts(list(client.events()))[0] == "word 0 "

    first, second = rig.requests
    assert second.at >= end - 0.05 > first.at
    row = rig.row()
    assert (row["outcome"], row["attempts"], row["failover_attempts"]) == ("ok", 1, 0)
    assert row["first_byte_ms"] > 300
    assert row["waited_ms"] > 300
    told = f"a wait of {row['waited_ms'] / 1000:.1f} s for an account"
    assert told in rig.proxy.log()
    [attempt] = rig.proxy.rows("SELECT reason FROM attempts WHERE request_id = ?", (row["id"],))
    assert attempt["reason"].endswith(f" after {told}")
    assert "of it a wait for an account" in rig.proxy.run_script("show.py", row["id"])


def test_the_request_that_met_the_limit_is_held_too(rig: Rig) -> None:
    rig.script("a", limited_for(1))

    assert rig.ask().status == 200
    assert rig.asked == ["a", "a"]
    assert rig.row()["attempts"] == 2


def test_the_first_account_that_is_back_takes_it(bench: Rig) -> None:
    bench.fresh("a", "b")
    exhaust(bench, a=60, b=2.5)

    assert bench.ask().status == 200
    assert bench.asked == ["a", "b", "b"]


def test_one_probes_before_all_others_follow(rig: Rig) -> None:
    exhaust(rig, a=2.5)
    gate = Gate()
    rig.script("a", sse(1, gate=gate, gate_at=0))
    clients = [held(rig, f"session {number}") for number in range(6)]

    rig.wait_for(2)
    assert gate.reached.wait(60)
    assert clients[0].is_silent(0.6)  # more than two looks at the pool
    assert rig.asked == ["a", "a"]
    gate.open()

    assert [client.read_head().status for client in clients] == [200] * 6
    assert [list(client.events())[-1] for client in clients] == [{"type": "message_stop"}] * 6
    assert rig.asked == ["a"] * 7
    for client in clients:
        client.close()


def test_a_probe_that_fails_keeps_the_others_waiting(rig: Rig) -> None:
    exhaust(rig, a=2.5)
    rig.script("a", limited_for(1))
    clients = [held(rig, f"session {number}") for number in range(3)]

    assert [client.read_head().status for client in clients] == [200] * 3
    assert rig.asked == ["a"] * 5  # the one that met the limit, one probe in vain, and three
    for client in clients:
        client.close()


def test_a_probe_whose_client_leaves_makes_way_for_another(rig: Rig) -> None:
    exhaust(rig, a=2.5)
    gate = Gate()
    rig.script("a", sse(1, gate=gate, gate_at=0))
    clients = {f"session {number}": held(rig, f"session {number}") for number in range(3)}
    probe = rig.wait_for(2)[1]
    assert gate.reached.wait(60)

    clients.pop(probe.header("x-claude-code-session-id") or "").close()

    assert [client.read_head().status for client in clients.values()] == [200, 200]
    assert probe.aborted
    assert rig.asked == ["a"] * 4
    for client in clients.values():
        client.close()


def half_close(client: RawClient) -> None:
    client.detach().shutdown(socket.SHUT_WR)


def test_clients_that_leave_are_held_no_longer(rig: Rig) -> None:
    end = exhaust(rig, a=6) + time.time() - time.monotonic()
    for leave in (RawClient.close, RawClient.reset, half_close):
        with held(rig, rig.session) as client:
            assert client.is_silent(0.1)
            leave(client)

    for row in rig.rows(3):
        assert (row["outcome"], row["attempts"], row["status_code"]) == ("client_abort", 0, None)
        assert row["timestamp"] + row["response_time_ms"] < end * 1000  # and not until the account is ready
    eventually(rig.is_idle)
    rig.wait_for_reason("a", "serving")
    assert rig.ask(session="the next one").status == 200
    assert rig.asked == ["a", "a"]


def tied(rig: Rig, *, thought: bool) -> ClaudeRequest:
    """A turn with a model that ties thinking to the account, maybe with thinking in its conversation."""
    asked = claude_request(3000, session=rig.session, model="claude-haiku-5-5")
    first = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"} if thought else {"type": "text", "text": "Hm."}
    body = json.loads(asked.body)
    body["messages"] += [{"role": "assistant", "content": [first]}, {"role": "user", "content": "And?"}]
    return asked._replace(body=json.dumps(body, separators=(",", ":")).encode())


@pytest.mark.parametrize("thought", [True, False])
def test_a_session_whose_thinking_is_tied_to_its_account_waits_for_it(bench: Rig, thought: bool) -> None:
    """Another account would drop what was thought, and answer as if nothing were missing."""
    bench.fresh("a", "b")
    bench.script("a", message_json(), limited_for(2))
    with bench.client() as client:
        assert client.request(*tied(bench, thought=False)).status == 200
        assert client.request(*tied(bench, thought=thought)).status == 200

    assert bench.asked == ["a", "a", "a" if thought else "b"]
    assert bool(bench.rows(2)[1]["waited_ms"]) is thought


@pytest.mark.parametrize("thought", [True, False])
def test_a_repeat_after_a_cut_waits_for_the_account_that_broke_if_thinking_is_tied_to_it(
    bench: Rig, thought: bool
) -> None:
    bench.fresh("a", "b")
    bench.script("a", sse(1), cut_midway(after=1))
    with bench.client() as client:
        assert list(client.request(*tied(bench, thought=False)).body)
    with bench.client() as client:
        client.send_request(*tied(bench, thought=thought))
        assert client.read_head().status == 200
        with pytest.raises(Truncated):
            list(client.events())
    with bench.client() as client:
        assert client.request(*tied(bench, thought=thought)).status == 200

    assert bench.asked == ["a", "a", "a" if thought else "b"]


def test_a_session_whose_thinking_is_tied_moves_if_the_wait_is_longer_than_the_hold(bench: Rig) -> None:
    bench.fresh("a", "b")
    bench.script("a", message_json(), limited_for(2 * HOLD))
    with bench.client() as client:
        assert client.request(*tied(bench, thought=False)).status == 200
        assert client.request(*tied(bench, thought=True)).status == 200

    assert bench.asked == ["a", "a", "b"]


def test_no_hope_within_the_hold_is_told_at_once(bench: Rig) -> None:
    bench.fresh("a", "b")
    exhaust(bench, a=3000, b=2400)
    begin = time.time()

    reply = bench.ask()

    assert reply.status == 503
    assert time.time() - begin < HOLD
    assert bench.asked == ["a", "b"]
    told = reply.json()
    assert (told["type"], told["error"]["type"], told["request_id"]) == (
        "error",
        "api_error",
        reply.header("request-id"),
    )
    for name in "ab":
        assert f"{bench.name(name)}: cooling until " in told["error"]["message"]
    back = datetime.datetime.fromisoformat(told["error"]["next_available_at"])
    assert abs(back.timestamp() - begin - 2400) < 60
    ours = {f"back at {local_time(back.timestamp(), now)}" for now in (begin, time.time())}  # of the same day mostly
    assert any(each in told["error"]["message"] for each in ours)
    assert abs(int(reply.header("retry-after") or 0) - 2400) < 60
    assert not [name for name, _ in reply.head.headers if b"ratelimit" in name.lower()]
    row = bench.row()
    assert (row["outcome"], row["status_code"], row["account_used"], row["attempts"]) == ("refused", 503, None, 0)
    assert "5h window spent" in row["error_message"]


def test_what_never_ends_by_itself_has_no_time_and_a_retry_that_clients_take(rig: Rig) -> None:
    rig.change("a", paused=True)
    rig.wait_for_reason("a", "paused")

    reply = rig.ask()

    assert (reply.status, reply.header("retry-after")) == (503, "60")
    assert reply.json()["error"]["next_available_at"] is None
    assert f"{rig.name('a')}: paused" in reply.json()["error"]["message"]
    assert rig.asked == []


def test_an_expired_token_is_a_reason_and_no_401(bench: Rig) -> None:
    bench.fresh("a", expires_at=time.time() - 10)

    reply = bench.ask()

    assert reply.status == 503
    assert "token expired" in reply.json()["error"]["message"]
    assert bench.asked == []


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(limited_5h(time.time() + 90_000), 3600), (model_bucket(time.time() + 1800), 1800), (out_of_credits(), 300)],
    ids=["longer than an hour", "a bucket", "credits"],
)
def test_retry_after_is_honest_within_an_hour(rig: Rig, answer: Answer, seconds: int) -> None:
    rig.script("a", answer)

    reply = rig.ask()

    assert reply.status == 503
    assert seconds - 15 < int(reply.header("retry-after") or 0) <= seconds
    assert rig.ask(stream=False).status == 503
    assert rig.asked == ["a"]


def test_a_hold_that_ends_in_vain_is_a_503(rig: Rig) -> None:
    """It comes back in time, but only to be limited again until after the hold."""
    exhaust(rig, a=2.5)
    rig.script("a", limited_5h(time.time() + 600))

    reply = rig.ask()

    assert reply.status == 503
    assert rig.asked == ["a", "a"]
    assert int(reply.header("retry-after") or 0) > 500


def test_a_client_on_a_kept_connection_is_served_after_our_503(rig: Rig) -> None:
    rig.change("a", paused=True)
    rig.wait_for_reason("a", "paused")
    with rig.client() as client:
        ask = claude_request(3000, session=rig.session, stream=False)
        assert client.request(*ask).status == 503
        rig.change("a", paused=False)
        rig.wait_for_reason("a", "serving")
        rig.script("a", message_json("Served."))
        assert client.request(*ask).json()["content"][0]["text"] == "Served."


def test_a_resumed_account_ends_the_hold(rig: Rig) -> None:
    """What a person changes counts for those who wait already."""
    exhaust(rig, a=6)
    with held(rig, rig.session) as client:
        assert client.is_silent(0.1)
        rig.change("a", paused=True)
        rig.wait_for_reason("a", "paused")
        head = client.read_head()

    assert head.status == 503
    assert rig.asked == ["a"]


def test_without_accounts_requests_pass_or_are_refused(start_proxy: StartProxy, upstream: FakeUpstream) -> None:
    ask = claude_request(3000, stream=False)
    for passthrough, status in (("auto", 200), ("never", 503)):
        with RawClient("127.0.0.1", start_proxy(upstream, ccflare_passthrough=passthrough).port) as client:
            assert client.request(*ask).status == status

    assert [request.credential for request in upstream.requests] == ["sk-ant-api03-the-clients-own-key"]
