"""`scripts/show.py` on what a real proxy has recorded."""

import json
import re
import shlex
import time
from collections.abc import Iterator

import pytest

from ccflare_core.transcripts.recorded import why_no_body
from corpus import COUNTS, stream
from fake_upstream import FakeUpstream, Header, limited_5h, sse, sse_answer, stall_before_head
from harness import CLIENT_CREDENTIAL, RawClient, claude_request
from rig import Rig


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


@pytest.fixture
def shown(rig: Rig, client: RawClient) -> tuple[Rig, bytes]:
    """A request that has moved to another account and got a stream with a tool call; its body."""
    rig.script("a", limited_5h(time.time() + 3600))
    rig.script("b", sse_answer(*stream(COUNTS[0], "tool")))
    request = claude_request(6000, session=rig.session)
    client.request(*request)
    rig.row()
    return rig, request.body


def show(rig: Rig, *arguments: str) -> str:
    return rig.proxy.run_script("show.py", "last", "--session", rig.session, *arguments)


def test_the_conversation_is_readable(shown: tuple[Rig, bytes]) -> None:
    text = show(shown[0])

    assert "── user (the question)\nSay hello.\n" in text
    assert "── assistant (the answer)\nI look.\n\n[tool_use Bash toolu_01]\ncommand: echo " in text
    assert "── tools\n[8 tools, 1.2 kB: Bash, Edit, " in text
    assert "window_spent" in text
    assert "ok: ok" not in text
    assert "12 in, 310 out" in text
    assert "POST /v1/messages by 127.0.0.1 (claude-cli/" in text


def test_the_system_text_is_a_line_unless_all_is_asked_for(shown: tuple[Rig, bytes]) -> None:
    rig, body = shown
    (*_, system) = json.loads(body)["system"]

    text, all_of_it = show(rig), show(rig, "--all")

    assert system["text"] not in text
    assert f"kB, cache_control 5m: {system['text'][:40]}" in text
    assert text.endswith("\n… --full shows all turns, --all also what is a line here.\n")
    assert system["text"] in all_of_it
    assert "--full" not in all_of_it


def test_what_the_prompt_is_made_of_is_told_by_the_stats(shown: tuple[Rig, bytes]) -> None:
    rig, body = shown
    asked = ("advise", "--session", rig.session, "--format", "json")

    found = json.loads(rig.proxy.run_script("stats.py", *asked))

    parts = {part["part"]: part["share"] for part in found["parts"]}
    assert found["session"]["tokens"] == found["session"]["input_tokens"] == 12
    assert parts["system"] == pytest.approx(len(json.dumps(json.loads(body)["system"])) / len(body), abs=0.1)
    assert sum(parts.values()) == pytest.approx(1, abs=0.001)
    assert {"system", "tools", "user_text"} <= parts.keys()


def test_an_only_attempt_is_shown(rig: Rig, client: RawClient) -> None:
    client.request(*claude_request(3000, session=rig.session))
    rig.row()
    assert re.search(r"^Attempts\n.*\n.*\n +1 .* 200  ok ", show(rig), re.MULTILINE)


def test_the_last_is_the_last_conversation(shown: tuple[Rig, bytes], client: RawClient) -> None:
    """Not what Claude Code asks for itself in between."""
    rig, _ = shown
    chore = (b"x-claude-code-request-class", b"title")
    client.request(*claude_request(3000, session=rig.session, extra=(chore,)))
    client.request(*claude_request(3000, session=rig.session, target="/v1/messages/count_tokens"))
    rig.rows(3)

    found = json.loads(show(rig, "--format", "json"))

    assert (found["path"], found["request_class"], found["stop_reason"]) == ("/v1/messages", "main", "tool_use")


def test_the_last_is_nothing_that_a_refused_method_asked_for(rig: Rig, client: RawClient) -> None:
    client.request(*claude_request(3000, session=rig.session))
    rig.row()
    assert client.request("DELETE", "/v1/messages", (CLIENT_CREDENTIAL,)).status == 405
    rig.proxy.rows("SELECT id FROM requests WHERE method = 'DELETE'", until=bool)

    assert json.loads(rig.proxy.run_script("show.py", "last", "--format", "json"))["method"] == "POST"


def test_an_unknown_session_is_told(rig: Rig) -> None:
    with pytest.raises(AssertionError, match="There is no such session"):
        show(rig)


