import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zstd_kit
from ccflare_core.anthropic.ids import Id, Kind
from ccflare_core.anthropic.usage import Ending, Message, Reading, Usage, without
from ccflare_core.anthropic.usage_reader import DOCUMENT_LIMIT, UsageReader
from ccflare_core.http.sse import EVENT_LIMIT, Splitter

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"

START_USAGE = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 345,
    "cache_read_input_tokens": 6789,
    "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 45},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "us",
}
START: dict[str, Any] = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "claude-opus-5-5", "stop_reason": None, "usage": START_USAGE},
}
PING = {"type": "ping"}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
LIVELY = 'é "message_delta" {"type":"message_delta","usage":{"output_tokens":9}} event: error\n\n"error"'
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": LIVELY}}
END_USAGE = {
    "output_tokens": 312,
    "output_tokens_details": {"thinking_tokens": 200},
    "server_tool_use": {"web_search_requests": 2},
}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": END_USAGE}
STOP = {"type": "message_stop"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

USED = Usage(
    input_tokens=12,
    output_tokens=312,
    cache_read_input_tokens=6789,
    cache_creation_input_tokens=345,
    cache_creation_5m_input_tokens=300,
    cache_creation_1h_input_tokens=45,
    thinking_tokens=200,
    web_search_requests=2,
    service_tier="standard",
    inference_geo="us",
)
WHOLE = Reading(USED, "claude-opus-5-5", Ending.COMPLETE, None, "end_turn", message_id="msg_1")

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd_kit.compress,
}


def event(data: dict[str, Any], *, ascii: bool = False) -> bytes:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=ascii)
    return f"event: {data['type']}\ndata: {text}\n\n".encode()


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(map(event, events))


def read(*chunks: bytes, content_type: str = SSE, content_encoding: str = "", cut: bool = False) -> Reading:
    reader = UsageReader(content_type, content_encoding)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.close(cut=cut)


def read_json(body: object, **how: Any) -> Reading:
    return read(json.dumps(body).encode(), content_type=JSON, **how)


def split(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


ANSWER = stream(START, PING, BLOCK, DELTA, DELTA, END, STOP)
places = st.lists(st.integers(0, 10_000), max_size=8)


# -- streams


def test_a_stream_tells_all_its_numbers() -> None:
    assert read(ANSWER) == WHOLE


@pytest.mark.parametrize("coding", ENCODERS)
@given(places=places)
def test_a_stream_split_anywhere_reads_the_same(coding: str, places: list[int]) -> None:
    encoded = ENCODERS[coding](ANSWER)

    assert read(*split(encoded, places), content_encoding=coding) == WHOLE


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_stream_of_single_bytes_reads_the_same(coding: str) -> None:
    encoded = ENCODERS[coding](ANSWER)

    assert read(*(bytes([byte]) for byte in encoded), content_encoding=coding) == WHOLE


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@given(places=places)
def test_every_line_end_of_the_standard_reads_the_same(line_end: bytes, places: list[int]) -> None:
    assert read(*split(ANSWER.replace(b"\n", line_end), places)) == WHOLE


SCRAPS = [
    *(event(START), event(END), event(STOP), event(OVERLOADED), event(DELTA)),
    *(b"\n", b"\r", b"\r\n", b"data", b"data:", b"event: error", b"event:error\n", b": comment\n", b"id: 1\n"),
    *(b'{"type":', b'"message_delta"', b'"error"', b"}", b"\0", b"\xff\xfe", b"data: [1]\n\n"),
]


@given(st.data())
def test_hostile_events_read_the_same_however_they_are_split(data: st.DataObject) -> None:
    body = b"".join(data.draw(st.lists(st.sampled_from(SCRAPS), max_size=12)))

    assert read(*split(body, data.draw(places))) == read(body)


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("no space after the colon", ANSWER.replace(b": ", b":")),
        ("no event lines", b"".join(line + b"\n" for line in ANSWER.split(b"\n") if b"event: " not in line[:7])),
        ("spaces in the JSON", ANSWER.replace(b'"type":', b'"type" : ')),
        ("comments, ids and retry", ANSWER.replace(b"event:", b": hi\nid: 7\nretry: 10\nevent:")),
        ("more blank lines", b"\n\n" + ANSWER.replace(b"\n\n", b"\n\n\n\n\n")),
        ("data over several lines", ANSWER.replace(b'{"type"', b'{\ndata: "type"')),
        ("no blank line at the end", ANSWER[:-1]),
        ("no line end at the end", ANSWER[:-2]),
        ("escaped text", b"".join(event(data, ascii=True) for data in (START, DELTA, END, STOP))),
    ],
)
def test_a_stream_may_be_written_in_other_ways(what: str, body: bytes) -> None:
    assert body != ANSWER
    assert read(body) == WHOLE


