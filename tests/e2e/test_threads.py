"""Message threads, whose conversation lies with one account, and the touches that keep a prompt in its cache."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import wait_for_key
from fake_upstream import Answer, FakeUpstream, Header, Request, limited_for
from fake_upstream.messages import json_answer, message_object, new_id, usage
from harness import Reply, eventually, via_base_url
from rig import Rig

HOLD = 30
TOUCH = "/v1/messages/cache_touch"
PROMPT = "You review code, line by line, and say what is wrong with it."
SYSTEM = f"{PROMPT}\nWorking directory: /srv/shop\n"
CLAUDE: tuple[Header, ...] = ((b"user-agent", b"claude-cli/2.1.330 (external, cli)"),)


class Memory:
    """What an account of the upstream remembers: its threads, and the prompts of its answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threads: set[str] = set()
        self.prompts: set[str] = set()

    def answer(self, request: Request) -> Answer | None:
        """As the API would."""
        if request.path == TOUCH:
            is_known = request.json()["request_id"] in self.prompts
            headers = ((b"anthropic-cache-keepalive", b"active"),)
            return json_answer({"type": "cache_touch"}, headers=headers) if is_known else missing("touch_not_found")
        if request.path != "/v1/messages":
            return None
        thread = request.json().get("thread", {})
        if thread.get("type") == "continue" and thread["previous_message_id"] not in self.threads:
            return missing("thread_not_found")
        return self._message(request, is_kept=bool(thread))

    def _message(self, request: Request, *, is_kept: bool) -> Answer:
        text = f"{self.name} has answered {len(self.threads)}."
        made = dict(message_object("claude-opus-4-8", [{"type": "text", "text": text}], "end_turn", usage()))
        self.threads |= {str(made["id"])} if is_kept else set()
        request_id = new_id("req")
        self.prompts.add(request_id)
        return json_answer(made, headers=((b"request-id", request_id.encode()),))


def missing(code: str) -> Answer:
    wrong = {"type": "not_found_error", "message": "Nothing of it is here.", "details": {"error_code": code}}
    return json_answer({"type": "error", "error": wrong}, 404)


