"""What was said, in OpenTelemetry's form: roles and parts, of a bounded size, and never a secret."""

import json
from typing import Any

from ccflare_core.telemetry.content import LIMIT, said
from ccflare_core.telemetry.finished import Bodies

ANSWER = b'{"type":"message","role":"assistant","content":[{"type":"text","text":"Hi"}]}'


def told(request: dict[str, Any], answer: bytes = ANSWER, stop: str | None = "end_turn") -> dict[str, Any]:
    bodies = Bodies(json.dumps(request).encode(), "", answer, "application/json", "")
    return {name.removeprefix("gen_ai."): json.loads(text) for name, text in said(bodies, stop).items()}


def test_conversation_in_roles_and_parts() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a.py"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "print()"}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [thought, call]},
        {"role": "user", "content": [result]},
    ]

    found = told({"system": "Be brief.", "messages": messages})

    assert found == {
        "system_instructions": [{"type": "text", "content": "Be brief."}],
        "input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": "Hello"}]},
            {
                "role": "assistant",
                "parts": [
                    {"type": "reasoning", "content": "Hm."},
                    {"type": "tool_call", "id": "toolu_1", "name": "Read", "arguments": {"path": "a.py"}},
                ],
            },
            {"role": "user", "parts": [{"type": "tool_call_response", "id": "toolu_1", "response": "print()"}]},
        ],
        "output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "Hi"}], "finish_reason": "end_turn"}
        ],
    }


def test_long_conversation_is_told_by_its_end() -> None:
    messages = [{"role": "user", "content": f"{number} " + "x" * (LIMIT // 4)} for number in range(9)]

    found = told({"messages": messages})["input.messages"]

    assert [message["parts"][0]["content"].split()[0] for message in found] == ["6", "7", "8"]


def test_secret_in_a_conversation_is_blanked() -> None:
    secret = "sk-ant-api03-" + "x" * 95

    assert secret not in str(told({"messages": [{"role": "user", "content": f"My key: {secret}"}]}))


def test_bodies_that_are_no_conversation_say_nothing() -> None:
    assert said(Bodies(b"\xff\x00", "gzip", b"", "", ""), None) == {}
