"""The harness starts what it says, reads what was sent, and leaves nothing behind."""

import contextlib
import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream, Gate, cut_midway, sse
from harness import (
    BlackHole,
    Http2Client,
    Port,
    Proxy,
    RawClient,
    StartProxy,
    Truncated,
    accepts,
    claude_request,
    eventually,
    listening,
    via_base_url,
    via_connect,
    via_reverse,
)

STREAMER = '''
from mitmproxy import ctx, http


class Streamer:
    """Sends everything to `probe_upstream` and streams the answers."""

    def load(self, loader):
        loader.add_option("probe_upstream", str, "", "host:port")

    def requestheaders(self, flow: http.HTTPFlow):
        if ctx.options.probe_upstream and flow.request.scheme == "http":
            flow.request.host, port = ctx.options.probe_upstream.split(":")
            flow.request.port = int(port)

    def responseheaders(self, flow: http.HTTPFlow):
        flow.response.stream = True


addons = [Streamer()]
'''


@pytest.fixture
def streamer(tmp_path: Path) -> Path:
    """A trivial addon: what the harness can do does not depend on ours."""
    script = tmp_path / "streamer.py"
    script.write_text(STREAMER)
    return script


def test_a_real_proxy_starts_listens_on_loopback_and_stops(start_proxy: StartProxy, streamer: Path) -> None:
    proxy = start_proxy(script=streamer)

    assert listening(proxy.pid) == {("127.0.0.1", proxy.port)}
    assert "listening at 127.0.0.1" in proxy.log()
    assert proxy.stop() == 0
    assert not accepts(proxy.port)


def test_a_proxy_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('this addon is broken')")  # mitmproxy listens before it reports errors
    proxy = Proxy(script=broken)

    with pytest.raises(RuntimeError, match="this addon is broken"), proxy:
        pass
    assert proxy.returncode == 1


def test_a_killed_proxy_is_gone(start_proxy: StartProxy, streamer: Path) -> None:
    proxy = start_proxy(script=streamer)

    assert proxy.kill() == -signal.SIGKILL
    assert proxy.stop() == -signal.SIGKILL


def test_the_environment_is_clean(start_proxy: StartProxy, streamer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ccflare_DB_PATH", "/nowhere")
    proxy = start_proxy(script=streamer, environment={"LOG_LEVEL": "DEBUG"}, anew=True)

    environment = Path(f"/proc/{proxy.pid}/environ").read_bytes()
    assert b"LOG_LEVEL=DEBUG" in environment
    assert b"HTTPS_PROXY" not in environment
    assert b"ccflare_DB_PATH" not in environment


def test_door_base_url_streams_chunk_by_chunk(start_proxy: StartProxy, streamer: Path, upstream: FakeUpstream) -> None:
    gate = Gate()
    upstream.answer(sse(["one", "two"], gate=gate))
    proxy = start_proxy(script=streamer, probe_upstream=f"127.0.0.1:{upstream.port}")
    with via_base_url(proxy) as client:
        client.send_request(*claude_request())
        assert client.read_head().status == 200
        kinds = [client.read_event() for _ in range(4)]
        assert not gate.is_open
        gate.open()
        kinds += list(client.events())

    assert [event["type"] for event in kinds if event][-1] == "message_stop"


def test_door_connect_over_both_http_versions(
    start_proxy: StartProxy, streamer: Path, tls_upstream: FakeUpstream
) -> None:
    proxy = start_proxy(script=streamer, ssl_verify_upstream_trusted_ca=tls_upstream.ca_file)
    with via_connect(proxy, "localhost", tls_upstream.port) as client:
        assert client.request(*claude_request()).status == 200
    with Http2Client.via_connect(proxy, "localhost", tls_upstream.port) as h2_client:
        assert h2_client.request(*claude_request()).status == 200

    assert [request.protocol for request in tls_upstream.requests] == ["HTTP/1.1", "HTTP/2"]


def test_door_reverse(start_proxy: StartProxy, streamer: Path, tls_upstream: FakeUpstream) -> None:
    trust = {"ssl_verify_upstream_trusted_ca": tls_upstream.ca_file}
    proxy = start_proxy(script=streamer, mode=f"reverse:{tls_upstream.url}", **trust)
    with via_reverse(proxy) as client:
        assert client.request(*claude_request()).status == 200


def test_a_reset_through_the_proxy_reaches_the_upstream(
    start_proxy: StartProxy, streamer: Path, upstream: FakeUpstream
) -> None:
    upstream.answer(sse(gate=Gate()))
    proxy = start_proxy(script=streamer, probe_upstream=f"127.0.0.1:{upstream.port}")
    client = via_base_url(proxy)
    client.send_request(*claude_request())
    client.read_head()
    client.reset()

    upstream.wait_until(lambda: upstream.requests[0].aborted)


def test_mitmweb_has_its_own_port_and_token(start_proxy: StartProxy, streamer: Path) -> None:
    proxy = start_proxy(program="mitmweb", script=streamer)
    eventually(lambda: accepts(proxy.web_port))
    with RawClient("127.0.0.1", proxy.web_port) as client:
        refused = client.request("GET", "/flows")
        served = client.request("GET", "/flows", ((b"Authorization", b"Bearer " + proxy.web_token.encode()),))

    assert (refused.status, served.status, served.json()) == (403, 200, [])


def test_rows_are_read_until_they_satisfy(tmp_path: Path) -> None:
    proxy = Proxy(folder=tmp_path)
    proxy.database.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(proxy.database)) as connection:
        connection.execute("create table t (n)")
        connection.execute("insert into t values (1)")
        connection.commit()

    assert proxy.rows("select n from t where n = ?", (1,)) == [{"n": 1}]
    with pytest.raises(TimeoutError, match="'n': 1"):
        proxy.rows("select n from t", until=lambda rows: len(rows) > 1, timeout=0.1)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        proxy.rows("delete from t")
    proxy.close()


def test_the_client_tells_a_cut_from_an_end(upstream: FakeUpstream) -> None:
    upstream.answer(cut_midway(after=1))
    with RawClient("127.0.0.1", upstream.port) as client:
        client.send_request(*claude_request())
        client.read_head()
        with pytest.raises(Truncated):
            client.read_body()


def test_a_reserved_port_refuses_connections() -> None:
    port = Port()

    assert not accepts(port.number)
    port.release()


def test_a_black_hole_never_answers() -> None:
    hole = BlackHole()

    with pytest.raises(TimeoutError):
        RawClient("127.0.0.1", hole.number, timeout=0.3)
    hole.release()


def test_waiting_is_bounded() -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError, match="last seen: 'nothing'"):
        eventually(lambda: "nothing", lambda seen: seen == "something", timeout=0.1)
    assert time.monotonic() - started < 30


def test_a_claude_request_has_its_size_and_session() -> None:
    request = claude_request(100_000, session="0000-1")
    content = json.loads(request.body)

    assert len(request.body) == 100_000
    assert json.loads(content["metadata"]["user_id"])["session_id"] == "0000-1"
    assert (b"X-Claude-Code-Session-Id", b"0000-1") in request.headers
    assert next(iter(content)) == "model"
