"""`scripts/run console` in a terminal, and a sentence of `scripts/run web`. Its page is in test_browser.py."""

import socket
from pathlib import Path

import pytest

from console_kit import Console
from fake_upstream import FakeUpstream
from harness import Proxy, claude_request, via_base_url
from installed_kit import by_run


def test_run_console_shows_a_request_and_leaves_by_its_keys(upstream: FakeUpstream, tmp_path: Path) -> None:
    console = Console(upstream, tmp_path)
    console.add_api_key("one", "sk-ant-api03-one")
    by_run(console, tmp_path, "console")
    with console:
        with via_base_url(console) as client:
            assert client.request(*claude_request()).status == 200
        console.shown("/v1/messages")

        console.press("q")
        console.shown("Quit (")
        console.press("y")

        assert console.wait() == 0


def test_run_web_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        proxy = Proxy(folder=tmp_path, program="mitmweb", arguments=("--web-port", port))
        by_run(proxy, tmp_path, "web")
        with pytest.raises(RuntimeError, match="ended with 1"):
            proxy.start()
    told = f"ccflare: web_port: port {port} is in use, something listens there already; stop that, or name another"
    assert [line for line in proxy.log().splitlines() if port in line] == [f"{told} port by --web-port."]
    assert "Traceback" not in proxy.log()
    proxy.close()
