"""The parts of a prompt by their sizes: what counts as what, and what is never measured by its length."""

import base64
import json
from typing import Any

import pytest

from ccflare_core.anthropic.conversation import read_answer
from ccflare_core.anthropic.prompt_parts import PAGE_TOKENS, PromptPart, sizes_of, sizes_of_answer
from ccflare_core.anthropic.prompt_size import IMAGE_TOKENS

TEXT = "a word " * 300
P = PromptPart


def sizes(*messages: dict[str, Any], **more: Any) -> dict[PromptPart, int]:
    return dict(sizes_of(json.dumps({"messages": messages, **more}).encode(), {}))


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": [*blocks]}


def text(text: str = TEXT) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_a_third_of_the_bytes_are_tokens() -> None:
    found = sizes({"role": "user", "content": TEXT})

    assert found == {P.USER_TEXT: pytest.approx(700, rel=0.05)}


def test_system_and_tools_are_parts_of_their_own() -> None:
    found = sizes({"role": "system", "content": TEXT}, system=[text()], tools=[{"name": "Read", "description": TEXT}])

    assert found == {P.SYSTEM: pytest.approx(1_400, rel=0.05), P.TOOLS: pytest.approx(700, rel=0.05)}


@pytest.mark.parametrize(
    ("message", "part"),
    [
        (user(text()), P.USER_TEXT),
        (said(text()), P.ANSWERS),
        (said({"type": "thinking", "thinking": TEXT, "signature": "s"}), P.THINKING),
        (said({"type": "redacted_thinking", "data": TEXT}), P.THINKING),
        (said({"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": TEXT}}), P.TOOL_CALLS),
        (said({"type": "server_tool_use", "id": "t1", "name": "web_search", "input": {"query": TEXT}}), P.TOOL_CALLS),
        (user({"type": "tool_result", "tool_use_id": "nobody's", "content": TEXT}), P.TOOL_RESULTS),
        (user({"type": "tool_result", "tool_use_id": "t1", "content": [text()]}), P.TOOL_RESULTS),
        (said({"type": "web_search_tool_result", "tool_use_id": "t1", "content": [text()]}), P.TOOL_RESULTS),
        (user({"type": "search_result", "content": [text()]}), P.TOOL_RESULTS),
        (user({"type": "document", "source": {"type": "text", "data": TEXT}}), P.FILES),
        (said({"type": "of the future", "what": TEXT}), P.ANSWERS),
    ],
)
def test_each_kind_of_block_has_its_part(message: dict[str, Any], part: PromptPart) -> None:
    assert sizes(message) == {part: pytest.approx(700, rel=0.1)}


def test_what_a_tool_has_read_from_a_file_is_a_file() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": TEXT}

    assert sizes(said(call), user(result))[P.FILES] == pytest.approx(700, rel=0.1)


PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)).decode()
PAGES = b"%PDF-1.7\n<</Type /Pages /Count 3>>" + b"<</Type /Page>>\n" * 3 + bytes(3_000_000)


def source(data: str, kind: str) -> dict[str, str]:
    return {"type": "base64", "media_type": kind, "data": data}


@pytest.mark.parametrize("is_result", [False, True])
@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        ({"type": "image", "source": source(PICTURE, "image/png")}, IMAGE_TOKENS),
        (
            {"type": "document", "source": source(base64.b64encode(PAGES).decode(), "application/pdf")},
            3 * PAGE_TOKENS,
        ),
        ({"type": "document", "source": source("no base64", "application/pdf")}, PAGE_TOKENS),
        (
            {"type": "document", "source": source(base64.b64encode(bytes(120_000)).decode(), "application/pdf")},
            3 * PAGE_TOKENS,
        ),
    ],
    ids=["image", "pages", "broken", "by its size"],
)
def test_what_is_in_base64_does_not_count_by_its_length(block: dict[str, Any], tokens: int, is_result: bool) -> None:
    """Also where a tool has read it."""
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    shown = {"type": "tool_result", "tool_use_id": "t1", "content": [block]} if is_result else block

    assert sizes(said(call), user(shown))[P.FILES] == pytest.approx(tokens, abs=50)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": 1, "system": 0}', b'{"messages": [1, {"content": [2]}]}']
)
def test_what_is_no_prompt_has_no_parts(body: bytes) -> None:
    assert sizes_of(body, {}) == {}


def test_an_answer_in_a_thread_gives_its_calls_their_names() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"file_path": TEXT}}
    answer = read_answer(json.dumps(said(text(), call)).encode(), "application/json")
    names: dict[str, str] = {}

    assert sizes_of_answer(answer, names) == {
        P.ANSWERS: pytest.approx(700, rel=0.1),
        P.TOOL_CALLS: pytest.approx(700, rel=0.1),
    }
    result = {"messages": [user({"type": "tool_result", "tool_use_id": "t1", "content": TEXT})]}
    assert [*sizes_of(json.dumps(result).encode(), names)] == [P.FILES]
