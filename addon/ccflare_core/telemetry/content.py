"""What was said in an exchange, in the form that OpenTelemetry has for it: JSON texts of a bounded size. Pure.

Only for who asked for it. Secrets are blanked all the same, as in bodies that are recorded without them.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from ccflare_core.anthropic.blocks import Part
from ccflare_core.anthropic.conversation import Turn, read_answer, read_request
from ccflare_core.http.sse import parse_json
from ccflare_core.secrets.redact import text as without_secrets
from ccflare_core.telemetry.finished import Bodies

LIMIT: Final = 128 * 1024
"""Characters of one attribute. Receivers take a few MiB in one request, and a batch is many spans."""


def said(bodies: Bodies, stop_reason: str | None) -> dict[str, str]:
    """The attributes with the conversation: of a long one its end."""
    asked = read_request(bodies.request, bodies.request_encoding).turns
    answer = read_answer(bodies.answer, bodies.answer_type, bodies.answer_encoding)
    found = {
        "gen_ai.system_instructions": _fitting(
            [part for turn in asked if turn.role == "system" for part in turn.parts], _part
        ),
        "gen_ai.input.messages": _fitting([turn for turn in asked if turn.role != "system"], _message),
        "gen_ai.output.messages": _fitting(
            [turn for turn in answer if turn.role != "error"],
            lambda turn: _message(turn) | {"finish_reason": stop_reason or "unknown"},
        ),
    }
    return {name: text for name, text in found.items() if text}


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "parts": [_part(part) for part in turn.parts]}


def _part(part: Part) -> dict[str, Any]:
    told = without_secrets(part.text)
    if part.kind == "text":
        return {"type": "text", "content": told}
    if part.kind == "thinking":
        return {"type": "reasoning", "content": told}
    if part.kind.endswith("tool_use"):
        arguments = parse_json(told.encode(errors="replace"))
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": arguments or told}
    if part.kind.endswith("tool_result"):
        return {"type": "tool_call_response", "id": part.id, "response": told}
    return {"type": part.kind, "content": told or part.about}


def _fitting[T](items: Sequence[T], told: Callable[[T], dict[str, Any]]) -> str:
    """As many of the last ones as have room, as a JSON array; "" for none. What has no room is not even searched."""
    texts, room = list[str](), LIMIT
    for item in reversed(items):
        text = json.dumps(told(item), ensure_ascii=False)
        room -= len(text) + 2
        if room < 0:
            break
        texts.append(text)
    return f"[{', '.join(reversed(texts))}]" if texts else ""
