"""What a request costs the event loop, beside a mitmdump that does nothing but set a key and stream the answer.

Counted in calls of functions, Python's own among them, which are the same on every machine and however busy it is. They
are no measure of time, but where one of the two does twice as much for each request, it shows; scripts/bench has CPU.
"""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

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


def calls(proxy: Proxy) -> int:
    """How many there were so far."""
    told = proxy.folder / "calls"
    told.unlink(missing_ok=True)
    os.kill(proxy.pid, signal.SIGUSR1)
    return int(eventually(lambda: told.exists() and told.read_text()))


def calls_a_request(proxy: Proxy, *, stream: bool) -> float:
    """On one connection, one after the other; not counting the first ones, which make what is made once.

    Of single requests the one in the middle: what is done now and then, and the oftener the slower the machine, would
    count in a sum of them.
    """
    asked = claude_request(2000, session="00000000-0000-4000-8000-000000000001", stream=stream)
    with RawClient("127.0.0.1", proxy.port) as client:
        for _ in range(3):
            assert client.request(*asked).status == 200
        so_far = [calls(proxy)]
        for _ in range(REQUESTS):
            assert client.request(*asked).status == 200
            so_far.append(calls(proxy))
    return median(after - before for before, after in pairwise(so_far))


@pytest.mark.parametrize(("stream", "most"), [(False, 0.56), (True, 0.56)], ids=["json", "stream"])
def test_a_small_request_takes_the_event_loop_less_than_plain_mitmproxy_does(
    upstream: FakeUpstream, plain: Proxy, ours: Proxy, *, stream: bool, most: float
) -> None:
    upstream.always(sse(3) if stream else message_json())
    theirs, own = (calls_a_request(proxy, stream=stream) for proxy in (plain, ours))
    print(f"{own:,.0f} calls a request, plain mitmproxy {theirs:,.0f}: {own / theirs:.2f}")
    assert own <= most * theirs
