import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.blocks import Part
from ccflare_core.anthropic.conversation import Turn, read_answer, read_request
from corpus import CONTENTS, COUNTS, ERROR, SSE, message, stream

JSON = "application/json"


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "claude-opus-4-8", "messages": [], **fields}).encode()


def said(content: object) -> tuple[Part, ...]:
    """The parts of a single message of the user."""
    (turn,) = read_request(request(messages=[{"role": "user", "content": content}])).turns
    return turn.parts


def test_a_request_is_its_system_text_and_its_turns() -> None:
    found = read_request(
        request(
            system=[{"type": "text", "text": "Be brief."}],
            messages=[
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
            ],
            tools=[{"name": "Bash"}, {"name": 1}, "x"],
        )
    )

    assert (found.model, found.tools) == ("claude-opus-4-8", ("Bash",))
    assert found.turns == (
        Turn("system", (Part("text", "Be brief."),)),
        Turn("user", (Part("text", "Hi"),)),
        Turn("assistant", (Part("text", "Yes?"),)),
    )


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "thinking", "thinking": "Hm.", "signature": "xx"}, Part("thinking", "Hm.")),
        ({"type": "redacted_thinking", "data": "xx"}, Part("redacted_thinking")),
        (
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            Part("tool_use", '{\n  "command": "ls"\n}', "Bash", "t1"),
        ),
        ({"type": "tool_result", "tool_use_id": "t1", "content": "a\nb"}, Part("tool_result", "a\nb", id="t1")),
        (
            {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": [{"type": "text", "text": "no"}]},
            Part("tool_result", "no", id="t1", is_error=True),
        ),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            Part("image", "[image/png, 3 bytes]", about="image/png, 3 bytes"),
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
            Part("image", "https://a.example/b.png", about="https://a.example/b.png"),
        ),
        (
            {"type": "document", "title": "T", "source": {"type": "text", "data": "All of it."}},
            Part("document", "T\nAll of it.", about="10 bytes, T"),
        ),
        (
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            Part("text", "x", cached="1h"),
        ),
        ({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, Part("text", "x", cached="5m")),
        ({"type": "novelty", "value": 7, "cache_control": {}}, Part("novelty", '{\n  "value": 7\n}')),
    ],
)
def test_each_kind_of_block(block: dict[str, Any], part: Part) -> None:
    assert said([block]) == (part,)


@pytest.mark.parametrize("content", [None, 1, {}, [], [1, None, "x"], ""])
def test_what_is_no_content_is_nothing(content: object) -> None:
    assert said(content) == ()


def test_a_stream_is_put_together() -> None:
    (turn,) = read_answer(b"".join(stream(COUNTS[0], "tool")), SSE)

    assert turn.role == "assistant"
    assert [part.kind for part in turn.parts] == ["text", "tool_use", "tool_use"]
    assert turn.parts[0].text == "I look."
    assert json.loads(turn.parts[1].text) == {"command": 'echo "usage": {"output_tokens": 7}'}


def test_thinking_and_searches_are_there() -> None:
    (thinking,) = read_answer(b"".join(stream(COUNTS[0], "thinking")), SSE)
    (search,) = read_answer(b"".join(stream(COUNTS[0], "web-search")), SSE)

    assert thinking.parts[:1] == (Part("thinking", "The user wants 99 tokens."),)
    assert [part.kind for part in search.parts] == ["server_tool_use", "web_search_tool_result", "text"]


def test_a_cut_stream_gives_what_had_come() -> None:
    events = stream(COUNTS[0], "tool")

    (turn,) = read_answer(b"".join(events[:8]) + events[8][:30], SSE)

    assert turn.parts[-1].text.startswith('{"command": ')


def test_a_cut_document_gives_what_had_come() -> None:
    asked = request(messages=[{"role": "user", "content": "A long question"}])
    answer = json.dumps(message(COUNTS[0])).encode()

    (turn,) = read_request(asked[: asked.index(b"question")]).turns
    (told,) = read_answer(answer[: answer.index(b"Hello") + 4], JSON)

    assert turn == Turn("user", (Part("text", "A long "),))
    assert told == Turn("assistant", (Part("text", "Hell"),))


def test_an_error_in_the_stream_is_a_turn_of_its_own() -> None:
    turns = read_answer(b"".join(stream(COUNTS[0], "text")[:4]) + ERROR, SSE)

    assert turns == (
        Turn("assistant", (Part("text", "Hello"),)),
        Turn("error", (Part("text", "overloaded_error: Overloaded"),)),
    )


def test_answers_that_are_not_streamed() -> None:
    body = json.dumps(message(COUNTS[0])).encode()
    error = b'{"type":"error","error":{"type":"invalid_request_error","message":"No."}}'

    assert read_answer(gzip.compress(body), JSON, "gzip") == (Turn("assistant", (Part("text", "Hello."),)),)
    assert read_answer(error, JSON) == (Turn("error", (Part("text", "invalid_request_error: No."),)),)
    assert read_answer(b"<html>", "text/html") == ()


