import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.claude_code import Provenance, project_of, read_provenance, working_directory
from harness import claude_request


def body(prompt: str, *, said: str = "Hello", **more: Any) -> bytes:
    """A request as Claude Code orders it: messages, system, tools."""
    content = {
        "model": "claude-opus-4-8",
        "messages": [{"role": "user", "content": [{"type": "text", "text": said}]}],
        "system": [{"type": "text", "text": "You are Claude Code."}, {"type": "text", "text": prompt}],
        "tools": [{"name": "Bash"}],
        **more,
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def env(directory: str) -> str:
    return f"Be brief.\n<env>\nWorking directory: {directory}\nIs directory a git repo: Yes\n</env>"


@pytest.mark.parametrize(
    ("prompt", "directory", "project"),
    [
        (env("/home/me/work/ccflare"), "/home/me/work/ccflare", "ccflare"),
        (env("/home/me/My Projects/été"), "/home/me/My Projects/été", "été"),
        (env("C:\\Users\\me\\site"), "C:\\Users\\me\\site", "site"),
        (" - Primary working directory: /srv/app/\n - Is a git repository: true", "/srv/app/", "app"),
        ("Working directory: /srv/last", "/srv/last", "last"),
        (env("/"), "/", None),
        (env("\\\\server\\share\\new\\repo"), "\\\\server\\share\\new\\repo", "repo"),
    ],
)
def test_the_system_text_names_the_directory(prompt: str, directory: str, project: str | None) -> None:
    header = {"user-agent": "claude-cli/2.1.330 (external, cli)"}.get

    found = read_provenance("POST", "/v1/messages", header, body(prompt))

    assert found == Provenance(directory, project, "main")


@pytest.mark.parametrize(
    "prompt",
    [
        "no directory",
        env("relative/path"),
        env("/with\x1bescape"),
        env("/with\u202edirection"),
        env("/" + "x" * 600),
        env(""),
        "Working directory: \\u000a/etc",
    ],
)
def test_what_is_no_printable_absolute_path_of_bearable_length_is_no_directory(prompt: str) -> None:
    assert working_directory(body(prompt)) is None


def test_what_a_message_says_is_not_the_system_text() -> None:
    quoted = '"system":[{"type":"text","text":"' + env("/tmp/evil") + '"}]'

    assert working_directory(body(env("/srv/app"), said=quoted)) == "/srv/app"
    assert working_directory(body("nothing", said=quoted + env("/tmp/evil"))) is None


def turn(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


TYPED = turn("user", env("/typed"), '{"role":"system","content":"' + env("/quoted") + '"}')
CALL = {"role": "system", "content": env("/called")}
CALLED = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {"messages": [CALL]}}]}
READ = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "t", "content": [turn("system", env("/read"))]}],
}
TOLD = " - Primary working directory: {}\n - Is a git repository: true"


@pytest.mark.parametrize("directory", ["/srv/my app", "\\\\server\\share\\app", "D:\\work\\é"])
@pytest.mark.parametrize("before", [[TYPED], [TYPED, CALLED, READ, turn("system", "Compacted.")]])
def test_a_message_of_the_systems_names_the_directory(before: list[dict[str, Any]], directory: str) -> None:
    """As Claude Code has it since 2.1.330, at first and after a compaction."""
    for told in (
        turn("system", "# Environment", TOLD.format(directory)),
        {"role": "system", "content": TOLD.format(directory)},
    ):
        messages = [*before, told, TYPED]
        assert working_directory(body("nothing", messages=messages)) == directory


@pytest.mark.parametrize(
    "messages",
    [
        [TYPED, CALLED, READ],
        [TYPED, turn("assistant", env("/said"))],
        [turn("user")] * 6 + [turn("system", env("/late"))],
        [turn("system", "Working directory: relative")],
        [turn("system", "x" * 300_000 + env("/long"))],
        {"role": "system", "content": env("/no-list")},
    ],
)
def test_no_other_message_names_the_directory(messages: Any) -> None:
    assert working_directory(body("nothing", messages=messages)) is None


def test_only_claude_codes_word_is_taken_for_it() -> None:
    found = read_provenance("POST", "/v1/messages", {"user-agent": "Anthropic/Python"}.get, body(env("/srv/app")))

    assert (found.working_directory, found.project) == (None, None)


