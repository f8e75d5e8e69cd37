"""What is left of an exchange: one outcome, one row, its attempts, its bodies; also when the proxy stops or dies."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from fake_upstream import FakeUpstream, Gate, bad_request, cut_midway, encoded, limited_5h, message_json, sse
from harness import Proxy, Reply, StartProxy, claude_request, eventually, via_base_url

ONE, TWO = "sk-ant-api03-one", "sk-ant-api03-two"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeUpstream, Proxy]]:
    with FakeUpstream() as upstream:
        proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("proxy"), ccflare_hold_seconds=0)
        proxy.add_api_key("one", ONE)
        with proxy:
            yield upstream, proxy


def ask(proxy: Proxy, **what: Any) -> Reply:
    """One request on a connection of its own."""
    with via_base_url(proxy) as client:
        return client.request(*claude_request(**what))


def is_ready(proxy: Proxy) -> bool:
    with via_base_url(proxy) as client:
        return client.request("GET", "/ccflare/ready").status == 200


def row_of(proxy: Proxy, session: str) -> dict[str, Any]:
    """The finished row of the exchange with this session id."""
    query = "SELECT * FROM requests WHERE session_id = ? AND outcome IS NOT NULL"
    [row] = proxy.rows(query, (session,), until=lambda rows: len(rows) == 1)
    return row


def test_a_good_answer(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    upstream.answer(sse(3, input_tokens=1200, output_tokens=34))
    ask(proxy, session="good")

    row = row_of(proxy, "good")
    assert (row["outcome"], row["success"], row["status_code"], row["stream"]) == ("ok", 1, 200, 1)
    assert (row["account_name"], row["door"], row["client_ip"]) == ("one", "base-url", "127.0.0.1")
    assert (row["model"], row["input_tokens"], row["output_tokens"]) == ("claude-opus-4-8", 1200, 34)
    assert 0 < row["first_byte_ms"] <= row["response_time_ms"] < 60_000
    assert abs(row["timestamp"] - time.time() * 1000) < 60_000
    [attempt] = proxy.rows("SELECT * FROM attempts WHERE request_id = ?", (row["id"],))
    assert (attempt["number"], attempt["verdict"], attempt["status_code"]) == (1, "ok", 200)


@pytest.mark.parametrize("stream", [True, False])
def test_every_kind_of_token_is_counted_and_paid(served: tuple[FakeUpstream, Proxy], stream: bool) -> None:
    upstream, proxy = served
    counts: dict[str, Any] = {
        "input_tokens": 1000,
        "output_tokens": 200,
        "cache_read": 30_000,
        "cache_5m": 4000,
        "cache_1h": 500,
    }
    upstream.answer(sse(3, **counts) if stream else message_json(**counts))
    ask(proxy, session=f"paid-{stream}", stream=stream)

    row = row_of(proxy, f"paid-{stream}")
    kinds = ("input", "output", "cache_read_input", "cache_creation_5m_input", "cache_creation_1h_input")
    assert [row[f"{kind}_tokens"] for kind in kinds] == [1000, 200, 30_000, 4000, 500]
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (35_500, 200, 35_700)
    # Opus 4.8, dollars per million: 5 in, 25 out, 0.5 cache read, 6.25 and 10 cache write for 5 minutes and 1 hour.
    assert row["cost_usd"] == pytest.approx((1000 * 5 + 200 * 25 + 30_000 * 0.5 + 4000 * 6.25 + 500 * 10) / 1e6)


def test_each_attempt_has_a_row(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE, "two": TWO}, ranked=True)
    reset = int(time.time()) + 3600
    upstream.answer(limited_5h(reset), credential=ONE)
    ask(proxy, session="moved")

    row = row_of(proxy, "moved")
    assert (row["outcome"], row["account_name"], row["attempts"], row["failover_attempts"]) == ("ok", "two", 2, 1)
    attempts = proxy.rows("SELECT * FROM attempts WHERE request_id = ? ORDER BY number", (row["id"],))
    told = [(a["number"], a["account_name"], a["status_code"], a["verdict"]) for a in attempts]
    assert told == [(1, "one", 429, "window_spent"), (2, "two", 200, "ok")]
    assert f"{reset}" in attempts[0]["windows"]
    windows = proxy.rows("SELECT name, status, resets_at FROM windows WHERE name = '5h'", until=bool)
    assert windows == [{"name": "5h", "status": "rejected", "resets_at": reset * 1000}]


def test_an_error_of_the_upstreams(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    upstream.answer(bad_request())
    ask(proxy, session="bad")
    row = row_of(proxy, "bad")
    assert (row["outcome"], row["success"], row["status_code"]) == ("upstream_error", 0, 400)
    assert row["error_message"] == "invalid_request_error"  # what it says stands in the sealed body


def test_a_stream_that_was_cut_keeps_what_it_had(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    upstream.answer(cut_midway())
    with via_base_url(proxy) as client, contextlib.suppress(Exception):
        client.request(*claude_request(session="cut"))
    row = row_of(proxy, "cut")
    assert (row["outcome"], row["success"]) == ("truncated", 0)
    assert row["input_tokens"] > 0
    eventually(lambda: is_ready(proxy))  # the account has rested for it


def test_a_client_that_leaves(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    gate = Gate()
    upstream.answer(sse(gate=gate, gate_at=1))
    client = via_base_url(proxy)
    client.send_request(*claude_request(session="left"))
    client.read_head()
    client.close()
    row = row_of(proxy, "left")
    gate.open()
    assert (row["outcome"], row["success"]) == ("client_abort", 0)


def test_a_request_that_we_refuse(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    with via_base_url(proxy) as client:
        assert client.request("GET", "/v1/models/../files").status == 400
    [row] = proxy.rows("SELECT * FROM requests WHERE outcome = 'refused'", until=bool)
    assert (row["status_code"], row["account_used"], row["success"]) == (400, None, 0)


def test_windows_are_kept_when_they_move(served: tuple[FakeUpstream, Proxy], start_proxy: StartProxy) -> None:
    upstream, _ = served
    proxy = start_proxy(upstream, accounts={"max": "sk-ant-oat01-max"})
    for _ in range(3):
        ask(proxy)
    rows = proxy.rows("SELECT name, utilization, status FROM windows", until=lambda rows: len(rows) >= 2)
    assert sorted(row["name"] for row in rows) == ["5h", "7d"]


def test_the_reviews_query_runs_as_written(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    ask(proxy, session="query")
    row_of(proxy, "query")
    rows = proxy.rows(
        "SELECT COUNT(*) as count, account_used FROM requests "
        "WHERE timestamp > strftime('%s', 'now', '-1 hour') * 1000 GROUP BY account_used ORDER BY count DESC"
    )
    assert any(row["count"] >= 1 and row["account_used"] is not None for row in rows)


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_bodies_open_again_to_the_identical_bytes(served: tuple[FakeUpstream, Proxy], encoding: str) -> None:
    upstream, proxy = served
    plain = message_json(output_tokens=7)
    upstream.answer(plain if encoding == "identity" else encoded(plain, encoding))
    session = f"bodies-{encoding}"
    request = claude_request(70_000, session=session, stream=False)
    with via_base_url(proxy) as client:
        reply = client.request(*request)

    request_id = row_of(proxy, session)["id"]
    kept = proxy.rows("SELECT * FROM payloads WHERE request_id = ?", (request_id,), until=lambda r: len(r) == 2)
    with contextlib.closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
        bodies = {row["part"]: body.content for row in kept if (body := store.body(request_id, row["part"]))}
    assert bodies == {"request": request.body, "response": reply.body}
    assert request.body[:200] not in proxy.database.read_bytes()


@pytest.mark.parametrize(("mode", "rows", "bodies"), [("metadata", 1, 0), ("off", 0, 0)])
def test_less_is_recorded_if_asked(
    upstream: FakeUpstream, start_proxy: StartProxy, mode: str, rows: int, bodies: int
) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE}, ccflare_record=mode)
    ask(proxy)
    assert proxy.stop() == 0
    assert proxy.rows("SELECT COUNT(*) AS n FROM requests") == [{"n": rows}]
    assert proxy.rows("SELECT COUNT(*) AS n FROM payloads") == [{"n": bodies}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_lets_an_open_stream_finish(
    upstream: FakeUpstream, start_proxy: StartProxy, number: signal.Signals
) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE})
    gate = Gate()
    upstream.answer(sse(5, gate=gate, gate_at=1))
    with via_base_url(proxy) as client:
        client.send_request(*claude_request(session="drained"))
        client.read_head()
        proxy_ends = _stop_soon(proxy, number)
        eventually(lambda: "stopped" in proxy.log())
        gate.open()
        assert b"message_stop" in client.read_body()
    assert proxy_ends() == 0
    assert row_of(proxy, "drained")["outcome"] == "ok"


def _stop_soon(proxy: Proxy, number: signal.Signals = signal.SIGTERM) -> Callable[[], int | None]:
    """Send the signal now; what is returned waits for the end."""
    os.kill(proxy.pid, number)
    return lambda: eventually(lambda: proxy.returncode, until=lambda code: code is not None)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stream_that_outlasts_the_stop_is_recorded_as_such(
    upstream: FakeUpstream, start_proxy: StartProxy, signals: int
) -> None:
    """After `ccflare_drain_seconds`, or at once on a second signal."""
    proxy = start_proxy(upstream, accounts={"one": ONE}, ccflare_drain_seconds=1 if signals == 1 else 60)
    upstream.answer(sse(gate=Gate(), gate_at=1))
    client = via_base_url(proxy)
    client.send_request(*claude_request(session="outlasted"))
    client.read_head()
    ends = _stop_soon(proxy)
    if signals == 2:
        eventually(lambda: "stopped" in proxy.log())
        _stop_soon(proxy)
    assert ends() == 0
    assert row_of(proxy, "outlasted")["outcome"] == "shutdown"
    client.close()


def test_what_a_killed_proxy_left_open_is_closed_at_the_next_start(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path)
    proxy.add_api_key("one", ONE)
    upstream.answer(sse(gate=Gate(), gate_at=1))
    with proxy:
        client = via_base_url(proxy)
        client.send_request(*claude_request())
        client.read_head()
        proxy.rows("SELECT id FROM requests WHERE outcome IS NULL", until=bool)
        proxy.kill()
    client.close()
    with Proxy(upstream, folder=tmp_path) as again:
        rows = again.rows("SELECT outcome, success FROM requests", until=lambda rows: rows[0]["outcome"])
        assert rows == [{"outcome": "crashed", "success": 0}]
        assert "an earlier run crashed with 1 exchange open: recorded as crashed" in again.log()
        assert ask(again).status == 200


def test_cooldowns_outlive_the_process(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path, ccflare_hold_seconds=0)
    proxy.add_api_key("one", ONE)
    upstream.answer(limited_5h(time.time() + 3600))
    with proxy:
        assert ask(proxy).status == 503
    with Proxy(upstream, folder=tmp_path, ccflare_hold_seconds=0) as again:
        reply = ask(again)
    assert reply.status == 503
    assert "5h window spent" in reply.json()["error"]["message"]
    assert len(upstream.requests) == 1


def test_a_locked_database_does_not_stop_the_traffic(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE})
    ask(proxy, session="before")
    row_of(proxy, "before")
    with contextlib.closing(sqlite3.connect(proxy.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert [ask(proxy, session="meanwhile").status for _ in range(20)] == [200] * 20
        other.execute("ROLLBACK")
    query = "SELECT COUNT(*) AS n FROM requests WHERE session_id = 'meanwhile'"
    assert proxy.rows(query, until=lambda rows: rows[0]["n"] == 20, timeout=60)
