"""Bodies as clients send them, and as nobody should; and stores that keep them."""

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import zstd_kit
from ccflare_core.exchange.records import Payload, Record
from ccflare_core.store.store import Store
from database_kit import started

_LETTERS = random.Random(1)
_WORDS = ["".join(_LETTERS.choices("etaoinshrdlucmfw", k=_LETTERS.randint(2, 9))) for _ in range(3000)]


def prose(source: random.Random, size: int) -> str:
    """About `size` characters that compress as prose does, about 3 : 1."""
    return " ".join(source.choices(_WORDS, k=size // 6))


def code(source: random.Random, size: int) -> str:
    """About `size` characters of lines with quotes, brackets and indents."""
    lines = []
    while size > 0:
        end = source.choice((" {", "}", "();", ' = "x"', ",", '["a"]', "\t# },{", ""))
        lines.append("    " * source.randint(0, 4) + prose(source, source.randint(12, 60)) + end)
        size -= len(lines[-1]) + 1
    return "\n".join(lines)


def turns(count: int, *, files: tuple[int, ...] = (), seed: int = 1) -> Iterator[bytes]:
    """The bodies of a session of Claude Code: 40 kB of system and tools, about 2 kB a turn, moving cache markers.

    In the turns of `files` a file of 150 kB is read, the same one each time.
    """
    source = random.Random(seed)
    prompt, file = code(source, 20_000), code(source, 150_000)
    tools = [
        {
            "name": f"Tool{n}",
            "description": prose(source, 1200),
            "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        }
        for n in range(16)
    ]
    messages: list[dict[str, Any]] = [_message("user", {"type": "text", "text": prose(source, 400)})]
    for turn in range(count):
        yield _body(source, turn, messages, prompt, tools)
        call, result = f"toolu_{source.getrandbits(96):024x}", code(source, source.randint(300, 1700))
        thinking = {"type": "thinking", "thinking": prose(source, 200), "signature": f"{source.getrandbits(1200):x}"}
        use = {"type": "tool_use", "id": call, "name": "Read", "input": {"file_path": f"/src/{turn}.py"}}
        messages.append(_message("assistant", thinking, {"type": "text", "text": prose(source, 300)}, use))
        content = file if turn + 1 in files else result
        messages.append(_message("user", {"tool_use_id": call, "type": "tool_result", "content": content}))


def answer(source: random.Random, size: int = 800) -> bytes:
    """The event stream of an answer with about `size` characters of text."""
    words = prose(source, size).split()
    pieces = [" ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": f"msg_{source.getrandbits(80):x}", "role": "assistant"}}
    ]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"{piece} "}}
        for piece in pieces
    ]
    lines = (f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in [*events, {"type": "message_stop"}])
    return "".join(lines).encode()


def conversation(count: int) -> list[bytes]:
    """The bodies of `count` turns."""
    return list(turns(count))


def _message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def _body(
    source: random.Random, turn: int, messages: list[dict[str, Any]], prompt: str, tools: list[dict[str, Any]]
) -> bytes:
    marker = {"type": "ephemeral"}
    bill = f"x-anthropic-billing-header: cc_version=2.1.330; cch={source.getrandbits(20):05x}; cc_turn_index={turn};"
    first, *rest = messages[-1]["content"]
    last = {**messages[-1], "content": [{**first, "cache_control": marker}, *rest]}
    body = {
        "model": "claude-opus-4-8",
        "messages": [*messages[:-1], last],
        "system": [
            {"type": "text", "text": bill},
            {
                "type": "text",
                "text": "You are Claude Code, Anthropic's official CLI for Claude.",
                "cache_control": marker,
            },
            {"type": "text", "text": prompt, "cache_control": marker},
        ],
        "tools": tools,
        "metadata": {"user_id": "user_1_session_2"},
        "max_tokens": 64000,
        "thinking": {"type": "adaptive"},
        "diagnostics": {"previous_message_id": f"msg_{source.getrandbits(80):x}"},
        "stream": True,
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


_LAST = list(turns(12, files=(5,)))[-1]
_LONG = b"x" * 9000
ODD: dict[str, bytes] = {
    "empty": b"",
    "ordinary": _LAST,
    "white space": json.dumps(json.loads(_LAST), indent="\t").replace(": ", " \r\n :  ").encode(),
    "around it": b"\r\n\t  " + _LAST + b" \n\n",
    "duplicate keys": _LAST.replace(b'"model":', b'"messages":[{"a":1}],"messages":[],"model":"x","model":') * 2,
    "invalid UTF-8": _LAST.replace(b" ", b"\xff\xc0"),
    "UTF-16": _LAST.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + _LAST,
    "lone surrogates": _LAST.replace(b" ", b"\\ud800"),
    "NULs": _LAST.replace(b" ", b"\x00"),
    "no JSON": prose(random.Random(2), 20_000).encode(),
    "form": b"{" + b"a=1&" * 5000,
    "gzip": gzip.compress(_LAST, mtime=0),
    "zstd": zstd_kit.compress(_LAST),
    "random": random.Random(3).randbytes(50_000),
    "truncated": _LAST[: len(_LAST) * 2 // 3],
    "truncated in an escape": _LAST[: _LAST.index(b"\\n", 30_000) + 1],
    "truncated in a marker": _LAST[: _LAST.rindex(b'"cache_control":{') + 18],
    "huge numbers": b'{"messages":[' + b'{"a":' + b"9" * 10_000 + b'},{"b":1e99999}]}',
    "deep": b'{"messages":[' + b'[{"a":' * 20_000 + b"1" + b"}]" * 20_000 + b"]}",
    "quotes within": _LAST.replace(b" ", b'\\"},{\\"role\\":\\"user\\"'),
    "backslashes": b'{"messages":[{"a":"' + b"\\\\" * 9001 + b'"},{"b":"' + b'\\"' * 9000 + b'"}]}',
    "many markers": b'{"messages":[' + b'{"a":1,"cache_control":{"type":"ephemeral"}},' * 3000 + b"{}]}",
    "markers within markers": b'{"a":"' + _LONG + b'","cache_control":{"a":"x-anthropic-billing-header: 1"}}',
    "nothing but a marker": b'{"cache_control":{' + b" " * 9000 + b"}}",
    "a string without an end": b'{"messages":[{"a":"' + _LONG,
    "one long key": b'{"' + _LONG + b'":1}',
}


def request(request_id: str, body: bytes, session: str | None = "s-1", **facts: Any) -> list[Record]:
    """What is recorded of a request with this body."""
    values = {"content_type": "application/json", "content_encoding": "", "size": len(body), "truncated": False}
    begun = started(request_id)._replace(session_id=session)
    return [begun, Payload(request_id, "request", body=body, session_id=session, **{**values, **facts})]


def record(store: Store, bodies: Sequence[bytes], session: str | None = "s-1", first: int = 0) -> None:
    """One transaction each, as turns come."""
    for number, body in enumerate(bodies, first):
        store.write(request(f"{session}/{number}", body, session))


def content(store: Store, request_id: str) -> bytes | None:
    """A recorded request body."""
    body = store.body(request_id, "request")
    return body and body.content


def contents(store: Store, number: int, session: str | None = "s-1") -> list[bytes | None]:
    """The first so many of what `record` wrote."""
    return [content(store, f"{session}/{n}") for n in range(number)]


def is_sound(store: Store) -> bool:
    """Whether every body has its blocks, and every block its bodies."""
    return (store.transcripts.orphans(), store.transcripts.dangling()) == (0, [])
