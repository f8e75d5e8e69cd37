"""`scripts/run --workers 2`: two proxies on one port, and what starts, replaces and stops them."""

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream, Gate, message_json, sse
from harness import REPOSITORY, Proxy, claude_request, eventually, listening, via_base_url

ONE = "sk-ant-api03-one"


def with_workers(upstream: FakeUpstream, folder: Path) -> Proxy:
    """A proxy of two workers, which is to be started."""
    proxy = Proxy(upstream, folder=folder, anew=True, ccflare_drain_seconds=600)
    proxy.add_api_key("one", ONE)
    proxy._command[:1] = [sys.executable, str(REPOSITORY / "scripts" / "_workers.py"), "--workers", "2"]
    loads = proxy._command.index("-s")
    del proxy._command[loads : loads + 2]  # that is the script's part
    return proxy


def pids(proxy: Proxy) -> list[int]:
    """Those of the workers that were started first, once they serve."""
    told = re.search(r"2 workers serve \(pids (\d+), (\d+)\)", proxy.wait_for_log("workers serve"))
    assert told
    return [int(pid) for pid in told.groups()]


def is_served(proxy: Proxy) -> bool:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(2_000)).status == 200


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with with_workers(upstream, tmp_path_factory.mktemp("workers")) as proxy:
        yield proxy


def test_workers_serve_on_one_port_and_say_which_of_them_did(proxy: Proxy) -> None:
    first, second = pids(proxy)

    def have_both_served() -> bool:
        assert is_served(proxy)
        log = proxy.log()
        return all(re.search(rf"^\[{number}\] .* POST /v1/messages 200 ", log, re.MULTILINE) for number in (1, 2))

    eventually(have_both_served)

    assert listening(first) >= {("127.0.0.1", proxy.port)}
    assert listening(second) >= {("127.0.0.1", proxy.port)}
    assert proxy.log().count("/ccflare/login") == 1  # it is good for either


def test_metrics_are_those_of_all_workers_whichever_is_asked(proxy: Proxy) -> None:
    def page_of_metrics() -> str:
        with via_base_url(proxy) as client:
            return client.request("GET", "/ccflare/metrics").body.decode()

    def served() -> dict[str, float]:
        page = page_of_metrics()
        found = re.findall(r'^ccflare_requests_total\{.*worker="(\d)"\} (\S+)$', page, re.MULTILINE)
        assert 'ccflare_proxies{state="serving"} 2.0' in page, page
        assert re.findall(r'^ccflare_build_info\{version="[^"]+",worker="(\d)"\} 1.0$', page, re.MULTILINE) == [
            "1",
            "2",
        ]
        return {worker: float(number) for worker, number in found}

    eventually(lambda: 'ccflare_proxies{state="serving"} 2.0' in page_of_metrics())  # as each soon tells
    while len(served()) < 2:
        assert is_served(proxy)
    before = served()
    assert [served() for _ in range(6)] == [before] * 6

    assert is_served(proxy)

    assert sum(served().values()) == sum(before.values()) + 1


def test_worker_that_was_killed_comes_back_while_the_other_serves(proxy: Proxy) -> None:
    _, second = pids(proxy)
    os.kill(second, signal.SIGKILL)
    proxy.wait_for_log(f"worker 2 (pid {second}) has ended by SIGKILL; another starts")

    assert all(is_served(proxy) for _ in range(5))

    told = re.search(r"worker 2 serves again \(pid (\d+)\)", proxy.wait_for_log("worker 2 serves again"))
    assert told
    assert listening(int(told[1])) >= {("127.0.0.1", proxy.port)}


def test_workers_let_streams_end_at_a_stop_and_cut_them_at_the_second(upstream: FakeUpstream, tmp_path: Path) -> None:
    kept, cut = Gate(), Gate()
    with with_workers(upstream, tmp_path) as proxy:
        pids(proxy)
        upstream.answer(sse(gate=kept, gate_at=1), sse(gate=cut, gate_at=1))
        with via_base_url(proxy) as one, via_base_url(proxy) as other:
            for client in (one, other):
                client.send_request(*claude_request(2_000))
                client.read_head()
            os.kill(proxy.pid, signal.SIGINT)
            proxy.wait_for_log("stopping: ")
            kept.open()
            assert one.read_body().rstrip().endswith(b'data: {"type":"message_stop"}')

            os.kill(proxy.pid, signal.SIGINT)

            eventually(lambda: proxy.returncode, until=lambda code: code == 0)
        outcomes = proxy.rows("SELECT outcome FROM requests ORDER BY outcome")
    assert outcomes == [{"outcome": "ok"}, {"outcome": "shutdown"}]


def test_workers_keep_a_client_keys_limit_together(upstream: FakeUpstream, tmp_path: Path) -> None:
    gate, is_over, most = Gate(), threading.Event(), 3
    with with_workers(upstream, tmp_path) as proxy, ThreadPoolExecutor(12) as threads:
        pids(proxy)
        key = proxy.add_client_key("laptop", "--concurrency", str(most))
        credential = (b"x-api-key", key.encode())

        def ask() -> int:
            with via_base_url(proxy) as client:
                return client.request(*claude_request(2_000, stream=False, credential=credential)).status

        eventually(ask, lambda status: status == 200)
        upstream.always(replace(message_json(), before=(gate,)), credential=ONE)
        so_far = len(upstream.requests)

        def ask_until_over() -> None:
            while not is_over.is_set() and ask() == 429:
                is_over.wait(0.2)

        try:
            for _ in range(12):
                threads.submit(ask_until_over)
            eventually(lambda: len(upstream.requests) - so_far == most)
            with pytest.raises(TimeoutError):
                eventually(lambda: len(upstream.requests) - so_far > most, timeout=3)
        finally:
            is_over.set()
            gate.open()
            upstream.always(message_json(), credential=ONE)


def test_workers_refuse_a_port_that_another_program_would_share_with_them(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    proxy = with_workers(upstream, tmp_path)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", proxy.port))
        other.listen()
        with pytest.raises(RuntimeError, match="ended with 1"):
            proxy.start()
    told = [line for line in proxy.log().splitlines() if str(proxy.port) in line]
    assert len(told) == 1
    assert told[0].startswith(f"ccflare: port {proxy.port} is in use, something listens there already")
    proxy.close()
