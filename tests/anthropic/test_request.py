"""Facts of a request, from friendly and hostile bodies."""

import gzip
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.request import PARSE_LIMIT, Facts, family, models_asked, read_facts

SESSION = "0f8fad5b-d9cb-469f-a165-70867728950e"
USER_ID = json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": SESSION})


def claude_code(**changes: object) -> bytes:
    """A body as Claude Code sends it: model first, stream last, no blanks."""
    body = {
        "model": "claude-opus-5-5",
        "messages": [{"role": "user", "content": 'say "stream":true and "model":"x"'}],
        "metadata": {"user_id": USER_ID},
        "max_tokens": 64000,
    }
    return json.dumps(body | changes | {"stream": True}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-opus-4-8", "opus"),
        ("claude-opus-5-5-20261101", "opus"),
        ("claude-3-5-haiku-20241022", "haiku"),
        ("claude-3-opus-latest", "opus"),
        ("claude-haiku-4-5[1m]", "haiku"),
        ("claude-fable-5", "fable"),
        ("claude-mythos-5-1", "mythos"),
        ("claude-sonnet", "sonnet"),
        ("claude-2.1", "claude-2.1"),
        ("opus", "opus"),
        ("gpt-5", "gpt-5"),
        ("claude-", "claude-"),
        ("", ""),
        (None, ""),
    ],
)
def test_family(model: str | None, expected: str) -> None:
    assert family(model) == expected
    assert Facts(model).family == expected


def test_a_claude_code_request() -> None:
    facts = read_facts(claude_code(), session_header=SESSION, client="10.0.0.1")

    assert facts == Facts("claude-opus-5-5", SESSION, "10.0.0.1", True)
    assert facts.affinity == SESSION


def test_the_session_inside_the_body() -> None:
    assert read_facts(claude_code(), client="10.0.0.1").session_id == SESSION


def test_the_header_goes_before_the_body() -> None:
    assert read_facts(claude_code(), session_header="other").session_id == "other"


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        (f"user_{'a' * 64}_account__session_{SESSION}", SESSION),
        (f"user_{'a' * 64}_account_{SESSION}_session_{SESSION}", SESSION),
        ("customer-17", None),
        ('{"session_id": 5}', None),
        ('{"session_id": "a\\u0000b"}', None),
        ('["session_id"]', None),
        ("\ud800", None),
        ("[" * 1999, None),
        (17, None),
    ],
)
def test_forms_of_user_id(user_id: object, expected: str | None) -> None:
    facts = read_facts(claude_code(metadata={"user_id": user_id}), client="10.0.0.1")

    assert facts.session_id == expected
    assert facts.affinity == (expected or "10.0.0.1")


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model":"m","stream":true}', "m", True),
        (b' {\n "model" : "m" , "stream" : false\n}\n', "m", False),
        (b'{"model":"m"}', "m", False),
        (b'{"max_tokens":1,"stream":true,"model":"m"}', "m", True),
        (b'{"model":"m","stream":true,"max_tokens":1}', "m", True),
        (b'{"model":"m","tool":{"stream":true}}', "m", False),
        (b'{"model":"m","stream":"yes"}', "m", None),
        (b'{"model":"caf\\u00e9"}', "café", False),
        (b'{"model":7}', None, False),
        (b'{"model":""}', None, False),
        (b'{"model":"' + b"m" * 200 + b'"}', "m" * 200, False),
        (b'{"model":"a\\u001bb"}', None, False),
        (b'{"model":"' + b"m" * 201 + b'"}', None, False),
        (b'{"model":"m","cut', "m", False),
        (b'{"x":{"model":"m"}}', None, False),
    ],
)
def test_model_and_stream(body: bytes, model: str | None, stream: bool | None) -> None:
    facts = read_facts(body)

    assert (facts.model, facts.stream) == (model, stream)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'{"a":' * 100_000,
        b'{"n":' + b"9" * 10_000 + b"}",
        b'{"model":"\xff"',
        b"\x00" * 100,
    ],
)
def test_unreadable_bodies_give_no_facts(body: bytes) -> None:
    facts = read_facts(body, client="10.0.0.1")

    assert (facts.session_id, facts.stream, facts.affinity) == (None, None, "10.0.0.1")


@pytest.mark.parametrize("header", ["", "a\nb", "\x1b[31m", "x" * 201])
def test_a_bad_session_header_does_not_count(header: str) -> None:
    assert read_facts(b"{}", session_header=header, client="10.0.0.1").affinity == "10.0.0.1"


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_compressed_body(encode: object, request: pytest.FixtureRequest) -> None:
    coding = request.node.callspec.id
    body = gzip.compress(claude_code()) if coding == "gzip" else zlib.compress(claude_code())

    facts = read_facts(body, content_encoding=coding)

    assert facts == Facts("claude-opus-5-5", SESSION, "", True)


