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


def test_only_claude_codes_word_is_taken_for_it() -> None:
    found = read_provenance("POST", "/v1/messages", {"user-agent": "Anthropic/Python"}.get, body(env("/srv/app")))

    assert (found.working_directory, found.project) == (None, None)


@pytest.mark.parametrize(
    ("path", "headers", "content", "expected"),
    [
        ("/v1/messages", {}, body("x"), "main"),
        ("/v1/messages", {"x-claude-code-request-class": "auxiliary"}, body("x"), "auxiliary"),
        ("/v1/messages", {"x-claude-1p-request-class": "summary-extraction"}, body("x"), "summary-extraction"),
        ("/v1/messages", {"x-claude-code-request-class": "DROP TABLE"}, body("x"), "main"),
        ("/v1/messages", {}, body("title", tools=[], max_tokens=32000), "auxiliary"),
        ("/v1/messages", {}, b'{"max_tokens":1,"messages":[{"role":"user","content":"quota"}]}', "quota"),
        ("/v1/messages/count_tokens", {}, b"{}", "count_tokens"),
        ("/v1/messages/batches", {}, b"{}", "batch"),
        ("/v1/models", {}, b"", None),
    ],
)
def test_what_a_request_is_for(path: str, headers: dict[str, str], content: bytes, expected: str | None) -> None:
    assert read_provenance("POST", path, headers.get, content).request_class == expected


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