def later(**usage: object) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {}, "usage": usage}


def test_final_numbers_win_and_nothing_or_0_does_not() -> None:
    correction = later(input_tokens=50, cache_read_input_tokens=0, cache_creation_input_tokens=None, output_tokens=0)

    used = read(stream(START, END, correction, STOP))

    assert (used.usage.input_tokens, used.usage.cache_read_input_tokens) == (50, 6789)
    assert (used.usage.cache_creation_input_tokens, used.usage.output_tokens) == (345, 312)
    assert used.stop_reason == "end_turn"


def test_of_several_final_numbers_the_largest_of_each_counts() -> None:
    used = read(
        stream(START, later(output_tokens=90), later(output_tokens=200, input_tokens=8), later(output_tokens=7))
    )

    assert (used.usage.output_tokens, used.usage.input_tokens) == (200, 8)
    assert not used.is_estimated


@pytest.mark.parametrize("first", [{}, START_USAGE])
def test_a_count_of_0_counts_where_there_is_no_other(first: dict[str, Any]) -> None:
    start = {**START, "message": {"model": "m", "usage": {**first, "output_tokens": None}}}

    assert read(stream(start, later(output_tokens=0), STOP)).usage.output_tokens == 0


def test_what_a_model_writes_about_the_protocol_is_not_the_protocol() -> None:
    texts = ["message_delta", "message_stop", "error", "event: error\n", 'data: {"type":"error"}\n\n', LIVELY]
    deltas = [DELTA | {"delta": {"type": "text_delta", "text": text, "error": "x"}} for text in texts]

    assert read(stream(START, *deltas, END, STOP)) == WHOLE


@pytest.mark.parametrize("cut", [True, False])
def test_a_stream_without_its_last_event_is_truncated_and_keeps_what_it_had(cut: bool) -> None:
    reading = read(stream(START, BLOCK, DELTA), cut=cut)

    assert reading.ending is Ending.TRUNCATED
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (12, round(len(LIVELY) / 3))
    assert reading.is_estimated
    assert (reading.model, reading.error, reading.stop_reason) == ("claude-opus-5-5", None, None)


@given(st.integers(0, len(ANSWER) - 1))
def test_a_stream_cut_anywhere_has_no_count_that_was_not_sent_and_an_estimate_in_its_place(length: int) -> None:
    reading = read(ANSWER[:length], cut=True)

    if reading != WHOLE:
        assert reading.ending is Ending.TRUNCATED
        assert reading.usage.input_tokens in (None, 12)
        said = round(len(LIVELY) * ANSWER[:length].count(event(DELTA)[:-3]) / 3)
        expected = (None, False) if reading.usage.input_tokens is None else (said, True)
        assert (reading.usage.output_tokens, reading.is_estimated) in (expected, (312, False))


def test_a_cut_after_the_last_event_does_not_matter() -> None:
    assert read(ANSWER, cut=True) == WHOLE