def test_a_bomb_is_not_unpacked_to_its_end() -> None:
    bomb = gzip.compress(b'{"model":"m","pad":"' + b"0" * (PARSE_LIMIT * 4) + b'","stream":true}')

    facts = read_facts(bomb, content_encoding="gzip")

    assert (facts.model, facts.stream) == ("m", None)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "rot13", "gzip, br"])
def test_a_body_that_is_not_what_its_coding_says(coding: str) -> None:
    assert read_facts(b"\x00garbage", content_encoding=coding, client="c") == Facts(client="c")


def test_a_long_body_gives_what_stands_at_its_ends() -> None:
    pad = b'"pad":"' + b"0" * PARSE_LIMIT + b'"'

    assert read_facts(b'{"model":"m",' + pad + b',"stream":true}') == Facts("m", None, "", True)
    assert read_facts(b"{" + pad + b',"model":"m","stream":true}') == Facts()


@given(st.binary(max_size=300) | st.text(max_size=80).map(str.encode), st.text(max_size=20))
def test_no_body_and_no_header_makes_it_raise(body: bytes, text: str) -> None:
    for coding in ("", "gzip", text):
        facts = read_facts(body, content_encoding=coding, session_header=text, client="c")
        assert facts.client == "c"


MODELS = st.text(min_size=1, max_size=40)
EXTRA = st.dictionaries(
    st.sampled_from(["messages", "tools", "system"]),
    st.sampled_from(['"stream":true}', {"stream": True}, "\\"]),
)


@given(MODELS, st.booleans() | st.none(), EXTRA, st.permutations(["model", "stream", "extra"]))
def test_the_glance_and_the_parse_agree(
    model: str, stream: bool | None, extra: dict[str, object], order: list[str]
) -> None:
    parts: dict[str, dict[str, object]] = {
        "model": {"model": model},
        "stream": {} if stream is None else {"stream": stream},
        "extra": extra,
    }
    body: dict[str, object] = {}
    for part in order:
        body |= parts[part]

    facts = read_facts(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))

    sayable = model.encode("utf-8", "replace").decode()
    assert facts.model == (sayable if sayable.isprintable() else None)
    assert facts.stream == bool(stream)


# --- every model that is asked for, for certain -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b'{"model":"a"}', ["a"]),
        (b'{"x":{"model":"b"},"model":"a"}', ["a"]),
        (b'{"requests":[{"params":{"model":"a"}},{"params":{"model":"b"}}]}', ["a", "b"]),
        (b'{"model":"a","requests":[{"params":{"model":"b"}}]}', ["a", "b"]),
    ],
)
def test_the_models_that_a_request_names(body: bytes, models: list[str] | None) -> None:
    assert models_asked(body) == models


def test_the_models_in_a_compressed_body() -> None:
    body = gzip.compress(b'{"model":"a"}')
    assert models_asked(body, content_encoding="gzip") == ["a"]
    assert models_asked(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'"model"',
        b'{"model":1}',
        b'{"model":null}',
        b'{"model":"a","model":"b"}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"model":"a","x":{"y":1,"y":2}}',
        b'{"model":"a","requests":[{}]}',
        b'{"model":"a","requests":[1]}',
        b'{"model":"a","requests":7}',
        b'{"requests":[{"params":{"model":"a"}},{"params":{"model":["b"]}}]}',
        b'{"model":"a"} {"model":"b"}',
        b'{"model":"' + b"a" * PARSE_LIMIT + b'"}',
        b"[" * 100_000,
    ],
    ids=range(16),
)
def test_a_body_that_could_mean_another_model_tells_none(body: bytes) -> None:
    assert models_asked(body) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise_when_models_are_asked_for(body: bytes) -> None:
    models_asked(body)


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


def conversation(*blocks: object, model: str = "claude-haiku-5-5", **fields: object) -> bytes:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": list(blocks)}]
    return json.dumps({"model": model, "messages": messages, "thinking": {"type": "adaptive"}, **fields}).encode()


@pytest.mark.parametrize(
    ("body", "stays"),
    [
        (conversation(THOUGHT), True),
        (conversation(THOUGHT, model="claude-sonnet-5-5-20261001"), True),
        (conversation(THOUGHT, model="claude-sonnet-5-5[1m]"), True),
        (conversation({"type": "redacted_thinking", "data": "x"}), True),
        (conversation(THOUGHT, speed="fast"), True),
        (conversation(THOUGHT, model="claude-sonnet-5"), False),
        (conversation(THOUGHT, model="claude-opus-5-5"), False),
        (conversation({"type": "text", "text": "No thought."}), False),
        (conversation({"type": "text", "text": json.dumps(THOUGHT)}), False),
        (conversation(context_management={"edits": [{"type": "clear_thinking_20251015"}]}), False),
    ],
)
def test_thinking_in_the_conversation_ties_it_to_the_account(body: bytes, stays: bool) -> None:
    facts = read_facts(body, session_header="s")

    assert facts.stays is stays
    assert not replace(facts, path_class="count_tokens").stays


def test_thinking_is_seen_in_a_compressed_body() -> None:
    body = gzip.compress(conversation(THOUGHT))

    assert read_facts(body, content_encoding="gzip").stays
