"""scripts/stats.py beside a proxy that is serving: it sees what is open and what has ended, and bodies stay sealed."""

import json
from typing import Any

import pytest

from fake_upstream import FakeUpstream, Gate, sse
from harness import Proxy, StartProxy, claude_request, via_base_url

KEY = "sk-ant-api03-one"


@pytest.fixture
def proxy(upstream: FakeUpstream, start_proxy: StartProxy) -> Proxy:
    return start_proxy(upstream, accounts={"one": KEY})


def figures(proxy: Proxy, view: str) -> Any:
    return json.loads(proxy.run_script("stats.py", view, "--format", "json"))


def test_an_open_exchange_counts_as_open_until_it_ends(upstream: FakeUpstream, proxy: Proxy) -> None:
    gate = Gate()
    upstream.answer(sse(input_tokens=1000, output_tokens=20, gate=gate))
    with via_base_url(proxy) as client:
        client.send_request(*claude_request())
        client.read_head()
        proxy.rows("SELECT id FROM requests", until=bool)
        total = figures(proxy, "summary")["total"]
        assert (total["requests"], total["open"], total["ok"]) == (1, 1, 0)

        gate.open()
        client.read_body()
    proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=bool)
    [opus] = figures(proxy, "models")
    assert (opus["model"], opus["requests"], opus["open"], opus["ok"]) == ("claude-opus-4-8", 1, 0, 1)
    assert (opus["input_tokens"], opus["output_tokens"], opus["cost_usd"]) == (1000, 20, 0.0055)


@pytest.mark.parametrize("view", ["summary", "accounts", "models", "sessions", "requests", "errors"])
def test_no_view_changes_the_database_or_shows_a_secret(proxy: Proxy, view: str) -> None:
    with via_base_url(proxy) as client:
        client.request(*claude_request(session="the-session"))
        client.request("GET", "/v1/models/../files")
    proxy.rows("SELECT id FROM requests WHERE outcome IS NOT NULL", until=lambda rows: len(rows) == 2)
    proxy.stop()
    before = proxy.database.read_bytes()

    said = proxy.run_script("stats.py", view)

    assert said.strip()
    assert "sk-ant" not in said
    assert proxy.database.read_bytes() == before
