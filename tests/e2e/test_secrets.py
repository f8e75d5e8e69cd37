"""With everything on that shows, stores or logs traffic, no artefact holds a secret of an account, or of a client."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream, cut_midway, failure, limited_5h, reset_before_head, unauthorized
from harness import Http2Client, Proxy, Truncated, claude_request, eventually, via_base_url
from web_kit import WebSocket, pages

API_KEY = "sk-ant-api03-planted-api-key-0123456789"
ACCESS = "sk-ant-oat01-planted-access-token-0123456789"
REFRESH = "sk-ant-ort01-planted-refresh-token-0123456789"
CLIENT = "sk-ant-api03-the-clients-own-key-0123456789"
PLANTED = {"API key": API_KEY, "access token": ACCESS, "refresh token": REFRESH, "client's key": CLIENT}


def traffic(upstream: FakeUpstream, proxy: Proxy) -> None:
    """Five flows: streams and whole answers over both accounts, with a failover, and our own health page."""
    credential = (b"x-api-key", CLIENT.encode())
    upstream.answer(limited_5h(time.time() + 3600), credential=API_KEY)
    for stream in (True, False, True, False):
        with via_base_url(proxy) as client:
            assert client.request(*claude_request(3000, stream=stream, credential=credential)).status == 200
    with via_base_url(proxy) as client:
        client.request("GET", "/ccflare/health")
    assert {request.credential for request in upstream.requests} == {API_KEY, ACCESS}


def accounts(proxy: Proxy) -> None:
    proxy.add_api_key("first", API_KEY, priority=1)
    proxy.add_tokens("second", ACCESS, REFRESH, priority=2)


def findings(artefact: bytes) -> list[str]:
    """Which planted secrets are in there, in clear or in base64."""
    found = []
    for name, secret in PLANTED.items():
        forms = [secret.encode(), *(base64.b64encode(b"x" * n + secret.encode())[4:-4] for n in range(3))]
        found += [name for form in forms if form in artefact]
    return found


def check_folder(folder: Path) -> int:
    """Read every file below `folder`; returns how many that were."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {str(path): findings(path.read_bytes()) for path in files if findings(path.read_bytes())} == {}
    return len(files)


def test_mitmdump_with_all_its_outputs(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(
        upstream,
        folder=tmp_path,
        arguments=["-vvv", "-w", str(tmp_path / "flows")],
        hardump=str(tmp_path / "flows.har"),
        flow_detail=4,
        ccflare_tuning=False,
        ccflare_log_level="debug",
    )
    accounts(proxy)
    with proxy:
        traffic(upstream, proxy)
        proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=lambda rows: len(rows) == 4)
        assert check_folder(tmp_path) > 5  # with the write-ahead log, before it is merged
        proxy.stop()
    assert check_folder(tmp_path) > 5
    assert b"[redacted]" in (tmp_path / "flows").read_bytes()  # the dump shows that the client sent a key
    har = json.loads((tmp_path / "flows.har").read_text())
    assert len(har["log"]["entries"]) == 5


def test_http2_and_whatever_goes_wrong_with_it(tls_upstream: FakeUpstream, tmp_path: Path) -> None:
    """Errors are what gets logged at length, and the HTTP/2 library logs the fields that it packs."""
    flows = str(tmp_path / "flows")
    proxy = Proxy(
        tls_upstream,
        folder=tmp_path,
        arguments=["-vvv", "-w", flows],
        flow_detail=4,
        ccflare_log_level="debug",
        ccflare_retry_delay_ms=1,
    )
    accounts(proxy)
    refused = unauthorized(f"{API_KEY[:12]}… is not accepted")
    tls_upstream.answer(reset_before_head(), failure(500, html=True), refused, credential=API_KEY)
    tls_upstream.answer(cut_midway(stream=True), credential=ACCESS)
    with proxy:
        with Http2Client.via_connect(proxy, "localhost", tls_upstream.port) as client:
            with pytest.raises(Truncated):
                client.request(*claude_request(3000))
            assert client.request(*claude_request(3000)).status == 200
        proxy.stop()
    asked = [(request.protocol, request.credential) for request in tls_upstream.requests]
    assert asked == [("HTTP/1.1", API_KEY)] * 3 + [("HTTP/1.1", ACCESS)] * 2
    assert check_folder(tmp_path) > 5


@pytest.fixture
def web(upstream: FakeUpstream, tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(upstream, folder=tmp_path, program="mitmweb", ccflare_tuning=False, view_filter="~all")
    accounts(proxy)
    with proxy:
        yield proxy


def test_mitmwebs_frames_and_pages(upstream: FakeUpstream, web: Proxy, tmp_path: Path) -> None:
    frames = WebSocket(web)
    traffic(upstream, web)
    eventually(lambda: frames.take().count(b"flows/update") >= 4)
    assert findings(frames.read) == []
    frames.close()

    shown = pages(web)
    assert len(json.loads(shown["/flows"])) == 5
    assert {path: findings(body) for path, body in shown.items() if findings(body)} == {}
    check_folder(tmp_path)


def test_the_clients_own_credential_stays_behind(upstream: FakeUpstream, web: Proxy) -> None:
    traffic(upstream, web)
    with via_base_url(web) as client:
        both = ((b"Authorization", b"Bearer " + CLIENT.encode()), (b"x-api-key", CLIENT.encode()))
        client.request("POST", "/v1/messages", (*both, (b"Proxy-Authorization", b"Basic " + CLIENT.encode())), b"{}")
    sent = [value for request in upstream.requests for _, value in request.headers]
    assert [value for value in sent if CLIENT.encode() in value] == []


def test_what_would_log_the_wire_is_refused(upstream: FakeUpstream, tmp_path: Path) -> None:
    """mitmproxy's proxy_debug logs every byte that it sends."""
    proxy = Proxy(upstream, folder=tmp_path, proxy_debug=True)
    with pytest.raises(RuntimeError, match="proxy_debug: it would write the accounts' credentials into the log"):
        proxy.start()
    proxy.close()