def test_a_subagents_request_shows_its_place_among_the_sessions_agents(rig: Rig, client: RawClient) -> None:
    agents: tuple[tuple[Header, ...], ...] = (
        (),
        ((b"x-claude-code-agent-id", b"a1"),),
        ((b"x-claude-code-agent-id", b"a2"), (b"x-claude-code-parent-agent-id", b"a1")),
    )
    for number, extra in enumerate(agents, 1):
        client.request(*claude_request(6000, session=rig.session, extra=extra))
        rig.rows(number)

    lines = [line.split() for line in show(rig).splitlines()]

    assert ["Agent", "a2", "(started", "by", "a1)"] in lines
    assert ["Class", "subagent"] in lines
    names = [next((word for word in line if word in ("(main)", "a1", "a2")), None) for line in lines]
    tree = names[names.index("(main)") :]
    assert tree[:3] == ["(main)", "a1", "a2"]


def test_what_other_models_took_for_an_answer_stands_below_it(rig: Rig, client: RawClient) -> None:
    advice = {"type": "advisor_message", "model": "claude-fable-5-2", "input_tokens": 50_000, "output_tokens": 1500}
    searched = {"web_search_requests": 2, "web_fetch_requests": 1}
    rig.script("a", sse(["Hi."], iterations=[advice], server_tool_use=searched))
    client.request(*claude_request(6000, session=rig.session))
    rig.row()

    text = show(rig)

    assert "Within this answer" in text
    assert "fable-5-2  advisor message      1  50,000" in text
    assert "standard, 2 web searches, 1 web fetch\n" in text
    found = json.loads(show(rig, "--format", "json"))
    assert [part["cost_usd"] for part in found["within_request"]] == [0.46]


def test_what_a_budget_counts_for_an_answer_that_was_left_is_told(rig: Rig) -> None:
    rig.script("a", stall_before_head(60))
    with rig.client() as client:
        rig.send(client)
        rig.wait_for(1)
    rig.row()

    lines = [line.split() for line in show(rig).splitlines()]

    assert ["Cost", "–"] in lines
    (budget,) = [line for line in lines if line[:1] == ["Budget"]]
    assert (budget[1], budget[2], budget[-1]) == ("~1,000", "tokens,", "(estimated)")


def test_the_exact_bytes_come_back(shown: tuple[Rig, bytes]) -> None:
    rig, body = shown

    assert show(rig, "--raw", "request").encode() == body
    assert show(rig, "--raw", "response").encode() == b"".join(stream(COUNTS[0], "tool"))


def test_r38_who_reads_a_body_is_in_the_audit_log(shown: tuple[Rig, bytes]) -> None:
    rig, _ = shown
    show(rig, "--raw", "request")
    [row] = rig.proxy.rows("SELECT * FROM audit_log WHERE action = 'data.read' ORDER BY id DESC LIMIT 1")
    assert (row["target"], row["detail"]) == (rig.row()["id"], '{"part":"request"}')
    assert row["actor"].startswith("cli:")


def test_for_programs_it_is_json(shown: tuple[Rig, bytes]) -> None:
    found = json.loads(show(shown[0], "--format", "json"))

    assert found["answer"][0]["parts"][0] == {
        "kind": "text",
        "text": "I look.",
        "name": "",
        "id": "",
        "is_error": False,
        "about": "",
        "cached": "",
    }
    assert [attempt["verdict"] for attempt in found["attempts_made"]] == ["window_spent", "ok"]


def test_the_command_sends_the_same_body_with_the_readers_own_key(shown: tuple[Rig, bytes]) -> None:
    rig, body = shown
    command = show(rig, "--curl")

    first, second = command.split("|\n")
    words = shlex.split(second)
    assert words[:6] == [
        "curl",
        "--silent",
        "--show-error",
        "--request",
        "POST",
        "https://api.anthropic.com/v1/messages?beta=true",
    ]
    sent = dict(word.split(": ", 1) for word in words if ": " in word)
    asked = {name.decode().lower(): value.decode() for name, value in claude_request().headers}
    assert sent["anthropic-version"] == asked["anthropic-version"]
    assert sent["anthropic-beta"] == asked["anthropic-beta"]
    assert words[-4:] == ["--header", "x-api-key: $ANTHROPIC_API_KEY", "--data-binary", "@-"]
    assert rig.proxy.run_script(*shlex.split(first.replace("scripts/", ""))).encode() == body
    assert not [
        secret for secret in (rig.secret("a"), rig.secret("b"), CLIENT_CREDENTIAL[1].decode()) if secret in command
    ]


def test_what_is_not_there_is_said(rig: Rig) -> None:
    with pytest.raises(AssertionError, match="no such request"):
        rig.proxy.run_script("show.py", "req_ffff")


@pytest.mark.parametrize(
    ("statuses", "told"),
    [([], "no account has answered"), ([None, None], "no account has answered"), ([None, 200], "deleted by now")],
)
def test_why_no_body_is_kept_is_told(statuses: list[int | None], told: str) -> None:
    assert told in why_no_body([{"status_code": status} for status in statuses])
