"""What a client key may use, on a running proxy: its rate, and budgets that no restart renews."""

import contextlib
import json
import time
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from ccflare_core.anthropic.api_table import API, CACHE_TOUCH, PathClass
from ccflare_core.config.location import parse
from ccflare_core.store.client_usage import uses_since
from ccflare_core.store.store import Store
from exchange_kit import Bench
from fake_upstream import (
    Answer,
    FakeUpstream,
    Request,
    Wait,
    event,
    json_answer,
    message_json,
    sse,
    sse_answer,
    stall_before_head,
)
from fake_upstream.messages import whole_answer
from flow_kit import asked
from guard_kit import SECRET, a_gate, a_key, an_authenticator
from harness import Proxy, Reply, StartProxy, claude_request, eventually, via_base_url

ACCOUNT = "sk-ant-oat01-account"
LONGEST = 45
"""Seconds that a test takes at most."""


@pytest.fixture(autouse=True)
def one_day() -> None:
    """Begin nothing that midnight (UTC) would come into: a budget is that of a day."""
    if (left := 86_400 - time.time() % 86_400) < LONGEST:
        time.sleep(left)


def ask(proxy: Proxy, key: str, model: str = "claude-opus-4-8") -> Reply:
    """An exchange of 22 tokens, which cost $0.00031 with this model."""
    with via_base_url(proxy) as client:
        return client.request(*claude_request(size=3000, model=model, credential=(b"x-api-key", key.encode())))


def wait_for_key(proxy: Proxy, key: str) -> None:
    """Ask until the proxy has heard of a new key, which is then used once."""
    eventually(lambda: ask(proxy, key).status, lambda status: status == 200)


def is_over(reply: Reply, words: str) -> bool:
    """Whether this is the refusal of a budget that is used up: not to be tried again before midnight (UTC)."""
    error = reply.json()["error"]
    until_midnight = 86_400 - time.time() % 86_400
    assert (reply.status, error["type"], reply.header("x-should-retry")) == (429, "rate_limit_error", "false")
    assert int(reply.header("retry-after") or 0) == pytest.approx(until_midnight, abs=60)
    return words in error["message"]


