"""A flow that somebody intercepts waits, and goes on when it is resumed; its neighbours do not wait with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream
from harness import RawClient, claude_request
from rig import Rig

# What "intercept" and "resume" in mitmweb do.
INTERCEPTOR = """
import asyncio


class Interceptor:
    def __getattr__(self, name):
        if name not in ("requestheaders", "request", "responseheaders", "response"):
            raise AttributeError(name)
        return lambda flow: self.hold(name, flow)

    def hold(self, hook, flow):
        if flow.request.headers.get("x-intercept") == hook:
            flow.intercept()
            asyncio.get_running_loop().call_later(0.3, flow.resume)


addons = [Interceptor()]
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    script: Path = tmp_path_factory.mktemp("script") / "interceptor.py"
    script.write_text(INTERCEPTOR)
    with FakeUpstream() as upstream, Rig.running(upstream, arguments=["-s", str(script)]) as rig:
        yield rig


@pytest.mark.parametrize("hook", ["requestheaders", "request", "responseheaders", "response"])
def test_an_intercepted_flow_goes_on_when_it_is_resumed(rig: Rig, client: RawClient, hook: str) -> None:
    rig.send(client, extra=[(b"x-intercept", hook.encode())])
    assert rig.ask().status == 200

    assert client.read_head().status == 200
    assert client.read_body().endswith(b'"message_stop"}\n\n')
    assert client.request(*claude_request(3000)).status == 200
    assert "Addon error" not in rig.proxy.log()
