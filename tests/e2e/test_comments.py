"""What became of a request stands in its flow's comment for everybody who reads that, in mitmdump too."""

import json
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.io import FlowReader

from fake_upstream import FakeUpstream, message_json
from harness import Proxy, claude_request, via_base_url

_NOTES = """
class Notes:
    def response(self, flow):
        print(f"noted: {flow.comment!r}", flush=True)


addons = [Notes()]
"""


def asked(upstream: FakeUpstream, folder: Path, *arguments: str, **options: Any) -> Proxy:
    """A proxy that has served one request by the account `office`, and has ended."""
    upstream.answer(message_json())
    proxy = Proxy(upstream, folder=folder, arguments=arguments, **options)
    proxy.add_api_key("office", "sk-ant-api03-PLANTED")
    with proxy:
        with via_base_url(proxy) as client:
            assert client.request(*claude_request()).status == 200
        proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=lambda rows: len(rows) == 1)
        proxy.stop()
    return proxy


@pytest.mark.parametrize("way", ["-w", "--set", "filtered"])
def test_a_dump_has_it(upstream: FakeUpstream, tmp_path: Path, way: str) -> None:
    file = tmp_path / "flows"
    arguments = {"-w": ("-w", str(file)), "--set": ("--set", f"save_stream_file={file}")}.get(way, ())
    options = {"save_stream_file": str(file), "save_stream_filter": "~comment office"} if way == "filtered" else {}
    asked(upstream, tmp_path / "proxy", *arguments, **options)
    with file.open("rb") as dump:
        comments = [flow.comment for flow in FlowReader(dump).stream()]
    assert len(comments) == 1
    assert "office" in comments[0]


def test_a_har_file_selects_by_it(upstream: FakeUpstream, tmp_path: Path) -> None:
    file = tmp_path / "flows.har"
    asked(upstream, tmp_path / "proxy", hardump=str(file), save_stream_filter="~comment office")
    assert len(json.loads(file.read_text())["log"]["entries"]) == 1


def test_what_is_printed_selects_by_it(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = asked(upstream, tmp_path / "proxy", "--set", "flow_detail=1", "--set", "dumper_filter=~comment office")
    assert "<< 200 OK" in proxy.log()


def test_an_addon_after_ours_has_it(upstream: FakeUpstream, tmp_path: Path) -> None:
    script = tmp_path / "notes.py"
    script.write_text(_NOTES)
    log = asked(upstream, tmp_path / "proxy", "-s", str(script)).log()
    assert "office" in log.partition("noted: ")[2].partition("\n")[0]
