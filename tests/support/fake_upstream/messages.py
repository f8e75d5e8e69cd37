"""Ready-made answers that succeed: messages, streamed or not, counts and lists of models."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fake_upstream.answer import Answer, Gate, Step, Wait
from fake_upstream.limit_headers import allowed_headers
from fake_upstream.request import Header

_ids = itertools.count(1)
STANDING: tuple[Header, ...] = (
    (b"Connection", b"keep-alive"),
    (b"Server", b"cloudflare"),
    (b"via", b"1.1 google"),
    (b"cf-cache-status", b"DYNAMIC"),
    (b"X-Robots-Tag", b"none"),
    (b"anthropic-organization-id", b"3f1c1f0e-0000-4000-8000-00000000cafe"),
    (b"anthropic-workspace-id", b"wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ"),
)


def new_id(prefix: str) -> str:
    return f"{prefix}_011CU{next(_ids):019d}"


def json_answer(content: object, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    """Any JSON, with a content-length."""
    return whole_answer(json.dumps(content, separators=(",", ":")).encode(), b"application/json", status, headers)


def whole_answer(body: bytes, content_type: bytes, status: int, headers: tuple[Header, ...]) -> Answer:
    own = ((b"Content-Type", content_type), (b"Content-Length", b"%d" % len(body)))
    return Answer(status, (*own, *STANDING, *headers), (body,))


def usage(
    input_tokens: int = 12,
    output_tokens: int = 10,
    *,
    cache_read: int = 0,
    cache_5m: int = 0,
    cache_1h: int = 0,
    **more: object,
) -> dict[str, object]:
    """A message's `usage` object; `more` is put in as it is."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": cache_5m + cache_1h,
        "cache_read_input_tokens": cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": cache_5m, "ephemeral_1h_input_tokens": cache_1h},
        "output_tokens": output_tokens,
        "service_tier": "standard",
        **more,
    }


def message_object(
    model: str, content: list[object], stop: str | None, used: Mapping[str, object]
) -> dict[str, object]:
    return {
        "model": model,
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": used,
    }


def event(content: Mapping[str, object]) -> bytes:
    """One server-sent event, named after its `type`."""
    return b"event: %s\ndata: %s\n\n" % (
        str(content["type"]).encode(),
        json.dumps(content, separators=(",", ":")).encode(),
    )


def _delta(text: str) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def stamp() -> bytes:
    """A delta whose text is `@<monotonic ns>@`: when it was sent, by a clock that other processes share."""
    return _delta(f"@{time.monotonic_ns()}@")


def sse(
    events: int | Sequence[str] = 5,
    *,
    model: str = "claude-opus-4-8",
    input_tokens: int = 12,
    output_tokens: int = 10,
    delay: float = 0.0,
    gate: Gate | None = None,
    gate_at: int = 1,
    headers: tuple[Header, ...] | None = None,
    stamped: bool = False,
    **counts: Any,
) -> Answer:
    """A streamed message of so many (or just these) text deltas, `delay` seconds before each.

    `gate` holds it when `gate_at` deltas were sent; 0 is after message_start, before any content. `counts` go
    to usage().
    """
    texts = [f"word {n} " for n in range(events)] if isinstance(events, int) else list(events)
    made = usage(input_tokens, 1, **counts)
    start = event({"type": "message_start", "message": message_object(model, [], None, made)})
    block = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    steps: list[Step] = [start, *([gate] if gate and gate_at == 0 else []), block, event({"type": "ping"})]
    for number, text in enumerate(texts, 1):
        steps += [Wait(delay)] if delay else []
        steps.append(stamp if stamped else _delta(text))
        steps += [gate] if gate and gate_at == number else []
    steps.append(event({"type": "content_block_stop", "index": 0}))
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    steps.append(event({"type": "message_delta", "delta": end, "usage": {**made, "output_tokens": output_tokens}}))
    steps.append(event({"type": "message_stop"}))
    return sse_answer(*steps, headers=headers)


def sse_tool(name: str, asked: Mapping[str, object], *, model: str = "claude-opus-4-8") -> Answer:
    """A streamed message that asks for one call of a tool."""
    used = usage()
    block = {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": {}}
    part = {"type": "input_json_delta", "partial_json": json.dumps(asked)}
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    return sse_answer(
        event({"type": "message_start", "message": message_object(model, [], None, used)}),
        event({"type": "content_block_start", "index": 0, "content_block": block}),
        event({"type": "content_block_delta", "index": 0, "delta": part}),
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": end, "usage": used}),
        event({"type": "message_stop"}),
    )


def sse_answer(*steps: Step, headers: tuple[Header, ...] | None = None) -> Answer:
    """A 200 event stream of just these steps, with allowed_headers() unless others are given."""
    own = ((b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache"))
    return Answer(200, (*own, *STANDING, *(allowed_headers() if headers is None else headers)), steps)


def message_json(
    text: str = "Hello.",
    *,
    model: str = "claude-opus-4-8",
    input_tokens: int = 12,
    output_tokens: int = 10,
    headers: tuple[Header, ...] | None = None,
    **counts: Any,
) -> Answer:
    """A message that was not asked to stream."""
    used = usage(input_tokens, output_tokens, **counts)
    content = message_object(model, [{"type": "text", "text": text}], "end_turn", used)
    return json_answer(content, headers=allowed_headers() if headers is None else headers)


def count_tokens(tokens: int = 2095) -> Answer:
    """What /v1/messages/count_tokens says."""
    return json_answer({"input_tokens": tokens}, headers=allowed_headers())


def models(*names: str) -> Answer:
    """What /v1/models says."""
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
    return json_answer({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})


def up_to(answer: Answer, deltas: int) -> tuple[Step, ...]:
    """The steps of a stream as far as so many deltas."""
    return answer.chunks[: 3 + deltas]  # message_start, content_block_start and ping come first
