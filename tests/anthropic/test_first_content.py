import gzip
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zstd_kit
from ccflare_core.anthropic.first_content import DOCUMENT_BYTES, Held, HeldDocument, HeldStream, Progress, held_for
from ccflare_core.anthropic.routes import BATCHES, COUNT_TOKENS, MESSAGES

OPEN, BEGUN, DECIDED = Progress.OPEN, Progress.BEGUN, Progress.DECIDED
START: dict[str, Any] = {"type": "message_start", "message": {"id": "msg_1", "stop_reason": None}}
PING = {"type": "ping"}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
BLOCK_STOP = {"type": "content_block_stop", "index": 0}
STOP = {"type": "message_stop"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd_kit.compress,
}


def block(**content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": content}


def why(reason: str | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 0}}


TEXT = block(type="text", text="")


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def ended[T: Held](held: T, body: bytes) -> T:
    if body:
        held.feed(body)
    held.end()
    return held


# Streams


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("decisive", [DELTA, BLOCK_STOP, STOP, OVERLOADED, why("refusal"), block(type="image")])
def test_stream_is_known_by_its_first_event_that_tells(decisive: dict[str, Any], coding: str) -> None:
    held = HeldStream(coding)

    assert held.feed(ENCODERS[coding](stream(START, PING, decisive, OVERLOADED))) is DECIDED
    assert held.error == (OVERLOADED if decisive is OVERLOADED else None)


@given(places=st.lists(st.integers(1, 500), max_size=6))
def test_stream_may_be_split_anywhere(places: list[int]) -> None:
    body, held = stream(START, PING, TEXT, OVERLOADED, STOP), HeldStream()
    cuts = [0, *sorted(places), len(body)]

    assert [held.feed(body[a:b]) for a, b in pairwise(cuts)][-1] is DECIDED
    assert held.error == OVERLOADED


def test_error_event_comes_with_its_blank_line_and_not_before() -> None:
    held, body = HeldStream(), stream(START, PING, OVERLOADED).replace(b"\n", b"\r\n")

    assert [held.feed(body[:-3]), held.feed(body[-3:]), held.feed(stream(STOP))] == [OPEN, DECIDED, DECIDED]
    assert held.error == OVERLOADED


def test_error_event_is_given_the_apis_shape() -> None:
    named, bare = HeldStream(), HeldStream()
    named.feed(b'event: error\ndata: {"type":"api_error","message":"m"}\n\n')
    bare.feed(b"event: error\ndata: oops\n\n")

    assert named.error == {"type": "error", "message": "m", "error": {"type": "api_error", "message": "m"}}
    assert bare.error == {"type": "error", "message": "oops", "error": {"message": "oops"}}


@pytest.mark.parametrize(
    "empty",
    [
        TEXT,
        block(type="thinking", thinking="", signature=""),
        block(type="tool_use", id="toolu_1", name="Bash", input={}),
    ],
    ids=lambda event: event["content_block"]["type"],
)
def test_empty_block_is_no_content_by_itself(empty: dict[str, Any]) -> None:
    for follows, error in ((OVERLOADED, OVERLOADED), (DELTA, None), (PING, None), (BLOCK_STOP, None), (empty, None)):
        held = HeldStream()
        assert held.feed(stream(START, PING, empty) + b": a comment\n\n") is BEGUN
        assert held.feed(stream(follows)) is DECIDED
        assert held.error == error
    assert ended(HeldStream(), stream(START, empty)).flaw == "the stream ended without content"


