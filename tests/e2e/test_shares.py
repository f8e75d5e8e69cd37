"""Limits of a client key over several running proxies: on a PostgreSQL server, and as workers on one SQLite file."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import pytest

from ccflare_core.config.location import Server
from ccflare_core.reports.proxies import SILENT_SECONDS
from database_kit import KEY_VARIABLE
from fake_upstream import FakeUpstream, Gate, message_json
from harness import Proxy, Reply, StartProxy, claude_request, eventually, via_base_url

pytestmark = pytest.mark.postgres

ACCOUNT = "sk-ant-api03-account"
TOKENS = 22
"""What an exchange of these tests uses."""
LONGEST = 120
"""Seconds that what is about a day takes at most."""


class Asked(NamedTuple):
    """What came of many requests."""

    served: int
    last: Reply
    """The last refusal."""
    seconds: float


def ask(proxy: Proxy, key: str) -> Reply:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(2000, stream=False, credential=(b"x-api-key", key.encode())))


def ask_until_served(proxy: Proxy, key: str) -> None:
    eventually(lambda: ask(proxy, key).status, lambda status: status == 200)


def ask_often(proxies: Sequence[Proxy], key: str, is_over: Callable[[Reply, float], bool]) -> Asked:
    """Ask each of these proxies again and again, all at the same time, until an answer says that it is over."""
    served, lock, began = 0, threading.Lock(), time.monotonic()

    def ask_one(proxy: Proxy) -> Reply:
        nonlocal served
        while True:
            reply = ask(proxy, key)
            with lock:
                served += reply.status == 200
            if is_over(reply, time.monotonic() - began):
                return reply
            if reply.status != 200:
                assert reply.status == 429
                time.sleep(0.1)

    with ThreadPoolExecutor(len(proxies)) as threads:
        replies = list(threads.map(ask_one, proxies))
    return Asked(served, replies[-1], time.monotonic() - began)


@pytest.fixture
def proxies(server: Server, upstream: FakeUpstream, start_proxy: StartProxy) -> list[Proxy]:
    """Three on one database, with an account."""
    found = [start_proxy(upstream, database=server, environment=KEY_VARIABLE, anew=True) for _ in range(3)]
    found[0].add_api_key("work", ACCOUNT)
    return found


def add_key(proxies: Sequence[Proxy], *limits: str) -> str:
    """A client key that all of them know, and have a share of."""
    key = proxies[0].add_client_key("laptop", *limits)
    eventually(
        lambda: [ask(proxy, key).status for proxy in proxies], lambda found: 401 not in found and 503 not in found
    )
    return key


@contextlib.contextmanager
def held(upstream: FakeUpstream) -> Iterator[Gate]:
    """All requests stay open meanwhile."""
    gate = Gate()
    upstream.always(replace(message_json(), before=(gate,)), credential=ACCOUNT)
    try:
        yield gate
    finally:
        gate.open()
        upstream.always(message_json(), credential=ACCOUNT)


def stays_open(proxies: Sequence[Proxy], key: str, upstream: FakeUpstream, most: int) -> int:
    """How many requests are let in where all ask for more than they may, until nothing changes any more."""
    so_far = len(upstream.requests)
    with held(upstream) as gate, ThreadPoolExecutor(len(proxies) * (most + 1)) as threads:
        is_over = threading.Event()

        def ask_until_over(proxy: Proxy) -> None:
            while not is_over.is_set() and ask(proxy, key).status == 429:
                time.sleep(0.2)

        for proxy in [*proxies] * (most + 1):
            threads.submit(ask_until_over, proxy)
        try:
            with contextlib.suppress(TimeoutError):
                eventually(lambda: len(upstream.requests) - so_far, lambda found: found > most, timeout=8)
            found = len(upstream.requests) - so_far
        finally:
            is_over.set()
            gate.open()
    return found


@pytest.mark.parametrize("most", [1, 4])
def test_requests_open_at_once_are_as_many_as_the_limit_says(
    proxies: list[Proxy], upstream: FakeUpstream, most: int
) -> None:
    key = add_key(proxies, "--concurrency", str(most))

    assert stays_open(proxies, key, upstream, most) == most
    assert stays_open(proxies[1:2], key, upstream, most) == most  # a share follows the requests


def test_slot_goes_to_whichever_proxy_asks_for_it(proxies: list[Proxy]) -> None:
    key = add_key(proxies, "--concurrency", "1")

    for proxy in (*proxies, *proxies):
        ask_until_served(proxy, key)


@pytest.mark.parametrize("number", [1, 3], ids=["one proxy asked", "all proxies asked"])
def test_requests_a_minute_are_those_of_all(proxies: list[Proxy], number: int) -> None:
    per_minute = 60
    key = add_key(proxies, "--requests-per-minute", str(per_minute))
    for proxy in proxies:
        ask_until_served(proxy, key)

    asked = ask_often(proxies[:number], key, lambda _, seconds: seconds > 20)

    most = per_minute * (1 + asked.seconds / 60)
    assert asked.served <= most * 1.05
    assert asked.served >= most * 0.75
    assert int(asked.last.header("retry-after") or 1) == 1


@pytest.mark.parametrize("number", [1, 3], ids=["one proxy asked", "all proxies asked"])
def test_budget_is_that_of_all(proxies: list[Proxy], upstream: FakeUpstream, number: int) -> None:
    if (left := 86_400 - time.time() % 86_400) < LONGEST:
        time.sleep(left)
    most = 40 * TOKENS
    so_far = len(upstream.requests)
    key = add_key(proxies, "--tokens-per-day", str(most))

    def is_final(reply: Reply, seconds: float) -> bool:
        return reply.header("x-should-retry") == "false" or seconds > LONGEST

    asked = ask_often(proxies[:number], key, is_final)

    assert "has used its 880 tokens of today" in asked.last.json()["error"]["message"]
    used = (len(upstream.requests) - so_far) * TOKENS
    assert most - TOKENS <= used <= most + max(most // 20, 3 * TOKENS)
    eventually(
        lambda: [ask(proxy, key).header("x-should-retry") for proxy in proxies], lambda found: set(found) == {"false"}
    )


def test_a_changed_limit_holds_for_all(proxies: list[Proxy], upstream: FakeUpstream) -> None:
    key = add_key(proxies, "--concurrency", "4")
    proxies[0].run_script("keys.py", "client", "change", "laptop", "--concurrency", "2")
    counted = "SELECT SUM(held) AS held FROM limit_shares WHERE run_id <> ''"
    proxies[0].rows(counted, until=lambda rows: rows[0]["held"] == 2)
    assert stays_open(proxies, key, upstream, 2) == 2


def test_a_dead_proxys_share_comes_free_and_one_that_wakes_up_asks_first(
    proxies: list[Proxy], upstream: FakeUpstream
) -> None:
    key = add_key(proxies, "--concurrency", "1")
    one, two, three = proxies
    ask_until_served(two, key)
    os.kill(two.pid, signal.SIGSTOP)  # with the only slot
    three.kill()
    began = time.monotonic()
    try:
        assert ask(one, key).status == 429
        eventually(lambda: ask(one, key).status, lambda status: status == 200, timeout=2 * SILENT_SECONDS)
        assert time.monotonic() - began >= SILENT_SECONDS - 15
        with held(upstream) as gate, ThreadPoolExecutor(2) as threads:
            first = threads.submit(ask, one, key)
            assert gate.reached.wait(60)
            second = threads.submit(ask, two, key)  # waits in its socket
            os.kill(two.pid, signal.SIGCONT)
            assert second.result(60).status == 429
            gate.open()
            assert first.result(60).status == 200
    finally:
        os.kill(two.pid, signal.SIGCONT)
    ask_until_served(two, key)
