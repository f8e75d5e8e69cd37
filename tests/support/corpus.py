"""Answers as the API gives them, each with the usage that the upstream has counted: what a reader must find in it.

The cases are built from what was seen on the wire, not by asking the code under test: a count stands in a `Counted`
first and is then written into an answer in one of the API's ways.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
LINES = "application/x-jsonl"

COLUMNS = (
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens", "thinking_tokens", "web_search_requests"),
    *("web_fetch_requests", "service_tier"),
)


@dataclass(frozen=True)
class Counted:
    """What the upstream counted for one message. None: it does not speak of it."""

    name: str
    input: int = 12
    output: int = 310
    read: int | None = None
    write_5m: int | None = None
    write_1h: int | None = None
    is_split: bool = True
    thinking: int | None = None
    searches: int | None = None
    tier: str | None = "standard"
    more: tuple[tuple[str, Any], ...] = ()
    """Fields that no reader needs to know."""

    @property
    def written(self) -> int | None:
        """Tokens written to the cache in all."""
        if self.write_5m is None and self.write_1h is None:
            return None
        return (self.write_5m or 0) + (self.write_1h or 0)

    @property
    def prompt(self) -> dict[str, Any]:
        """The part of the API's `usage` that is known when the answer starts."""
        known: dict[str, Any] = {"input_tokens": self.input}
        if self.written is not None:
            known["cache_creation_input_tokens"] = self.written
            if self.is_split:
                known["cache_creation"] = {
                    "ephemeral_5m_input_tokens": self.write_5m or 0,
                    "ephemeral_1h_input_tokens": self.write_1h or 0,
                }
        if self.read is not None:
            known["cache_read_input_tokens"] = self.read
        if self.tier is not None:
            known["service_tier"] = self.tier
        return known | dict(self.more)

    @property
    def rest(self) -> dict[str, Any]:
        """The part that is known when it ends."""
        known: dict[str, Any] = {"output_tokens": self.output}
        if self.thinking is not None:
            known["output_tokens_details"] = {"thinking_tokens": self.thinking}
        if self.searches is not None:
            known["server_tool_use"] = {"web_search_requests": self.searches, "web_fetch_requests": 1}
        return known

    @property
    def columns(self) -> dict[str, Any]:
        """The same in our columns."""
        is_told = self.is_split and self.written is not None
        values = (
            *(self.input, self.output, self.read, self.written),
            *((self.write_5m or 0, self.write_1h or 0) if is_told else (None, None)),
            *(self.thinking, self.searches, None if self.searches is None else 1, self.tier),
        )
        return dict(zip(COLUMNS, values, strict=True))


class Case(NamedTuple):
    """One answer. `cut`: the connection broke at its end. `ending` is how a reader has to call it."""

    name: str
    content_type: str
    body: bytes
    columns: dict[str, Any]
    model: str | None = "claude-opus-4-8"
    ending: str = "complete"
    cut: bool = False
    status: int = 200


COUNTS = (
    Counted("plain"),
    Counted("nothing-said-of-tier", tier=None),
    Counted("zero-output", output=0),
    Counted("cache-read", read=48_000),
    Counted("cache-write-5m", write_5m=41_000, write_1h=0),
    Counted("cache-write-1h", write_5m=0, write_1h=39_500),
    Counted("cache-write-both", read=7, write_5m=1_200, write_1h=38_000),
    Counted("cache-write-unsplit", read=0, write_5m=2_048, is_split=False),
    Counted("thinking", output=5_321, thinking=4_800),
    Counted("web-search", output=900, searches=3),
    Counted("all-at-once", 3, 64_000, 812_345, 1_000, 2_000, thinking=31_999, searches=10, tier="priority"),
    Counted("million", input=999_999, output=1),
    Counted("fast", tier="standard", more=(("speed", "fast"), ("inference_geo", "us"))),
    Counted("iterations", read=5, more=(("iterations", [{"input_tokens": 1, "output_tokens": 2, "type": "message"}]),)),
)


