"""How the proxy stops: it says what it waits for and for how long, and a second signal ends that.

Meanwhile who has a connection is served once more, and told that this was all.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest

from ccflare_mitm.stopping import drain, open_ones
from exchange_kit import Bench
from fake_upstream import FakeUpstream, Gate, sse, stall_before_head
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url

ONE = "sk-ant-api03-one"
HEALTH, READY = "/ccflare/health", "/ccflare/ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_it_waits_for_and_for_how_long(
    upstream: FakeUpstream, start_proxy: StartProxy, number: signal.Signals
) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE}, ccflare_drain_seconds=60)
    whole = Gate()
    upstream.answer(sse(gate=whole, gate_at=1), stall_before_head(600))
    with via_base_url(proxy) as streaming, via_base_url(proxy) as waiting, ExitStack() as kept:
        looking, asking = (kept.enter_context(via_base_url(proxy)) for _ in range(2))
        assert [client.request("GET", HEALTH).json()["ready"] for client in (looking, asking)] == [True, True]
        streaming.send_request(*claude_request())
        streaming.read_head()
        waiting.send_request(*claude_request())
        upstream.wait_for(2)

        os.kill(proxy.pid, number)
        told = proxy.wait_for_log("stopping: ")

        assert "stopping: 2 open requests, 1 of them in the midst of an answer, may go on for up to 60 s" in told
        assert "a second Ctrl-C, or signal, ends that" in told
        ready, served = looking.request("GET", READY), asking.request(*claude_request())
        assert (ready.status, ready.json()["ready"], served.status) == (503, False, 200)
        assert [reply.header("connection") for reply in (ready, served)] == ["close", "close"]
        os.kill(proxy.pid, number)
        eventually(lambda: proxy.returncode, until=lambda code: code == 0)
    assert "2 open exchanges cut by the shutdown" in proxy.log()


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([None], "1 open request"),
        ([200], "1 open request, in the midst of an answer,"),
        ([None, None], "2 open requests"),
        ([200, None], "2 open requests, 1 of them in the midst of an answer,"),
        ([200, 429], "2 open requests, 2 of them in the midst of an answer,"),
    ],
)
def test_open_requests_are_told_in_a_sentence(statuses: list[int | None], told: str) -> None:
    assert open_ones(statuses) == told


async def test_a_stop_waits_for_connections_that_are_unserved_but_no_longer_than_it_may() -> None:
    left, bench = [3, 2, 1, 0], Bench()

    await drain(bench.exchanges, lambda: left.pop(0), 60, asyncio.Event())
    await drain(bench.exchanges, lambda: 1, 0.01, asyncio.Event())

    assert left == []


def test_a_stop_with_nothing_open_says_nothing_of_waiting(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": ONE})
    with via_base_url(proxy) as client:
        assert client.request(*claude_request()).status == 200

    assert proxy.stop() == 0

    assert "stopping: " not in proxy.log()


def test_a_stop_says_that_it_waits_for_the_database(upstream: FakeUpstream, tmp_path: Path) -> None:
    with contextlib.closing(Proxy(upstream, folder=tmp_path)) as proxy:
        proxy.add_api_key("one", ONE)
        proxy.start()
        with contextlib.closing(sqlite3.connect(proxy.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with via_base_url(proxy) as client:
                assert client.request(*claude_request()).status == 200
            os.kill(proxy.pid, signal.SIGTERM)
            told = proxy.wait_for_log("stopping: ")
            other.execute("ROLLBACK")
        assert "stopping: waiting up to 10 s for the database to take " in told
        eventually(lambda: proxy.returncode, until=lambda code: code == 0)
        assert proxy.rows("SELECT outcome FROM requests") == [{"outcome": "ok"}]