def test_an_empty_stream_is_truncated() -> None:
    assert read() == Reading(Usage(), None, Ending.TRUNCATED, None, None, presumed_output=0)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (event(OVERLOADED), "overloaded_error"),
        (b'event: error\ndata: {"type":"api_error","message":"Internal"}\n\n', "api_error"),
        (b'event:error\r\ndata:{"error":{"message":"no type"}}\r\n\r\n', "error"),
        (b"event: error\ndata: upstream fell over\n\n", "error"),
        (b"event:error\ndata:upstream fell over\n\n", "error"),
        (b'data: {"type": "error", "error": "a text"}\n\n', "error"),
        (b'data: {"type":"error"}\n\n', "error"),
        (b"event: error\n\n", "error"),
    ],
)
def test_an_error_event_ends_the_stream_in_an_error(body: bytes, error: str) -> None:
    reading = read(stream(START, DELTA) + body)

    assert (reading.ending, reading.error) == (Ending.ERROR, error)
    assert reading.usage.input_tokens == 12


def test_the_first_error_counts_even_if_the_stream_goes_on() -> None:
    later = {"type": "error", "error": {"type": "api_error", "message": "later"}}

    reading = read(stream(START, OVERLOADED, later, STOP))

    assert (reading.ending, reading.error) == (Ending.ERROR, "overloaded_error")


@pytest.mark.parametrize("kind", ["t\t", "sk-ant-api03-echoed", "", None, ["api_error"], "API_ERROR", "x" * 5000])
def test_an_error_is_never_told_in_the_upstreams_own_words(kind: object) -> None:
    reading = read(event({"type": "error", "error": {"type": kind, "message": "sk-ant-api03-echoed"}}))

    assert (reading.ending, reading.error) == (Ending.ERROR, "error")


def test_words_that_must_not_be_stored_are_left_out_and_the_counts_stay() -> None:
    message = {"model": "m-secret", "stop_reason": "end_turn", "usage": {"input_tokens": 3, "service_tier": "secret"}}

    reading = without(read_json({"type": "message", **message}), lambda word: "secret" in word)

    assert (reading.model, reading.stop_reason) == (None, "end_turn")
    assert (reading.usage.service_tier, reading.usage.input_tokens) == (None, 3)


def test_a_batch_is_not_known_by_an_id_that_must_not_be_stored() -> None:
    listed = [{"type": "message_batch", "id": batch_id} for batch_id in ("a-secret", "msgbatch_1")]

    reading = without(read_json({"data": listed}), lambda word: "secret" in word)

    assert [batch.id for batch in reading.batches] == ["msgbatch_1"]


@pytest.mark.parametrize("value", [-1, 1.5, "12", True, None, [], {}, 10**30, float("nan")])
def test_a_value_that_is_no_count_is_not_taken(value: object) -> None:
    reading = read(event({**START, "message": {"model": "m", "usage": {"input_tokens": value}}}))

    assert (reading.usage, reading.model) == (Usage(), "m")


@pytest.mark.parametrize("junk", [None, 1, "x", [], [[]], {}, {"usage": [], "delta": 7, "type": []}])
def test_wrong_types_are_not_read_and_do_not_harm(junk: object) -> None:
    usage_junk = {"cache_creation": junk, "output_tokens_details": junk, "service_tier": junk, "speed": junk}
    odd: list[dict[str, Any]] = [
        {"type": "message_start", "message": junk},
        {"type": "message_start", "message": {"model": junk, "usage": junk}},
        {"type": "message_delta", "usage": junk, "delta": junk},
        {"type": "message_delta", "usage": usage_junk},
        {"type": "message_stop"},
    ]
    loose = [f"data: {json.dumps({'type': junk, 'message_x': 1, 'error': junk})}\n\n".encode()]

    reading = read(*loose, stream(START, *odd, END, STOP))

    assert reading.usage.input_tokens == 12
    assert reading.ending is Ending.COMPLETE