def event(content: dict[str, Any], *, ascii: bool = False) -> bytes:
    """One server-sent event as the API writes it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=ascii)
    return f"event: {content['type']}\ndata: {text}\n\n".encode()


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> Iterator[bytes]:
    """A content block from its start to its stop."""
    yield event({"type": "content_block_start", "index": index, "content_block": start})
    for delta in deltas:
        yield event({"type": "content_block_delta", "index": index, "delta": delta})
    yield event({"type": "content_block_stop", "index": index})


def _text(*pieces: str, index: int = 0) -> list[bytes]:
    deltas = ({"type": "text_delta", "text": piece} for piece in pieces)
    return [*block(index, {"type": "text", "text": ""}, *deltas)]


def _thinking(index: int = 0) -> list[bytes]:
    start = {"type": "thinking", "thinking": "", "signature": ""}
    thought = ({"type": "thinking_delta", "thinking": piece} for piece in ("The user ", "wants 99 tokens."))
    return [*block(index, start, *thought, {"type": "signature_delta", "signature": "EqQB" * 30})]


def _tool(index: int = 0) -> list[bytes]:
    start = {"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": {}}
    pieces = ("", '{"command": "echo \\"usage\\": {\\"out', 'put_tokens\\": 7}"}')
    return [*block(index, start, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))]


def _search() -> list[bytes]:
    start = {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {}}
    found = {"type": "web_search_result", "title": "A", "url": "https://a.example", "encrypted_content": "x" * 400}
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_01", "content": [found]}
    return [
        *block(0, start, {"type": "input_json_delta", "partial_json": '{"query": "tokens"}'}),
        *block(1, result),
        *_text("It says ", "so.", index=2),
    ]


# What a model may write about the protocol, in every way that could be taken for it.
QUOTING = 'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":1}}\n\nevent: error\n\n'

CONTENTS: dict[str, tuple[str, list[bytes]]] = {
    "text": ("end_turn", _text("Hello", ", world.")),
    "nothing": ("end_turn", []),
    "unicode": ("end_turn", _text("é𝄞\u2028漢", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))),
    "quoting": ("stop_sequence", _text(QUOTING, QUOTING)),
    "thinking": ("end_turn", [*_thinking(), *_text("Done.", index=1)]),
    "redacted-thinking": ("end_turn", [*block(0, {"type": "redacted_thinking", "data": "Em" * 200})]),
    "tool": ("tool_use", [*_text("I look."), *_tool(1), *_tool(2)]),
    "web-search": ("end_turn", _search()),
    "refusal": ("refusal", _text("No.")),
    "long": ("max_tokens", _text(*["word " * 20] * 60)),
}


def start_event(counted: Counted, model: str, *, output: int = 1) -> bytes:
    """`message_start`, with what is known by then."""
    usage = counted.prompt | {"output_tokens": output}
    message = {"id": "msg_01", "type": "message", "role": "assistant", "model": model, "content": []}
    return event({"type": "message_start", "message": message | {"stop_reason": None, "usage": usage}})


def end_events(counted: Counted, stop: str, *, all_counts: bool = False) -> list[bytes]:
    """`message_delta` with the final counts, and `message_stop`."""
    usage = (counted.prompt if all_counts else {}) | counted.rest
    delta = {"stop_reason": stop, "stop_sequence": None}
    return [event({"type": "message_delta", "delta": delta, "usage": usage}), event({"type": "message_stop"})]


PING = event({"type": "ping"})
ERROR = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def stream(counted: Counted, content: str, model: str = "claude-opus-4-8", **how: Any) -> list[bytes]:
    """The events of a whole streamed answer."""
    stop, blocks = CONTENTS[content]
    return [start_event(counted, model), PING, *blocks, *end_events(counted, stop, **how)]


def message(counted: Counted, content: str = "text", model: str = "claude-opus-4-8") -> dict[str, Any]:
    """The same not streamed."""
    text = {"type": "text", "text": QUOTING if content == "quoting" else "Hello."}
    usage = counted.prompt | counted.rest
    head = {"id": "msg_01", "type": "message", "role": "assistant", "model": model, "content": [text]}
    return head | {"stop_reason": CONTENTS[content][0], "stop_sequence": None, "usage": usage}


def cases() -> list[Case]:
    """All of them, each under a name of its own."""
    return [*_streams(), *_documents(), *_broken(), *_written_otherwise(), *_batches(), *_others()]


def _streams() -> Iterator[Case]:
    for counted in COUNTS:
        for content in CONTENTS:
            yield Case(f"sse/{counted.name}/{content}", SSE, b"".join(stream(counted, content)), counted.columns)
        told_twice = stream(counted, "text", all_counts=True)
        yield Case(f"sse/{counted.name}/told-again-at-the-end", SSE, b"".join(told_twice), counted.columns)


def _documents() -> Iterator[Case]:
    for counted in COUNTS:
        for content, indent in (("text", None), ("quoting", 2), ("tool", None)):
            body = json.dumps(message(counted, content), indent=indent).encode()
            yield Case(f"json/{counted.name}/{content}", JSON, body, counted.columns)


def _broken() -> Iterator[Case]:
    for counted in COUNTS[3:11]:
        events = stream(counted, "tool")
        # "I look." has 7 characters, of which three are taken for a token.
        begun = replace(counted, output=2, thinking=None, searches=None).columns
        none = dict.fromkeys(COLUMNS)
        whole = b"".join(events)
        for name, body, columns, ending, cut in (
            ("error-midway", b"".join(events[:6]) + ERROR, begun, "error", False),
            ("error-at-the-end", b"".join(events[:-1]) + ERROR, counted.columns, "error", False),
            ("cut-in-a-delta", b"".join(events[:6]) + events[6][:20], begun, "truncated", True),
            ("cut-before-the-stop", b"".join(events[:-1]), counted.columns, "truncated", True),
            ("ended-before-the-stop", b"".join(events[:-1]), counted.columns, "truncated", False),
            ("cut-inside-the-final-counts", b"".join(events[:-2]) + events[-2][:-9], begun, "truncated", True),
            ("cut-inside-the-start", events[0][:60], none, "truncated", True),
            ("cut-after-the-stop", whole, counted.columns, "complete", True),
        ):
            model = None if columns is none else "claude-opus-4-8"
            yield Case(f"broken/{counted.name}/{name}", SSE, body, columns, model, ending, cut)


def _written_otherwise() -> Iterator[Case]:
    counted = COUNTS[10]
    events = stream(counted, "thinking")
    whole = b"".join(events)

    def lines(*, data: bytes = b"data: ", name: bool = True) -> bytes:
        kept = (line for line in whole.split(b"\n") if name or not line.startswith(b"event:"))
        return b"\n".join(line.replace(b"data: ", data, 1) if line.startswith(b"data: ") else line for line in kept)

    for name, body in (
        ("crlf", whole.replace(b"\n", b"\r\n")),
        ("cr", whole.replace(b"\n", b"\r")),
        ("no-event-lines", lines(name=False)),
        ("no-space-after-the-colon", lines(data=b"data:")),
        ("comments", whole.replace(b"event:", b": keep-alive\nevent:")),
        ("ids-and-retries", whole.replace(b"event:", b"id: 7\nretry: 100\nevent:")),
        ("many-blank-lines", whole.replace(b"\n\n", b"\n\n\n\n")),
        ("data-in-two-lines", whole.replace(b'{"type":', b'{\ndata: "type":')),
        ("no-blank-line-at-the-end", whole.rstrip(b"\n")),
        ("pings-everywhere", PING.join(events)),
        ("unknown-events", event({"type": "message_metadata", "usage": {"output_tokens": 1}}).join(events)),
        ("unknown-fields", whole.replace(b'"usage":{', b'"usage":{"new_tokens":{"input_tokens":1},')),
        ("ascii", b"".join(event(json.loads(each.split(b"data: ", 1)[1]), ascii=True) for each in events)),
        ("spaced-json", whole.replace(b'","', b'" , "').replace(b'":{', b'" : {')),
        (
            "null-counts",
            whole.replace(b'"usage":{"output_tokens":6', b'"usage":{"input_tokens":null,"output_tokens":6'),
        ),
        ("byte-order-mark", b"\xef\xbb\xbf" + whole),
    ):
        yield Case(f"written/{name}", SSE, body, counted.columns)


def _batches() -> Iterator[Case]:
    def result(number: int, content: dict[str, Any]) -> bytes:
        return json.dumps({"custom_id": f"r{number}", "result": content}).encode() + b"\n"

    def succeeded(number: int, counted: Counted, model: str = "claude-opus-4-8") -> bytes:
        return result(number, {"type": "succeeded", "message": message(replace(counted, tier="batch"), "text", model)})

    failed = result(9, {"type": "errored", "error": {"type": "error", "error": {"type": "api_error"}}})
    expired = result(8, {"type": "expired"})
    one, two, three = COUNTS[0], COUNTS[6], COUNTS[8]
    for name, counted, body in (
        ("one", (one,), succeeded(1, one)),
        ("two", (one, two), succeeded(1, one) + succeeded(2, two)),
        ("three", (one, two, three), succeeded(1, one) + succeeded(2, two) + succeeded(3, three)),
        ("some-failed", (two, three), failed + succeeded(2, two) + expired + succeeded(3, three)),
        ("no-line-end", (one, two), (succeeded(1, one) + succeeded(2, two)).rstrip(b"\n")),
        ("crlf", (one, two), (succeeded(1, one) + succeeded(2, two)).replace(b"\n", b"\r\n")),
        ("hundred", (three,) * 100, b"".join(succeeded(number, three) for number in range(100))),
        ("all-failed", (), failed + expired),
    ):
        yield Case(f"batch/{name}", LINES, body, _sum(counted), "claude-opus-4-8" if counted else None)
    mixed = succeeded(1, one) + succeeded(2, two, "claude-haiku-4-5")
    yield Case("batch/two-models", LINES, mixed, _sum((one, two)), None)


def _sum(counted: Sequence[Counted]) -> dict[str, Any]:
    rows = [each.columns for each in counted]
    told = {name: [row[name] for row in rows if row[name] is not None] for name in COLUMNS[:-1]}
    return {name: sum(each) if each else None for name, each in told.items()} | {
        "service_tier": "batch" if counted else None
    }


def _others() -> Iterator[Case]:
    none = dict.fromkeys(COLUMNS)
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"}}
    batch = {
        "id": "msgbatch_01",
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": {"succeeded": 2},
    }
    models = {"data": [{"id": "claude-opus-4-8", "type": "model", "max_input_tokens": 1}], "has_more": False}
    for name, body, columns, ending, status in (
        ("count-tokens", {"input_tokens": 2095}, none | {"input_tokens": 2095}, "complete", 200),
        ("batch-created", batch, none, "complete", 200),
        ("models", models, none, "complete", 200),
        ("error", error, none, "error", 400),
    ):
        yield Case(f"other/{name}", JSON, json.dumps(body).encode(), columns, None, ending, status=status)
    yield Case("other/file", "application/pdf", b"%PDF " + json.dumps(message(COUNTS[0])).encode(), none, None)
    yield Case("other/html", "text/html", b"<html>502</html>", none, None, status=200)
