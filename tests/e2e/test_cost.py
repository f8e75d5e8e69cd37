"""What a request costs the event loop, beside a mitmdump that does nothing but set a key and stream the answer.

Counted in calls of functions, Python's own among them, which are the same on every machine and however busy it is. They
are no measure of time, but where one of the two does twice as much for each request, it shows; scripts/bench has CPU.

Calls of our own Python functions are bounded apart. A sum of all would hide them: as features came one by one, ours
grew by half while calls of Python's own fell, and a request took 40 % more CPU with no more calls.
"""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from fake_upstream import FakeUpstream, message_json, sse
from harness import ADDON, Proxy, RawClient, claude_request, eventually

COUNT = Path(__file__).parents[1] / "support" / "count_calls.py"
PLAIN = """
class InjectAndStream:
    def requestheaders(self, flow):
        flow.request.scheme, flow.request.host, flow.request.port = "http", "127.0.0.1", PORT
        flow.request.headers["x-api-key"] = "sk-ant-api03-plain"

    def responseheaders(self, flow):
        flow.response.stream = True

addons = [InjectAndStream()]
"""
REQUESTS = 21


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def plain(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    script = tmp_path_factory.mktemp("plain") / "plain.py"
    script.write_text(PLAIN.replace("PORT", str(upstream.port)))
    with Proxy(script=script, arguments=("-s", str(COUNT)), environment={"PYTHONOPTIMIZE": "1"}) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def ours(upstream: FakeUpstream) -> Iterator[Proxy]:
    proxy = Proxy(upstream, script=ADDON, arguments=("-s", str(COUNT)), environment={"PYTHONOPTIMIZE": "1"})
    proxy.add_tokens("max-1", "sk-ant-oat01-max-1")
    with proxy:
        yield proxy


class Calls(NamedTuple):
    """How many there were."""

    all: float
    own: float
    """Of Python functions of ours; a generator of ours that goes on is one more."""


def calls(proxy: Proxy) -> Calls:
    """How many there were so far."""
    told = proxy.folder / "calls"
    told.unlink(missing_ok=True)
    os.kill(proxy.pid, signal.SIGUSR1)
    return Calls(*map(int, str(eventually(lambda: told.exists() and told.read_text())).split()))


def calls_a_request(proxy: Proxy, *, stream: bool) -> Calls:
    """On one connection, one after the other; not counting the first ones, which make what is made once.

    Of single requests the cheapest: on a busy machine an answer comes in more portions, and what is done now and then
    falls on some of them.
    """
    asked = claude_request(2000, session="00000000-0000-4000-8000-000000000001", stream=stream)
    with RawClient("127.0.0.1", proxy.port) as client:
        for _ in range(3):
            assert client.request(*asked).status == 200
        so_far = [calls(proxy)]
        for _ in range(REQUESTS):
            assert client.request(*asked).status == 200
            so_far.append(calls(proxy))
    spent = [(after.all - before.all, after.own - before.own) for before, after in pairwise(so_far)]
    return Calls(*map(min, zip(*spent, strict=True)))


@pytest.mark.parametrize(
    ("stream", "most", "most_own"), [(False, 0.45, 1_160), (True, 0.45, 1_250)], ids=["json", "stream"]
)
def test_a_small_request_takes_the_event_loop_less_than_plain_mitmproxy_does(
    upstream: FakeUpstream, plain: Proxy, ours: Proxy, *, stream: bool, most: float, most_own: int
) -> None:
    """`most` is what may be spent of plain mitmproxy's calls, `most_own` how many functions of ours may be called.

    Both are a few percent above what is spent. A feature that needs more takes it from elsewhere, or says here what it
    is worth.
    """
    upstream.always(sse(3) if stream else message_json())
    theirs, spent = (calls_a_request(proxy, stream=stream) for proxy in (plain, ours))
    share = spent.all / theirs.all
    print(f"{spent.all:,.0f} calls a request, plain mitmproxy {theirs.all:,.0f}: {share:.2f}; ours: {spent.own:,.0f}")
    assert share <= most
    assert theirs.own == 0
    assert spent.own <= most_own