@pytest.mark.parametrize(
    "junk",
    [
        b'data: {"type":"message_delta","usage":' + b"[" * 100_000 + b"\n\n",
        b'data: {"type":"message_delta","usage":{"output_tokens":' + b"9" * 10_000 + b"}}\n\n",
        b'data: {"type":"message_delta",\xff\xfe}\n\n',
        b'data: {"type":"message_delta","usage":\0}\n\n',
        b'data: "message_delta"\n\ndata: ["message_stop"]\n\ndata: "error"\n\n',
        b"\n\r\n\r\r\n",
    ],
)
def test_events_that_are_not_json_objects_are_passed_over(junk: bytes) -> None:
    assert read(stream(START) + junk + stream(END, STOP)) == WHOLE


def test_bytes_that_are_not_utf_8_do_not_hide_the_numbers() -> None:
    assert read(ANSWER.replace(b'"msg_1"', b'"msg\xff\xfe"')) == replace(WHOLE, message_id="msg\ufffd\ufffd")


def delta_of_size(size: int) -> bytes:
    head, tail = b'data: {"type":"message_delta","usage":{"output_tokens":99},"pad":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("excess", [0, 1, 2, 100, 3 * EVENT_LIMIT])
@pytest.mark.parametrize("step", [10_001, 65_536, 10**9])
def test_an_event_past_the_limit_is_skipped_and_the_next_is_read(excess: int, step: int) -> None:
    body = stream(START) + delta_of_size(EVENT_LIMIT + excess) + b"\n\n" + event(STOP)

    reading = read(*(body[at : at + step] for at in range(0, len(body), step)))

    assert (reading.usage.output_tokens, reading.is_estimated) == ((0, True) if excess else (99, False))
    assert reading.ending is Ending.COMPLETE


def test_blank_lines_around_it_do_not_make_an_event_longer() -> None:
    longest = delta_of_size(EVENT_LIMIT)

    reading = read(stream(START), b"\n", longest, b"\n", b"\n", event(STOP))

    assert reading.usage.output_tokens == 99


def test_an_event_without_end_takes_no_memory() -> None:
    splitter = Splitter()

    for _ in range(100):
        assert splitter.feed(b"x" * 100_000) == b""
        assert sum(map(len, splitter._parts)) <= EVENT_LIMIT + 1
    assert splitter.feed(b"\n\ndata: 1\n\n") == b"data: 1\n\n"


@given(st.lists(st.binary(max_size=80), max_size=6), st.sampled_from([SSE, JSON]), st.sampled_from([*ENCODERS, "?"]))
def test_no_bytes_make_the_reader_raise(chunks: list[bytes], content_type: str, coding: str) -> None:
    reading = read(*chunks, content_type=content_type, content_encoding=coding)

    assert reading.usage == Usage()
    assert reading.ending is not Ending.ERROR


# -- JSON bodies

MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_1",
    "model": "claude-opus-5-5",
    "stop_reason": "end_turn",
    "content": [{"type": "text", "text": LIVELY}],
    "usage": START_USAGE | END_USAGE,
}


@pytest.mark.parametrize("coding", ENCODERS)
@given(places=places)
def test_a_message_split_anywhere_reads_the_same(coding: str, places: list[int]) -> None:
    encoded = ENCODERS[coding](json.dumps(MESSAGE).encode())

    assert read(*split(encoded, places), content_type=JSON, content_encoding=coding) == WHOLE


def test_a_token_count_is_read_as_input() -> None:
    assert read_json({"input_tokens": 2095}) == Reading(Usage(input_tokens=2095), None, Ending.COMPLETE, None, None)


@pytest.mark.parametrize(
    "body", [{"data": [], "has_more": False}, {"type": "message_batch", "id": "?"}, [], {"error": None}]
)
def test_other_documents_have_no_usage(body: object) -> None:
    assert replace(read_json(body), handed_out=()) == Reading(Usage(), None, Ending.COMPLETE, None, None)