@pytest.mark.parametrize("content", CONTENTS)
def test_every_answer_of_the_corpus_can_be_shown(content: str) -> None:
    turns = read_answer(b"".join(stream(COUNTS[0], content)), SSE)

    assert len(turns) == (0 if content == "nothing" else 1)


JSONS = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(),
    lambda each: (
        st.lists(each)
        | st.dictionaries(st.sampled_from(["type", "text", "content", "name", "role", "source", "input"]), each)
    ),
)


@given(JSONS, JSONS, st.binary(max_size=200))
def test_nothing_makes_it_raise(one: Any, other: Any, junk: bytes) -> None:
    read_request(request(system=one, messages=[{"role": one, "content": other}], tools=other))
    read_request(json.dumps(one).encode())
    read_request(junk, "gzip")
    read_answer(json.dumps({"content": one, "error": other}).encode(), JSON)
    events = [
        {"type": "content_block_start", "index": 0, "content_block": one},
        {"type": "content_block_delta", "index": 0, "delta": other},
    ]
    read_answer(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events) + junk, SSE)


CITED = {"type": "char_location", "cited_text": "It rains.", "document_title": "Weather", "document_index": 0}
FOUND = {"type": "web_search_result", "title": "Rain", "url": "https://a.example", "encrypted_content": "xx"}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "text", "text": "Rain.", "citations": [CITED]}, ("Rain.\n[cited from Weather: It rains.]", "")),
        ({"type": "web_search_tool_result", "content": [FOUND, FOUND]}, ("Rain\nhttps://a.example\n" * 2, "")),
        (
            {
                "type": "web_fetch_tool_result",
                "content": {
                    "type": "web_fetch_result",
                    "url": "https://a.example",
                    "content": {"type": "document", "title": "T", "source": {"type": "text", "data": "All."}},
                },
            },
            ("https://a.example\nT\nAll.", ""),
        ),
        (
            {"type": "search_result", "title": "T", "source": "s", "content": [{"type": "text", "text": "x"}]},
            ("T\ns\nx", ""),
        ),
        (
            {
                "type": "bash_code_execution_tool_result",
                "content": {"type": "bash_code_execution_result", "stdout": "1", "stderr": "2", "return_code": 3},
            },
            ("1\n2\n[return code 3]", ""),
        ),
        (
            {
                "type": "tool_search_tool_result",
                "content": {
                    "type": "tool_search_tool_search_result",
                    "tool_references": [{"type": "tool_reference", "tool_name": "Bash"}],
                },
            },
            ("Bash", ""),
        ),
        (
            {"type": "document", "title": "T", "context": "C", "source": {"type": "file", "file_id": "file_1"}},
            ("T\nC\nfile_1", ""),
        ),
        (
            {"type": "mcp_tool_use", "server_name": "git", "name": "log", "input": {"n": 1}},
            ('{\n  "n": 1\n}', "git/log"),
        ),
        ({"type": "mcp_tool_listing", "mcp_server_name": "git", "tools": [{"name": "log"}]}, ("log", "git")),
        ({"type": "compaction", "content": "So far.", "encrypted_content": "xx"}, ("So far.", "")),
        ({"type": "advisor_tool_result", "content": {"type": "advisor_result", "text": "Do."}}, ("Do.", "")),
        ({"type": "container_upload", "file_id": "file_1"}, ('{\n  "file_id": "file_1"\n}', "")),
        (
            {"type": "web_search_tool_result", "content": {"type": "web_search_tool_result_error", "error_code": "x"}},
            ('{\n  "error_code": "x"\n}', ""),
        ),
    ],
)
def test_what_a_block_says_is_shown_and_what_is_encrypted_is_not(block: dict[str, Any], part: tuple[str, str]) -> None:
    (found,) = said([block])

    assert (found.text, found.name) == (part[0].rstrip("\n"), part[1])


def streamed(start: dict[str, Any], *deltas: dict[str, Any]) -> tuple[Part, ...]:
    events = [
        {"type": "content_block_start", "index": 0, "content_block": start},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
    ]
    (turn,) = read_answer(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events), SSE)
    return turn.parts


def test_a_stream_shows_citations_compaction_and_kinds_that_nobody_knows() -> None:
    cited = streamed(
        {"type": "text", "text": ""},
        {"type": "citations_delta", "citation": CITED},
        {"type": "text_delta", "text": "R"},
    )
    compacted = streamed({"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "So far."})
    new = streamed({"type": "text", "text": "a"}, {"type": "hologram_delta", "beam": 7})

    assert cited == (Part("text", "R\n[cited from Weather: It rains.]"),)
    assert compacted == (Part("compaction", "So far."),)
    assert new == (Part("text", "a"), Part("hologram_delta", '{\n  "beam": 7\n}'))


def test_no_nesting_makes_it_raise() -> None:
    content: Any = "deep"
    for _ in range(400):
        content = [{"type": "tool_result", "content": content}]

    assert said(content)[0].kind == "tool_result"
