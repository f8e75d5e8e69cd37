"""`scripts/run web` in a browser."""

from pathlib import Path

from browser_kit import page
from fake_upstream import FakeUpstream
from harness import Proxy, claude_request, eventually, via_base_url
from installed_kit import by_run


def test_run_web_shows_a_request_in_a_browser(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path, program="mitmweb")
    proxy.add_api_key("one", "sk-ant-api03-one")
    by_run(proxy, tmp_path, "web")
    with proxy:
        with via_base_url(proxy) as client:
            assert client.request(*claude_request()).status == 200
        address = f"http://127.0.0.1:{proxy.web_port}/?token={proxy.web_token}"

        shown = eventually(lambda: page(address), lambda page: "opus-4-8" in page)

    assert "/v1/messages" in shown
    assert "/ccflare/inspector.css" in shown