@pytest.mark.parametrize("body", [OVERLOADED, {"error": OVERLOADED["error"]}])
def test_an_error_body_is_an_error(body: dict[str, Any]) -> None:
    reading = read_json(body | {"request_id": "req_1"})

    assert (reading.ending, reading.error) == (Ending.ERROR, "overloaded_error")


@pytest.mark.parametrize("body", [b'{"usage": {', b"<html>", b"[" * 100_000, b'"text"', b"\xff", b'{"a": NaN'])
def test_json_that_does_not_parse_is_truncated(body: bytes) -> None:
    assert read(body, content_type=JSON) == Reading(Usage(), None, Ending.TRUNCATED, None, None)


@pytest.mark.parametrize(
    ("content_type", "cut", "ending"),
    [
        (JSON, False, Ending.COMPLETE),
        (JSON, True, Ending.TRUNCATED),
        ("image/png", False, Ending.COMPLETE),
        ("image/png", True, Ending.TRUNCATED),
        ("", False, Ending.COMPLETE),
    ],
)
def test_a_body_without_anything_to_read_ends_as_the_connection_did(
    content_type: str, cut: bool, ending: Ending
) -> None:
    assert read(content_type=content_type, cut=cut).ending is ending


@pytest.mark.parametrize("content_type", ["text/html", "application/x-jsonl", "application/octet-stream"])
def test_other_types_are_not_looked_at(content_type: str) -> None:
    body = json.dumps(MESSAGE).encode()

    assert read(body, content_type=content_type) == Reading(Usage(), None, Ending.COMPLETE, None, None)


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "application/problem+json"])
def test_the_content_type_may_be_spelt_otherwise(content_type: str) -> None:
    assert read(json.dumps(MESSAGE).encode(), content_type=content_type) == WHOLE


# -- bodies that are too long to be held

PAD = 'x"}],{\\' * (DOCUMENT_LIMIT // 4)
LONG_CONTENT = [{"type": "text", "text": PAD, "usage": {"input_tokens": 1}}]
LONG_MESSAGE: dict[str, Any] = {"content": LONG_CONTENT} | {
    name: value for name, value in MESSAGE.items() if name != "content"
}


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("step", [9973, 10**9])
def test_a_document_of_any_length_is_read_exactly(coding: str, step: int) -> None:
    encoded = ENCODERS[coding](json.dumps(LONG_MESSAGE | {"pad": [PAD, {"model": "no"}]}).encode())

    pieces = [encoded[at : at + step] for at in range(0, len(encoded), step)]

    assert read(*pieces, content_type=JSON, content_encoding=coding) == WHOLE


def test_a_long_document_that_is_cut_says_so_and_keeps_what_it_had() -> None:
    reading = read(
        json.dumps({"type": "message", "model": "m", "pad": PAD, "usage": {}}).encode()[:-3], content_type=JSON
    )

    assert (reading.ending, reading.model, reading.usage) == (Ending.TRUNCATED, "m", Usage())


def test_a_long_document_is_not_held() -> None:
    reader = UsageReader(JSON)
    tracemalloc.start()
    try:
        reader.feed(b'{"model":"m","content":"')
        for _ in range(200):
            reader.feed(b"x" * 100_000)
        reader.feed(b'","usage":{"input_tokens":7,"output_tokens":8}}')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert reader.close().usage == Usage(input_tokens=7, output_tokens=8)
    assert peak < 5 * DOCUMENT_LIMIT


def test_a_stream_of_more_than_64_mib_is_read_exactly() -> None:
    text = event(DELTA | {"delta": {"type": "text_delta", "text": "x" * 500_000}})
    reader = UsageReader(SSE, "gzip")
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)

    reader.feed(packer.compress(stream(START, BLOCK)))
    for _ in range(140):
        reader.feed(packer.compress(text))
    reader.feed(packer.compress(stream(END, STOP)) + packer.flush())

    assert reader.close() == WHOLE


# -- bodies that cannot be decoded