class Talk:
    """Two accounts, and a client that talks with the first in a thread."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rig.fresh("a", "b")
        self.a, self.b = Memory("a"), Memory("b")
        for memory in (self.a, self.b):
            rig.upstream.always(memory.answer, credential=rig.secret(memory.name))
        self.last = ""

    def say(self, text: str, *, fields: tuple[Header, ...] = (), goes_on: bool = True, **more: Any) -> Reply:
        """The next turn: the whole of the first one, and then what is new."""
        said: dict[str, Any] = {"model": "claude-opus-4-8", "max_tokens": 9}
        said["messages"] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        if self.last and goes_on:
            said["thread"] = {"type": "continue", "previous_message_id": self.last}
        else:
            tools = [{"name": "Grep", "input_schema": {"type": "object"}}]
            said |= {"thread": {"type": "create"}, "system": [{"type": "text", "text": SYSTEM}], "tools": tools}
            fields = (*fields, (b"x-claude-code-session-id", self.rig.session.encode()))
        reply = self.post("/v1/messages", {**said, **more}, fields)
        if reply.status == 200:
            self.last = reply.json()["id"]
        return reply

    def post(self, path: str, content: Any, fields: tuple[Header, ...] = ()) -> Reply:
        with via_base_url(self.rig.proxy) as client:
            headers = ((b"content-type", b"application/json"), *CLAUDE, *fields)
            return client.request("POST", path, headers, json.dumps(content).encode())

    def touch(self, request_id: object, *fields: Header) -> Reply:
        return self.post(TOUCH, {"request_id": request_id}, fields)

    def wait_for_rest(self, seconds: float) -> None:
        """Let account a rest that long, as another session learns."""
        self.rig.script("a", limited_for(seconds))
        content = {"model": "claude-opus-4-8", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
        assert self.post("/v1/messages", content, ((b"x-claude-code-session-id", b"another"),)).status == 200
        self.rig.wait_for_reason("a", "5h window spent")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    agents: Path = tmp_path_factory.mktemp("agents") / "agents.yaml"
    agents.write_text(f"reviewer:\n  prompt: {json.dumps(PROMPT)}\n  model: claude-haiku-4-5\n")
    options: dict[str, Any] = {"ccflare_hold_seconds": HOLD, "ccflare_agents": agents, "ccflare_open_loopback": True}
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig:
        yield rig


@pytest.fixture
def talk(bench: Rig) -> Talk:
    return Talk(bench)


def row_of(talk: Talk, message_id: str) -> dict[str, Any]:
    sql = "SELECT * FROM requests WHERE message_id = ?"
    (row,) = talk.rig.proxy.rows(sql, (message_id,), until=lambda rows: rows and rows[0]["outcome"])
    return row


def test_a_thread_goes_on_with_its_account_whatever_goes_first(talk: Talk) -> None:
    talk.say("one")
    talk.rig.change("a", priority=9)
    eventually(lambda: talk.rig.health()["a"]["priority"], lambda priority: priority == 9)

    assert talk.say("two").status == 200

    assert talk.rig.asked == ["a", "a"]


def test_a_continuation_waits_for_its_account(talk: Talk) -> None:
    talk.say("one")
    talk.wait_for_rest(2.5)
    before = len(talk.rig.requests)

    assert talk.say("two").status == 200

    assert talk.rig.asked[before:] == ["a"]


def test_a_continuation_is_repeated_on_its_account_once_that_has_rested(talk: Talk) -> None:
    talk.say("one")
    talk.rig.script("a", limited_for(1))

    assert talk.say("two").status == 200
    assert talk.rig.asked == ["a", "a", "a"]


def test_a_continuation_goes_to_the_next_one_unchanged_and_its_refusal_is_the_clients(talk: Talk) -> None:
    """The client then sends everything, and nobody rests for what the next account does not know."""
    talk.say("one")
    talk.wait_for_rest(60)
    before = len(talk.rig.requests)

    refused = talk.say("two")

    assert refused.status == 404
    assert refused.json()["error"]["details"] == {"error_code": "thread_not_found"}
    (sent,) = talk.rig.requests[before:]
    assert sent.json()["thread"] == {"type": "continue", "previous_message_id": talk.last}
    assert talk.say("one, and two", goes_on=False).status == 200
    assert talk.say("three").status == 200
    assert talk.rig.asked[before:] == ["b", "b", "b"]
    assert talk.rig.health()["b"]["reason"] == "serving"


def test_what_upstream_has_forgotten_is_tried_nowhere_else(talk: Talk) -> None:
    talk.say("one")
    talk.a.threads.clear()

    assert talk.say("two").status == 404
    assert talk.rig.asked == ["a", "a"]
    assert [each["reason"] for each in talk.rig.health().values()] == ["serving", "serving"]


def test_what_only_the_first_part_says_is_kept_of_all_and_no_model_is_replaced(talk: Talk) -> None:
    """A thread cannot go on under another model, so the agent's takes no place in it."""
    parts = []
    for text in ("Look at it.", "And at the rest.", "Thanks."):
        assert talk.say(text).status == 200
        parts.append(talk.last)

    rows = [row_of(talk, message_id) for message_id in parts]

    assert {request.json()["model"] for request in talk.rig.requests} == {"claude-opus-4-8"}
    assert [row["previous_message_id"] for row in rows] == [None, *parts[:2]]
    for row in rows:
        assert (row["session_id"], row["project"], row["working_directory"], row["agent"]) == (
            *(talk.rig.session, "shop", "/srv/shop", "reviewer"),
        )
        assert row["original_model"] is None


