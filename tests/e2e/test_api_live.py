"""Programs at a running proxy: Prometheus, and the API, each with a key that may see what it asks for."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from exposition_check import read_exposition
from fake_upstream import FakeUpstream, sse
from harness import Proxy, RawClient, Reply, claude_request, via_base_url
from schema_check import mistakes

API = "/ccflare/api/v1"


class Watched(NamedTuple):
    """A proxy that has served one request, and the keys of its clients by their role."""

    proxy: Proxy
    keys: dict[str, str]

    def ask(self, path: str, role: str = "viewer") -> Reply:
        """A request by a key as bearer token."""
        with via_base_url(self.proxy) as client:
            return self.say(client, path, role)

    def say(self, client: RawClient, path: str, role: str) -> Reply:
        return client.request("GET", path, ((b"Authorization", f"Bearer {self.keys[role]}".encode()),))

    def script(self, *words: str) -> Any:
        """What a script tells to programs."""
        return json.loads(self.proxy.run_script(*words, "--format", "json"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with FakeUpstream() as upstream:
        proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("proxy"))
        proxy.add_api_key("one", "sk-ant-api03-one")
        keys = {role: proxy.add_client_key(role, "--role", role) for role in ("client", "viewer")}
        upstream.answer(sse(input_tokens=1000, output_tokens=20))
        with proxy:
            with via_base_url(proxy) as client:
                credential = (b"x-api-key", keys["client"].encode())
                assert client.request(*claude_request(5000, credential=credential)).status == 200
            proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=bool)
            yield Watched(proxy, keys)


def test_prometheus_gets_what_was_served_by_a_key_as_its_bearer_token(watched: Watched) -> None:
    reply = watched.ask("/ccflare/metrics")

    page = read_exposition(reply.body)
    assert (reply.status, page.mistakes) == (200, [])
    assert reply.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    [opus] = watched.script("stats.py", "models")
    whose = {"account": "one", "model": opus["model"]}
    assert page.value("ccflare_requests_total", **whose, outcome="ok") == opus["requests"] == 1
    assert page.value("ccflare_tokens_total", **whose, kind="output") == opus["output_tokens"] == 20
    assert page.value("ccflare_cost_usd_total", **whose) == opus["cost_usd"]
    assert page.value("ccflare_request_duration_seconds_count") == 1
    assert page.value("ccflare_writer_rows_lost_total") == 0
    assert not any(key.encode() in reply.body for key in watched.keys.values())


@pytest.mark.parametrize("path", ["/ccflare/metrics", f"{API}/requests", f"{API}/openapi.json"])
def test_a_key_for_requests_alone_sees_none_of_it(watched: Watched, path: str) -> None:
    assert watched.ask(path, "client").status == 403


def test_each_endpoint_answers_as_its_own_document_says(watched: Watched) -> None:
    document = watched.ask(f"{API}/openapi.json").json()
    paths = [path for path in document["paths"] if "{" not in path and path != "/events"]
    assert len(paths) >= 8
    with via_base_url(watched.proxy) as client:
        for path in paths:
            operation = document["paths"][path]["get"]
            query = "&".join(f"{each['name']}=x" for each in operation["parameters"] if each["required"])
            reply = watched.say(client, f"{API}{path}?{query}", "viewer")
            answers = operation["responses"]
            schema = answers[str(reply.status)]["content"]["application/json"]["schema"]
            assert (reply.status, [*mistakes(reply.json(), schema)]) == (200, []), path


def test_a_conversation_is_read_from_the_database_and_audited(watched: Watched) -> None:
    (served,) = watched.ask(f"{API}/requests?outcome=ok").json()["requests"]
    assert served == watched.script("stats.py", "requests")[0]

    told = watched.ask(f"{API}/requests/{served['id']}").json()

    assert told["turns"][-1]["parts"]
    assert told["client_name"] == "client"
    said = watched.ask(f"{API}/requests/{served['id']}/conversation").json()["text"]
    assert all(part["text"] in said for part in told["turns"][-1]["parts"])
    entries = watched.script("audit.py", "show", "--action", "data.read")
    conversations = [entry for entry in entries if entry["target"] == served["id"]]
    assert [entry["actor"] for entry in conversations] == ["client:viewer"] * 2


def test_a_search_finds_what_was_said_and_is_audited(watched: Watched) -> None:
    (served,) = watched.ask(f"{API}/requests?outcome=ok").json()["requests"]

    hits = watched.ask(f"{API}/search?text=SAY%20hello").json()["hits"]

    assert [(hit["id"], hit["match"]) for hit in hits] == [(served["id"], "Say hello")]
    entries = watched.script("audit.py", "show", "--action", "data.read")
    assert "search" in [entry["detail"].get("part") for entry in entries]


def test_the_database_is_not_asked_for_what_nobody_has_allowed(watched: Watched) -> None:
    for query in ("limit=501", "since=yesterday", "cursor=x", "sort=cost"):
        assert watched.ask(f"{API}/requests?{query}").status == 400
    assert watched.ask(f"{API}/requests/nothing").status == 404
    assert watched.ask(f"{API}/nothing").status == 404