@pytest.mark.parametrize("content_type", [SSE, JSON])
def test_an_unknown_coding_leaves_the_usage_unknown(content_type: str) -> None:
    reading = read(b"abc", content_type=content_type, content_encoding="rot13")

    assert (reading.usage, reading.ending) == (Usage(), Ending.COMPLETE)
    assert reading.error == "usage may be incomplete: the body is in an unknown coding"
    cut = read(b"abc", content_type=content_type, content_encoding="rot13", cut=True)
    assert cut.ending is Ending.TRUNCATED


@pytest.mark.parametrize("content_type", [SSE, JSON])
def test_a_corrupt_body_is_truncated_and_keeps_what_came_before(content_type: str) -> None:
    reading = read(gzip.compress(stream(START)), b"\x1f\x8bgarbage", content_type=content_type, content_encoding="gzip")

    assert reading.ending is Ending.TRUNCATED
    assert reading.error == "usage may be incomplete: the body is corrupt (gzip)"
    assert reading.usage.input_tokens == (12 if content_type == SSE else None)


# -- what the answer tells of other models, of itself, of its input

COUNTS: dict[str, Any] = {
    "input_tokens": 50_000,
    "output_tokens": 1500,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
}
ITERATIONS = [
    {"type": "message", "model": "claude-opus-5-5", "input_tokens": 12, "output_tokens": 300},
    {"type": "advisor_message", "model": "claude-fable-5-2", **COUNTS},
    {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500, "cache_creation": None},
    {"type": "fallback_message", "model": "claude-opus-5-5", "input_tokens": 12, "output_tokens": 12},
]
ADVISED = Message("claude-fable-5-2", Usage(**COUNTS, inference_geo="us"), "advisor_message")
COMPACTED = Message(
    "claude-opus-5-5",
    Usage(input_tokens=180_000, output_tokens=3500, service_tier="standard", inference_geo="us"),
    "compaction",
)


def test_iterations_of_a_stream_count_beside_its_own_numbers() -> None:
    end = {**END, "usage": END_USAGE | {"iterations": ITERATIONS}}

    reading = read(stream(START, BLOCK, DELTA, end, later(output_tokens=312), STOP))

    assert reading.usage == USED
    assert reading.extra == (ADVISED, COMPACTED)


def test_iterations_of_a_document_and_of_a_batch_count_too() -> None:
    message = MESSAGE | {"usage": MESSAGE["usage"] | {"iterations": ITERATIONS}}
    line = json.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": message}}).encode() + b"\n"

    assert read_json(message).extra == (ADVISED, COMPACTED)
    assert read(line, line, content_type="application/x-jsonl").extra == tuple(
        each._replace(in_batch=True) for each in (ADVISED, COMPACTED) * 2
    )


@pytest.mark.parametrize("junk", [None, 1, "x", {}, [None, 1, [], {"type": "advisor_message"}, {"type": []}]])
def test_iterations_of_a_wrong_shape_are_left_out(junk: object) -> None:
    assert read_json(MESSAGE | {"usage": START_USAGE | {"iterations": junk}}).extra == ()