@pytest.mark.parametrize(
    "full",
    [
        block(type="text", text="Hi"),
        block(type="thinking", thinking="Hm"),
        block(type="tool_use", input={"a": 1}),
        block(type="redacted_thinking", data=""),
        block(type="server_tool_use", input={}),
        block(type=["text"], text=""),
        {"type": "content_block_start"},
    ],
    ids=str,
)
def test_any_other_block_is_content(full: dict[str, Any]) -> None:
    held = HeldStream()

    assert held.feed(stream(START, full, OVERLOADED)) is DECIDED
    assert held.error is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b": keep-alive\n\n: keep-alive\n\n",
        stream(START),
        stream(START, PING),
        stream(START, why(None)),
        b'data: {"type":[]}\n\ndata: 1\n\n',
        b"<html>\n\n",
    ],
    ids=["nothing", "comments", "a start", "a ping", "no reason", "junk", "a page"],
)
def test_stream_without_content_and_without_a_reason_is_no_answer(body: bytes) -> None:
    held = HeldStream()

    assert held.feed(body) is OPEN
    assert held.flaw == ""
    assert ended(held, b"").flaw == "the stream ended without content"


@pytest.mark.parametrize("reason", ["refusal", "end_turn", "max_tokens", "pause_turn"])
def test_stream_that_says_why_it_stopped_is_an_answer(reason: str) -> None:
    whole = stream(START, why(reason))

    assert ended(HeldStream(), whole).flaw == ""
    assert ended(HeldStream(), whole.rstrip(b"\n")).flaw == ""
    assert ended(HeldStream(), stream(START, STOP).rstrip(b"\n")).flaw == ""


@pytest.mark.parametrize("coding", ["gzip", "rot13"])
def test_stream_that_cannot_be_read_is_no_bad_one(coding: str) -> None:
    assert ended(HeldStream(coding), b"\x00 no such coding").flaw == ""


# Documents


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize(
    ("body", "flaw"),
    [
        (b'{"input_tokens": 3}', ""),
        (b"[]", ""),
        (b'{"type":"message","content":[],"stop_reason":"refusal"}', ""),
        (b'{"text": "%s"}' % (b"x" * 100_000), ""),
        (b"", "the answer is empty"),
        (b" \n", "the answer is empty"),
        (b"<html>Sign in</html>", "the answer is not JSON"),
        (b"<html>%s</html>" % (b"x" * 100_000), "the answer is not JSON"),
        (b'{"type":"mess', "the answer is not JSON"),
    ],
    ids=["an object", "a list", "no content", "long", "empty", "blank", "a page", "a long page", "half"],
)
def test_document_has_to_be_json(body: bytes, flaw: str, coding: str) -> None:
    held = HeldDocument(coding)
    assert held.feed(ENCODERS[coding](body)) is OPEN
    held.end()

    assert (held.flaw, held.error) == (flaw, None)


def test_document_may_be_an_error() -> None:
    assert ended(HeldDocument(), json.dumps(OVERLOADED).encode()).error == OVERLOADED
    assert ended(HeldDocument(), b'{"type":"error","error":"odd"}').error is None


def test_document_that_cannot_be_read_is_no_bad_one() -> None:
    assert ended(HeldDocument("gzip"), b"no gzip").flaw == ""
    assert ended(HeldDocument("rot13"), b"wfba").flaw == ""


# What is held


def held(
    method: str, path: str, status: int = 200, *, is_stream: bool = False, length: int | None = None
) -> type[object] | None:
    found = held_for(method, path, status, is_event_stream=is_stream, length=length, coding="")
    return None if found is None else type(found)


@pytest.mark.parametrize("path", [MESSAGES, COUNT_TOKENS, BATCHES])
def test_documents_of_the_inference_paths_are_held(path: str) -> None:
    assert held("POST", path) is held("POST", path, length=DOCUMENT_BYTES) is HeldDocument
    assert held("POST", path, length=DOCUMENT_BYTES + 1) is None
    assert held("GET", path) is held("POST", path, 204) is held("POST", path, 500) is held("POST", path, 304) is None


def test_of_streams_a_messages_alone_is_held() -> None:
    assert held("POST", MESSAGES, is_stream=True) is HeldStream
    for method, path in (("POST", COUNT_TOKENS), ("POST", "/v1/skills"), ("GET", "/v1/files/file_1/content")):
        assert held(method, path, is_stream=True) is None