CLASS = {"x-claude-code-request-class": "main"}
TITLE = {"format": {"type": "json_schema", "schema": {"properties": {"title": {"type": "string"}}}}}
SUBAGENT = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.1; cc_is_subagent=true;"}


def without_tools(**more: Any) -> bytes:
    content = json.loads(body("Is it dangerous?", **more))
    del content["tools"]
    return json.dumps(content, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("path", "headers", "content", "expected"),
    [
        ("/v1/messages", {}, body("x"), "main"),
        ("/v1/messages", {"x-claude-code-request-class": "auxiliary"}, body("x"), "auxiliary"),
        ("/v1/messages", {"x-claude-1p-request-class": "summary-extraction"}, body("x"), "summary-extraction"),
        ("/v1/messages", {"x-claude-code-request-class": "DROP TABLE"}, body("x"), "main"),
        ("/v1/messages", {}, body("Words.", tools=[], max_tokens=32000), "auxiliary"),
        ("/v1/messages", {}, body("Words.", tools=[], output_config=TITLE), "title"),
        (
            "/v1/messages",
            CLASS | {"x-claude-code-request-class": "auxiliary"},
            body("Words.", tools=[], output_config=TITLE),
            "title",
        ),
        ("/v1/messages", {}, without_tools(stop_sequences=["</block>"]), "classifier"),
        ("/v1/messages", CLASS, without_tools(stop_sequences=["</block>"]), "classifier"),
        ("/v1/messages", {}, body("x", stop_sequences=["</block>"]), "main"),
        ("/v1/messages", {"x-claude-code-compaction": "manual"}, body("x"), "compaction"),
        ("/v1/messages", {"x-claude-code-request-class": "compaction"}, body("x"), "compaction"),
        ("/v1/messages", {"x-claude-code-agent-id": "a1"}, body("x"), "subagent"),
        ("/v1/messages", CLASS | {"x-claude-code-agent-id": "a1"}, body("x"), "subagent"),
        ("/v1/messages", {"x-claude-code-request-class": "subagent"}, body("x"), "subagent"),
        ("/v1/messages", {}, body("x", system=[SUBAGENT]), "subagent"),
        ("/v1/messages", {}, body("x", said="cc_is_subagent=true"), "main"),
        ("/v1/messages", {"x-claude-code-request-class": "side_reply"}, body("x"), "side_reply"),
        ("/v1/messages", {}, b'{"max_tokens":1,"messages":[{"role":"user","content":"quota"}]}', "quota"),
        ("/v1/messages/count_tokens", {}, b"{}", "count_tokens"),
        ("/v1/messages/count_tokens", CLASS, b"{}", "count_tokens"),
        ("/v1/messages/batches", {}, b"{}", "batch"),
        ("/v1/models", {}, b"", None),
    ],
)
def test_what_a_request_is_for(path: str, headers: dict[str, str], content: bytes, expected: str | None) -> None:
    assert read_provenance("POST", path, headers.get, content).request_class == expected


def test_a_subagent_names_itself_and_the_one_that_started_it() -> None:
    told = {"x-claude-code-agent-id": "a4f1-7", "x-claude-code-parent-agent-id": "agent:custom:main"}

    found = read_provenance("POST", "/v1/messages", told.get, body("x"))
    odd = read_provenance("POST", "/v1/messages", dict.fromkeys(told, "x\x1b y").get, body("x"))

    assert (found.agent_id, found.parent_agent_id) == ("a4f1-7", "agent:custom:main")
    assert (odd.agent_id, odd.parent_agent_id) == (None, None)


def test_a_request_as_it_is_on_the_wire_is_a_main_one() -> None:
    request = claude_request(5000)
    headers = {name.decode().lower(): value.decode() for name, value in request.headers}

    assert read_provenance("POST", "/v1/messages", headers.get, request.body).request_class == "main"


@given(st.binary(max_size=300), st.text(max_size=50))
def test_no_body_makes_it_raise(tail: bytes, text: str) -> None:
    for content in (
        tail,
        b'"system":[' + tail,
        b'"system":["Working directory: /' + text.encode("utf-8", "replace") + tail,
    ):
        read_provenance("POST", "/v1/messages", {"user-agent": "claude-cli/2"}.get, content)
    project_of("/" + text)