def test_r05_one_request_too_many_of_a_key_and_nobody_else_notices(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key, other = (proxy.add_client_key(name, "--requests-per-minute", "2") for name in ("laptop", "desktop"))
    wait_for_key(proxy, other)
    before = len(upstream.requests)

    replies = [ask(proxy, key) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 429]
    assert 1 <= int(replies[-1].header("retry-after") or 0) <= 30
    assert replies[-1].header("x-should-retry") is None
    assert ask(proxy, other).status == 200
    assert len(upstream.requests) == before + 3
    [refused] = proxy.rows("SELECT * FROM requests WHERE status_code = 429", until=bool)
    assert (refused["outcome"], refused["client_name"], refused["attempts"]) == ("refused", "laptop", 0)
    assert proxy.rows("SELECT * FROM scope_cooldowns") == []


def test_r05_budgets_survive_a_kill_and_a_restart(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    budgets = {
        proxy.add_client_key("tokens", "--tokens-per-day", "60"): "has used its 60 tokens of today",
        proxy.add_client_key("dollars", "--dollars-per-day", "0.0009"): "has used its $0.0009 of today",
    }
    for key, words in budgets.items():
        wait_for_key(proxy, key)
        assert [ask(proxy, key).status for _ in range(2)] == [200, 200]
        assert is_over(ask(proxy, key), words)
    proxy.rows("SELECT * FROM requests WHERE outcome = 'ok'", until=lambda rows: len(rows) == 6)

    for end in (proxy.kill, proxy.stop):
        end()
        proxy.start()
        assert all(is_over(ask(proxy, key), words) for key, words in budgets.items())

    assert len(upstream.requests) == 6
    assert proxy.rows("SELECT * FROM scope_cooldowns") == []


DELTA = {"type": "input_json_delta", "partial_json": "x" * 300}
LONG = sse_answer(
    event({"type": "message_start", "message": {"model": "claude-opus-4-8", "usage": {"input_tokens": 12}}}),
    event({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "input": {}}}),
    *[event({"type": "content_block_delta", "index": 0, "delta": DELTA})] * 10,
    Wait(60),
)
"""1,000 tokens of a tool's input, which cost $0.025, and no end. The prompt's 12 tokens cost $0.00006."""


def leave_midway(proxy: Proxy, key: str) -> int:
    """Ask, and hang up when all has come that comes within a minute."""
    with via_base_url(proxy) as client:
        client.send_request(*claude_request(size=3000, credential=(b"x-api-key", key.encode())))
        status = client.read_head().status
        for _ in range(12 if status == 200 else 0):
            client.read_event()
    return status


def wait_for_estimates(proxy: Proxy, number: int) -> None:
    proxy.rows("SELECT id FROM requests WHERE estimated", until=lambda rows: len(rows) == number)


def test_r05_answers_that_were_left_before_their_end_count_for_all_that_came(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("left", "--dollars-per-day", "0.05")
    wait_for_key(proxy, key)
    upstream.always(LONG)

    for number in (1, 2):
        assert leave_midway(proxy, key) == 200
        wait_for_estimates(proxy, number)

    assert is_over(ask(proxy, key), "has used its $0.05 of today")
    rows = proxy.rows("SELECT output_tokens, counted_tokens, counted_usd FROM requests WHERE estimated")
    assert [tuple(row.values()) for row in rows] == [(0, 1012, pytest.approx(0.02506))] * 2
    proxy.kill()
    proxy.start()
    assert is_over(ask(proxy, key), "has used its $0.05 of today")


@pytest.mark.parametrize(("is_streamed", "output"), [(True, 0), (False, 50)])
def test_r05_answers_that_were_left_before_they_began_count_their_prompt(
    upstream: FakeUpstream, start_proxy: StartProxy, is_streamed: bool, output: int
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("gone", "--tokens-per-day", "1200")
    wait_for_key(proxy, key)
    upstream.always(stall_before_head(60))
    request = claude_request(size=3000, stream=is_streamed, credential=(b"x-api-key", key.encode()))

    with via_base_url(proxy) as client:
        client.send_request(*request)
        upstream.wait_for(2)
        time.sleep(1)

    [row] = proxy.rows("SELECT * FROM requests WHERE outcome = 'client_abort'", until=bool)
    prompt = len(request.body) // 3
    assert prompt + output <= row["counted_tokens"] <= prompt + 40 * output  # of 50 a second, where it took one
    assert row["counted_usd"] >= 5e-6 * prompt + 25e-6 * output
    assert (row["total_tokens"], row["cost_usd"]) == (None, None)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_r05_an_answer_in_a_coding_that_nobody_can_undo_counts_for_all_that_was_asked_for(
    upstream: FakeUpstream, start_proxy: StartProxy, is_streamed: bool
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("odd", "--tokens-per-day", "20000")
    wait_for_key(proxy, key)
    answer = sse(["word "]) if is_streamed else message_json()
    upstream.always(replace(answer, headers=(*answer.headers, (b"content-encoding", b"rot13"))))
    request = claude_request(size=3000, stream=is_streamed, credential=(b"x-api-key", key.encode()))

    with via_base_url(proxy) as client:
        client.send_request(*request)
        assert client.read_head().status == 200

    rows = proxy.rows("SELECT * FROM requests WHERE counted_tokens > 0", until=bool)
    most = json.loads(request.body)["max_tokens"]
    assert [row["counted_tokens"] for row in rows] == [len(request.body) // 3 + most]
    assert is_over(ask(proxy, key), "has used its 20000 tokens of today")


BATCHES = "/v1/messages/batches"
ONE = {"custom_id": "r", "params": {"model": "claude-opus-4-8", "max_tokens": 5000, "messages": []}}
JSON = (b"content-type", b"application/json")
IN_PROGRESS = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress"}
COUNTS = {"processing": 0, "succeeded": 1, "errored": 0, "canceled": 1, "expired": 0}
ENDED = IN_PROGRESS | {"processing_status": "ended", "request_counts": COUNTS}
USED = {"input_tokens": 20, "output_tokens": 300, "service_tier": "batch"}
RESULT = {"type": "succeeded", "message": {"type": "message", "model": "claude-opus-4-8", "usage": USED}}


class Batcher:
    """A client that makes batches of two requests, some 10,080 tokens, and asks what became of them."""

    BODY = json.dumps({"requests": [ONE, ONE]}).encode()

    def __init__(self, proxy: Proxy, key: str) -> None:
        self.proxy = proxy
        self.fields = ((b"x-api-key", key.encode()), JSON)

    def make(self) -> Reply:
        return self._ask("POST", BATCHES, self.BODY)

    def look(self, what: str = "") -> Reply:
        return self._ask("GET", f"{BATCHES}/msgbatch_1{what}", b"")

    def _ask(self, method: str, path: str, body: bytes) -> Reply:
        with via_base_url(self.proxy) as client:
            return client.request(method, path, self.fields, body)

    def counts(self) -> list[tuple[Any, ...]]:
        """The tokens and dollars of each batch, and by what they are settled."""
        rows = self.proxy.rows("SELECT tokens, usd, settled FROM batches")
        return [tuple(row.values()) for row in rows]


def by_path(request: Request) -> Answer:
    """The upstream of a batch that has ended, one of whose requests was cancelled."""
    if request.path.endswith("/results"):
        lines = [{"custom_id": "r", "result": RESULT}, {"custom_id": "s", "result": {"type": "canceled"}}]
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return whole_answer(body, b"application/x-jsonl", 200, ())
    if not request.path.startswith(BATCHES):
        return sse(["word 0 ", "word 1 "])
    return json_answer(IN_PROGRESS if request.method == "POST" else ENDED)


def test_r05_a_batch_counts_when_it_is_made_and_for_what_it_took_once_that_is_known(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("batches", "--tokens-per-day", "16000")
    wait_for_key(proxy, key)
    upstream.always(by_path)
    client = Batcher(proxy, key)
    sent = len(upstream.requests)

    assert client.make().status == 200
    refused = client.make()
    assert "This batch of 2 requests may take 10" in refused.json()["error"]["message"]
    assert is_over(refused, "tokens left of its 16000 tokens of today")
    assert len(upstream.requests) == sent + 1
    eventually(client.counts, lambda rows: [row[0] for row in rows] == [10_000 + 2 * (len(json.dumps(ONE)) // 3)])
    proxy.rows("SELECT * FROM owners WHERE kind = 'batch'", until=bool)  # a kill loses what is not written down
    for end in (proxy.kill, proxy.stop):
        end()
        proxy.start()
        assert client.make().status == 429

    assert client.look().status == 200
    eventually(client.counts, lambda rows: [row[2] for row in rows] == ["ended"])
    assert client.counts()[0][0] == 5_000 + len(json.dumps(ONE)) // 3
    [made] = proxy.rows("SELECT request_id FROM batches")
    shown = proxy.run_script("show.py", made["request_id"])
    assert f"Budget   ~{5_000 + len(json.dumps(ONE)) // 3:,} tokens, ~$0.06" in shown
    assert "(estimated, of what has succeeded)" in shown
    eventually(lambda: client.make().status, lambda status: status == 200)  # there is room for one more by now
    proxy.rows("SELECT * FROM requests WHERE status_code = 200", until=lambda rows: len(rows) == 4)


def test_r05_a_batch_counts_though_the_proxy_is_killed_while_it_is_made(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("batches", "--tokens-per-day", "16000")
    wait_for_key(proxy, key)
    upstream.always(stall_before_head(60))
    client = Batcher(proxy, key)

    with via_base_url(proxy) as connection:
        connection.send_request("POST", BATCHES, client.fields, Batcher.BODY)
        upstream.wait_for(2)
        eventually(client.counts, lambda rows: len(rows) == 1)
        proxy.kill()
    proxy.start()

    assert client.make().status == 429


def test_r05_a_batchs_results_count_once_for_every_proxy_and_need_no_budget(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    key = proxy.add_client_key("batches", "--tokens-per-day", "10200")
    upstream.always(by_path)
    client = Batcher(proxy, key)
    eventually(lambda: client.make().status, lambda status: status == 200)
    eventually(client.counts, lambda rows: len(rows) == 1)
    eventually(lambda: ask(proxy, key).status, lambda status: status == 200)  # 22 tokens, a few times over
    while ask(proxy, key).status == 200:
        pass
    assert is_over(ask(proxy, key), "has used its 10200 tokens of today")

    for _ in range(2):
        assert client.look("/results").status == 200

    eventually(client.counts, lambda rows: rows == [(320, pytest.approx(0.0038), "results")])
    sql = "SELECT total_tokens FROM requests WHERE path LIKE '%/results' AND outcome = 'ok' ORDER BY timestamp"
    eventually(lambda: [row["total_tokens"] for row in proxy.rows(sql)], lambda tokens: tokens == [320, None])
    eventually(lambda: ask(proxy, key).status, lambda status: status == 200)

    other = start_proxy(upstream, database=proxy.location)
    eventually(lambda: ask(other, key).status, lambda status: status == 200)  # once it has a share
    assert Batcher(other, key).make().status == 429


class Row(NamedTuple):
    """What a user may expect of requests for one path: whether they are for a model, and the tokens that they count."""

    is_for_model: bool
    counts: bool = False


FOR_MODEL, RESOURCE = Row(True), Row(False)
ROWS = {
    ("POST", "/v1/messages"): Row(True, counts=True),
    ("POST", "/v1/messages/count_tokens"): FOR_MODEL,
    ("POST", "/v1/messages/batches"): Row(True, counts=True),
    ("GET", "/v1/messages/batches"): RESOURCE,
    ("GET", "/v1/messages/batches/{id}"): RESOURCE,
    ("DELETE", "/v1/messages/batches/{id}"): RESOURCE,
    ("POST", "/v1/messages/batches/{id}/cancel"): RESOURCE,
    ("GET", "/v1/messages/batches/{id}/results"): RESOURCE,
    ("POST", "/v1/complete"): Row(True, counts=True),
    ("GET", "/v1/models"): RESOURCE,
    ("GET", "/v1/models/{id}"): RESOURCE,
    ("GET", "/v1/files"): RESOURCE,
    ("POST", "/v1/files"): RESOURCE,
    ("GET", "/v1/files/{id}"): RESOURCE,
    ("DELETE", "/v1/files/{id}"): RESOURCE,
    ("GET", "/v1/files/{id}/content"): RESOURCE,
    ("GET", "/v1/skills"): RESOURCE,
    ("POST", "/v1/skills"): RESOURCE,
    ("GET", "/v1/skills/{id}"): RESOURCE,
    ("DELETE", "/v1/skills/{id}"): RESOURCE,
    ("GET", "/v1/skills/{id}/versions"): RESOURCE,
    ("POST", "/v1/skills/{id}/versions"): RESOURCE,
    ("GET", "/v1/skills/{id}/versions/{id}"): RESOURCE,
    ("DELETE", "/v1/skills/{id}/versions/{id}"): RESOURCE,
    ("GET", "/v1/skills/{id}/versions/{id}/content"): RESOURCE,
}


def body_of(method: str, shape: str) -> bytes:
    if method != "POST":
        return b""
    asked = {"model": "claude-opus-4-8", "max_tokens": 9, "max_tokens_to_sample": 600, "messages": []}
    return json.dumps({"requests": [ONE]} if shape == BATCHES else asked).encode()


def answer_of(request: Request) -> Answer:
    """What the API might say on each path; the file and the model have a usage that is none."""
    path = request.path
    if path == "/v1/messages" or path.startswith(BATCHES):
        return by_path(request)
    if path == "/v1/complete":
        return json_answer({"type": "completion", "completion": " Hello.", "model": "claude-opus-4-8"})
    return json_answer({"id": "x", "input_tokens": 77} if path.endswith("count_tokens") else {"id": "x"})


def statuses(proxy: Proxy, key: str, id: str) -> dict[tuple[str, str], int]:
    """What a client with this key gets for a request of each row, about things of this id."""
    fields = ((b"x-api-key", key.encode()), JSON)
    found = {}
    for method, shape in ROWS:
        with via_base_url(proxy) as client:
            path = shape.replace("{id}", id)
            found[method, shape] = client.request(method, path, fields, body_of(method, shape)).status
    return found


def test_r05_the_rows_are_all_that_the_allow_list_has() -> None:
    pooled = [rule for rule in API if rule.path_class in (PathClass.MODEL, PathClass.RESOURCE)]
    rows = {(method, rule.shape) for rule in pooled for method in rule.methods}
    assert set(ROWS) == rows - {("POST", CACHE_TOUCH)}  # which takes a request that was answered, see test_threads.py


def test_r05_models_and_budgets_hold_on_every_path_that_gets_an_account(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"work": ACCOUNT})
    upstream.always(answer_of)
    admin = ("--role", "admin")  # others reach by id what they have made, see test_owners.py
    haiku_only = proxy.add_client_key("models", *admin, "--models", "claude-haiku-*")
    spent = proxy.add_client_key("spent", *admin, "--tokens-per-day", "1")
    free = proxy.add_client_key("free", *admin)
    wait_for_key(proxy, spent)
    proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=bool)
    sent = len(upstream.requests)

    for key, status in ((haiku_only, 403), (spent, 429)):
        assert statuses(proxy, key, "msgbatch_0") == {
            row: status if what.is_for_model else 200 for row, what in ROWS.items()
        }
    assert len(upstream.requests) == sent + 2 * sum(not row.is_for_model for row in ROWS.values())
    assert set(statuses(proxy, free, "msgbatch_1").values()) == {200}

    sql = "SELECT client_id FROM requests WHERE client_name = 'free' AND outcome = 'ok'"
    rows = proxy.rows(sql, until=lambda rows: len(rows) == len(ROWS))
    free_id = rows[0]["client_id"]
    with contextlib.closing(Store.open(parse(str(proxy.database)), None, read_only=True)) as store:
        uses = [use for use in uses_since(store.query, 0, but="") if use.client == free_id]
    completion = len(body_of("POST", "/v1/complete")) // 3 + 600
    assert sum(use.tokens for use in uses) == 22 + 320 + completion  # the batch's results have passed by then


@pytest.mark.parametrize(("method", "shape"), ROWS)
def test_r05_a_rate_holds_on_every_path_that_gets_an_account(method: str, shape: str) -> None:
    key = a_key(requests_per_minute=1)
    gate = a_gate(Bench(), an_authenticator(key))
    flows = [
        asked(shape.replace("{id}", "x_1"), method, body=b"", headers=((b"x-api-key", SECRET.encode()),))
        for _ in range(2)
    ]

    for flow in flows:
        gate.enter(flow)

    assert [flow.response and flow.response.status_code for flow in flows] == [None, 429]