def test_a_refusal_and_what_became_of_the_input_are_told() -> None:
    dropped = [{"type": "thinking_dropped"}, {"type": "thinking_dropped"}, {"type": "thinking_mismatch_allowed"}, 7]
    start = {**START, "message": {**START["message"], "input_transformations": dropped}}
    end = {**END, "delta": {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber"}}}

    reading = read(stream(start, end, STOP))

    assert (reading.stop_reason, reading.refusal) == ("refusal", "cyber")
    assert reading.input_transformations == "thinking_dropped 2, thinking_mismatch_allowed 1, ? 1"
    assert read(stream(start, {**END, "input_transformations": []}, STOP)).input_transformations == ""
    assert read(ANSWER).input_transformations is None


# -- what a stream had said before it broke off


def said(kind: str, index: int = 0, **fields: object) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def block(kind: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind}}


def stop(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


SPOKEN = [
    block("thinking"),
    said("thinking_delta", thinking="x" * 100),
    said("signature_delta", signature="s" * 60),
    stop(),
    block("text", 1),
    said("text_delta", 1, text='é"\n' + "𝄞" * 50),  # 103 characters of JavaScript's, which has two for each clef
    stop(1),
    block("tool_use", 2),
    said("input_json_delta", 2, partial_json='{"a": "' + "y" * 293),
]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("mend", [bytes, lambda body: body.replace(b'"delta":', b'"delta": ')])
def test_a_cut_stream_shows_text_and_thinking_and_a_budget_takes_all(
    ascii: bool, mend: Callable[[bytes], bytes]
) -> None:
    reading = read(mend(b"".join(event(data, ascii=ascii) for data in (START, *SPOKEN))), cut=True)

    assert (reading.usage.output_tokens, reading.is_estimated) == (round(203 / 3), True)
    assert reading.presumed_output == round((203 + 60 + 300) / 3)


@given(st.lists(st.integers(0, 3000), max_size=8))
def test_a_cut_stream_weighs_the_same_however_it_is_split(places: list[int]) -> None:
    body = stream(START, *SPOKEN)

    assert read(*split(body, places), cut=True) == read(body, cut=True)


def test_a_citation_counts_for_a_budget_only() -> None:
    citation = {"type": "char_location", "cited_text": "z" * 30, "document_title": None}

    reading = read(stream(START, block("text"), said("citations_delta", citation=citation)), cut=True)

    assert (reading.usage.output_tokens, reading.presumed_output) == (0, 10)


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        ([(0.0, block("thinking")), (4.0, PING)], 500),
        ([(0.0, block("thinking")), (4.0, stop()), (9.0, PING)], 200),
        ([(0.0, block("redacted_thinking")), (4.0, stop()), (5.0, block("thinking", 1))], 450),
        ([(0.0, block("thinking")), (4.0, said("thinking_delta", thinking=""))], 500),
        ([(0.0, block("thinking")), (4.0, said("thinking_delta", thinking="abc"))], 1),
        ([(0.0, block("text")), (4.0, PING)], 0),
    ],
)
def test_thinking_that_is_not_shown_counts_for_a_budget_by_its_time(
    events: list[tuple[float, dict[str, Any]]], tokens: int
) -> None:
    """One token for 20 ms; all of these are cut after 10 s."""
    reader = UsageReader(SSE)
    reader.feed(event(START), 0.0)
    for at, data in events:
        reader.feed(event(data), at)

    assert reader.close(cut=True, at=10.0).presumed_output == tokens


def test_a_stream_that_was_counted_to_its_end_is_no_estimate() -> None:
    reading = read(stream(START, BLOCK, DELTA, END), cut=True)

    assert (reading.usage.output_tokens, reading.is_estimated, reading.presumed_output) == (312, False, None)


@pytest.mark.parametrize(
    ("body", "handed_out"),
    [
        ({"type": "file", "id": "f"}, [Id(Kind.FILE, "f")]),
        ({"type": "message_batch", "id": "b"}, [Id(Kind.BATCH, "b")]),
        (
            {"data": [{"type": "file", "id": "f"}, {"type": "file", "id": "g"}]},
            [Id(Kind.FILE, "f"), Id(Kind.FILE, "g")],
        ),
        ({"data": [{"type": "message_batch", "id": "b"}]}, [Id(Kind.BATCH, "b")]),
        ({"type": "message", "container": {"id": "c"}, "content": []}, [Id(Kind.CONTAINER, "c")]),
        ({"type": "error", "error": {"type": "x"}, "id": "f"}, []),
    ],
)
@pytest.mark.parametrize("filling", [0, 2_000_000])
def test_ids_of_any_document_are_handed_out(body: dict[str, Any], handed_out: list[Id], filling: int) -> None:
    assert list(read_json({"x": "y" * filling, **body}).handed_out) == handed_out