def test_show_and_search_join_the_parts(talk: Talk) -> None:
    ids = []
    for text in ("Look at the marmot.", "And at the heron.", "Thanks, and goodbye."):
        talk.say(text)
        ids.append(row_of(talk, talk.last)["id"])

    text = talk.rig.proxy.run_script("show.py", ids[2], "--full")
    shown = json.loads(talk.rig.proxy.run_script("show.py", ids[2], "--format", "json"))
    hits = json.loads(
        talk.rig.proxy.run_script("search.py", "heron", "--session", talk.rig.session, "--format", "json")
    )

    said = [
        "Look at the marmot.",
        "a has answered 0.",
        "And at the heron.",
        "a has answered 1.",
        "Thanks, and goodbye.",
    ]
    places = [text.index(each) for each in said]
    assert places == sorted(places)
    assert "── tools\n[1 tool, " in text
    assert shown["thread"] == ids[:2]
    assert [turn["role"] for turn in shown["turns"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert [(hit["request_id"], hit["thread"], hit["session_id"]) for hit in hits] == [
        (ids[1], ids[0], talk.rig.session)
    ]


# --- the prompt's cache -----------------------------------------------------------------------------------------------


def answered(talk: Talk) -> str:
    """The id of a request that account a has answered."""
    reply = talk.say("one", goes_on=False)
    return reply.header("request-id") or ""


def test_a_touch_goes_to_the_account_that_has_answered_and_is_no_inference(talk: Talk) -> None:
    request_id = answered(talk)
    talk.wait_for_rest(60)
    before = len(talk.rig.requests)

    reply = talk.touch(request_id)

    assert (reply.status, reply.header("anthropic-cache-keepalive")) == (200, "active")
    (sent,) = talk.rig.requests[before:]
    assert (sent.credential, sent.json()) == (talk.rig.secret("a"), {"request_id": request_id})
    sql = "SELECT * FROM requests WHERE path = ? AND account_name = ? AND outcome = 'ok'"
    (row,) = talk.rig.proxy.rows(sql, (TOUCH, talk.rig.name("a")), until=bool)
    assert (row["cost_usd"], row["total_tokens"], row["counted_tokens"]) == (None, None, None)
    views = json.loads(talk.rig.proxy.run_script("stats.py", "requests", "--format", "json", "--limit", "500"))
    assert TOUCH not in {each["path"] for each in views}


@pytest.mark.parametrize("request_id", ["req_nobody_knows", "", None, 7, {"id": "x"}])
def test_a_touch_of_what_nobody_knows_is_not_sent(talk: Talk, request_id: object) -> None:
    answered(talk)
    before = len(talk.rig.requests)

    reply = talk.touch(request_id)

    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found_error")
    assert reply.header("x-should-retry") == "false"
    assert talk.rig.requests[before:] == []


def test_a_touch_is_not_asked_of_another_account(talk: Talk) -> None:
    request_id = answered(talk)
    talk.a.prompts.clear()

    assert talk.touch(request_id).status == 404
    talk.rig.change("a", paused=True)
    talk.rig.wait_for_reason("a", "paused")
    reply = talk.touch(request_id)

    assert reply.status == 503
    assert f"This request names {request_id}" in reply.json()["error"]["message"]
    assert talk.rig.asked == ["a", "a"]


def test_a_failing_touch_is_left_at_that(talk: Talk) -> None:
    request_id = answered(talk)
    talk.rig.script("a", json_answer({"type": "error", "error": {"type": "api_error", "message": "No."}}, 500))

    assert talk.touch(request_id).status == 500
    assert talk.rig.asked == ["a", "a"]


def test_a_key_touches_and_goes_on_with_what_its_own_requests_have_made(talk: Talk) -> None:
    keys = [talk.rig.proxy.add_client_key(f"k-{n}-{time.time_ns()}") for n in (1, 2)]
    wait_for_key(talk.rig.proxy, keys[1])
    one, two = ((b"x-api-key", key.encode()) for key in keys)
    made = talk.say("one", goes_on=False, fields=(one,))
    request_id, sent = made.header("request-id"), len(talk.rig.requests)

    assert talk.touch(request_id, two).status == 404
    refused = talk.say("two", fields=(two,))
    assert (refused.status, refused.json()["error"]["details"]["error_code"]) == (404, "thread_not_found")
    assert talk.rig.requests[sent:] == []

    assert talk.touch(request_id, one).status == 200
    assert talk.say("two", fields=(one,)).status == 200


def test_without_accounts_a_touch_passes_with_the_clients_own_credential(bench: Rig) -> None:
    bench.fresh()
    bench.upstream.answer(json_answer({"type": "cache_touch"}), path=TOUCH)
    own = (b"x-api-key", b"sk-ant-api03-the-clients-own")
    with via_base_url(bench.proxy) as client:
        reply = client.request("POST", TOUCH, (own,), b'{"request_id":"req_1"}')

    assert reply.status == 200
    assert bench.upstream.requests[-1].credential == "sk-ant-api03-the-clients-own"
