"""Prometheus at a running proxy: by a key as bearer token it gets what was served, as the statistics tell it."""

import json
from collections.abc import Iterator

import pytest

from exposition_check import read_exposition
from fake_upstream import FakeUpstream, sse
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url


@pytest.fixture
def proxy(upstream: FakeUpstream, start_proxy: StartProxy) -> Iterator[Proxy]:
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"})
    yield proxy
    proxy.stop()


def test_prometheus_gets_what_was_served_by_a_key_as_its_bearer_token(upstream: FakeUpstream, proxy: Proxy) -> None:
    upstream.answer(sse(input_tokens=1000, output_tokens=20))
    client, viewer = proxy.add_client_key("laptop"), proxy.add_client_key("prometheus", "--role", "viewer")

    def scrape(key: str) -> tuple[int, str | None, bytes]:
        with via_base_url(proxy) as connection:
            reply = connection.request("GET", "/ccflare/metrics", ((b"Authorization", f"Bearer {key}".encode()),))
        return reply.status, reply.header("content-type"), reply.body

    eventually(lambda: scrape(viewer)[0] == 200)
    with via_base_url(proxy) as connection:
        assert connection.request(*claude_request(credential=(b"x-api-key", client.encode()))).status == 200
    proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=bool)

    assert scrape(client)[0] == 403
    status, content_type, text = scrape(viewer)

    page = read_exposition(text)
    assert (status, content_type, page.mistakes) == (200, "text/plain; version=0.0.4; charset=utf-8", [])
    [opus] = json.loads(proxy.run_script("stats.py", "models", "--format", "json"))
    whose = {"account": "one", "model": opus["model"]}
    assert page.value("ccflare_requests_total", **whose, outcome="ok") == opus["requests"] == 1
    assert page.value("ccflare_tokens_total", **whose, kind="output") == opus["output_tokens"] == 20
    assert page.value("ccflare_cost_usd_total", **whose) == opus["cost_usd"]
    assert page.value("ccflare_request_duration_seconds_count") == 1
    assert page.value("ccflare_writer_rows_lost_total") == 0
    assert client.encode() not in text
    assert viewer.encode() not in text
