"""What a request asks to be run: told for certain, or not at all."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccflare_core.anthropic.demands import DEFAULT, EFFORTS, Demands, up_to
from ccflare_core.anthropic.request import PARSE_LIMIT
from ccflare_core.anthropic.words import Words
from harness import claude_request

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-4-5"


def demands(request: Any) -> Demands:
    return Demands(json.dumps(request).encode())


def turn(effort: str | None) -> dict[str, Any]:
    """A message that changes the effort of what comes behind it."""
    return {"role": "system", "content": [], "output_config": {"effort": effort}}


def added(definition: dict[str, Any]) -> dict[str, Any]:
    """A message that adds a tool."""
    tool = {"type": "tool_definition", "definition": definition}
    return {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}


ASKS = {"role": "user", "content": "Go on."}
FOUND = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]}
BOTH = {"role": "user", "content": [*FOUND["content"], {"type": "text", "text": "Go on."}]}
ANSWERS = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    ("messages", "efforts"),
    [
        ([ASKS, turn("low")], {"low"}),
        ([ASKS, turn("max"), turn("low")], {"low"}),
        ([ASKS, ANSWERS, turn("low"), ASKS], {"low"}),
        ([ASKS, turn("low"), ANSWERS, ASKS, ANSWERS, BOTH], {"low"}),
        ([ASKS, turn("low"), ANSWERS, ASKS, turn("max")], {"max"}),
        ([ASKS, ANSWERS, turn("max"), turn("low"), ASKS], {"low"}),
        ([ASKS, ANSWERS, turn("low")], {"xhigh", "low"}),
        ([ASKS, ANSWERS, turn("low"), FOUND], {"xhigh", "low"}),
        ([ASKS, ANSWERS, FOUND, turn("low")], {"xhigh", "low"}),
        ([ASKS, turn("low"), ANSWERS, turn("max"), FOUND], {"low", "max"}),
        ([ASKS, turn("low"), ANSWERS, ASKS, turn(None)], {"xhigh", "low"}),
        ([ASKS, turn("low") | {"role": "user"}], {"xhigh", "low"}),
        ([ASKS, turn("low") | {"role": "assistant"}], {"xhigh", "low"}),
        ([ASKS, turn("low") | {"output_config": {}}], {"xhigh"}),
    ],
)
def test_an_effort_that_a_message_says_is_in_force_until_another_one_says_more(
    messages: list[dict[str, Any]], efforts: set[str]
) -> None:
    asked = demands({"model": OPUS, "messages": messages, "output_config": {"effort": "xhigh"}})

    assert set(asked.efforts or ()) == efforts


def test_claude_codes_request_is_told() -> None:
    asked = Demands(claude_request(4000).body)

    assert (asked.models, asked.efforts) == (("claude-opus-4-8",), ("high",))


def test_a_request_without_an_effort_has_what_the_api_makes_of_it() -> None:
    assert demands({"model": OPUS}).efforts == (DEFAULT,)
    for config in (None, {}, {"effort": None}):
        assert demands({"model": OPUS, "output_config": config}).efforts == (DEFAULT,)


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_is_told_wherever_it_stands(effort: str) -> None:
    request = {"output_config": {"effort": effort}, "model": OPUS, "messages": [{"content": '{"effort": "low"}'}]}

    assert demands(request).efforts == (effort,)
    assert Demands(gzip.compress(json.dumps(request).encode()), "gzip").efforts == (effort,)


@pytest.mark.parametrize(
    ("request_", "models", "efforts"),
    [
        ({"model": OPUS, "tools": [{"type": "advisor", "model": HAIKU}]}, (OPUS, HAIKU), (DEFAULT,)),
        (
            {"model": OPUS, "fallbacks": [{"model": HAIKU, "output_config": {"effort": "max"}}]},
            (OPUS, HAIKU),
            ("high", "max"),
        ),
        ({"model": OPUS, "tools": [{"input_schema": {"model": {"type": "string"}}}]}, (OPUS,), (DEFAULT,)),
        ({"model": OPUS, "messages": [{"input": {"model": "opus"}}]}, (OPUS,), (DEFAULT,)),
        ({"messages": [], "model": HAIKU}, (HAIKU,), (DEFAULT,)),
        ({"messages": []}, None, (DEFAULT,)),
        ({"model": OPUS, "fallbacks": "default"}, (OPUS, "fallbacks=default"), (DEFAULT,)),
        (
            {"model": OPUS, "output_config": {"effort": "low"}, "messages": [turn("max"), turn(None), turn("medium")]},
            (OPUS,),
            ("low", "max", "medium"),
        ),
        ({"model": OPUS, "messages": [turn("max")], "output_config": {"effort": "low"}}, (OPUS,), ("low", "max")),
        ({"model": OPUS, "messages": [turn("ultra")]}, (OPUS,), None),
        ({"model": OPUS, "messages": [added({"type": "advisor", "model": HAIKU})]}, (OPUS, HAIKU), (DEFAULT,)),
        ({"model": OPUS, "messages": [{"output_config": "max"}]}, (OPUS,), None),
        ({"model": OPUS, "output_config": {"effort": "ultra"}}, (OPUS,), None),
        ({"model": OPUS, "output_config": {"effort": ["low"]}}, (OPUS,), None),
        ({"model": OPUS, "output_config": "effort"}, (OPUS,), None),
    ],
)
def test_models_and_efforts_are_those_of_all_parts_that_run_one(
    request_: dict[str, Any], models: tuple[str, ...] | None, efforts: tuple[str, ...] | None
) -> None:
    assert (demands(request_).models, demands(request_).efforts) == (models, efforts)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"claude-haiku-4-5","model":"claude-opus-5-5","output_config":{"effort":"low","effort":"max"}}',
        b'{"model":"claude-haiku-4-5","\\u006dodel":"claude-opus-5-5","output_config":{"effort":"low","\\u0065ffort":"max"}}',
        '{"model":"claude-haiku-4-5","model":"claude-opus-5-5","effort":1}'.encode("utf-16"),
        b'{"model":"claude-haiku-4-5","output_config":{}} {"model":"claude-opus-5-5"}',
        b'{"model":"claude-haiku-4-5","model" : ["claude-opus-5-5"],"output_config":1}',
        b'{"model":"claude-haiku-4-5","model"         :  "claude-opus-5-5","output_config":{"effort":[]}}',
        b'{"model":"claude-haiku-4-5","model":         \t"claude-opus-5-5","output_config":{"effort":[]}}',
        b"\x1f\x8b",
        b'"effort"',
        b"",
    ],
)
def test_a_body_with_two_readings_tells_nothing(body: bytes) -> None:
    assert (Demands(body).models, Demands(body).efforts) == (None, None)


def test_a_long_body_is_told_by_its_beginning_where_nothing_else_may_be_meant() -> None:
    filling = "x" * PARSE_LIMIT
    plain = demands({"model": OPUS, "messages": [filling]})
    config = {"output_config": {"effort": "low"}}
    other = demands({"model": OPUS, **config, "messages": [filling], "tools": [{"model": HAIKU}]})

    assert (plain.models, plain.efforts) == ((OPUS,), (DEFAULT,))
    assert (other.models, other.efforts) == (None, None)


@pytest.mark.parametrize(
    ("messages", "own", "efforts"),
    [
        ([turn("low")], {"effort": "low"}, {"low"}),
        ([ASKS, turn("max"), turn("low")], {"effort": "low"}, {"low", "max"}),
        ([turn("low")], None, None),
        ([turn("ultra")], {"effort": "low"}, None),
        ([turn("low") | {"output_config": {"effort": None}}], {"effort": "low"}, None),
        ([], {"format": {}, "effort": "low"}, None),
        (["output_config"], {"effort": "low"}, None),
    ],
)
def test_all_efforts_of_a_body_that_is_too_long_to_be_parsed_count(
    messages: list[Any], own: dict[str, Any] | None, efforts: set[str] | None
) -> None:
    config = {"output_config": own} if own else {}
    asked = demands({"model": OPUS, "messages": [*messages, "x" * PARSE_LIMIT], **config})

    assert (None if asked.efforts is None else set(asked.efforts)) == efforts


@pytest.mark.parametrize(
    ("end", "efforts"),
    [
        (b',"output_config":{"effort":"low"}}', ("low",)),
        (
            b', "output_config" : { "effort" : "max" } , "diagnostics":{"previous_message_id":"m"},"stream":true}\n',
            ("max",),
        ),
        (b',"a":{"b":1,"output_config":{"effort":"low"}}}', ("high",)),
        (b',"a":{"b":1,"output_config":{"effort":"low"},"stream":true}}', ("high",)),
        (b',"abc,\\"output_config":{"effort":"low"},"stream":true}', ("high",)),
        (b',"output_config":{"effort":"max"},"a":{"b":1,"output_config":{"effort":"low"}}}', ("max",)),
        (b',"output_config":{"effort":"low","effort":"max"}}', None),
        (b',"output_config":{"effort":"low"},"output_config":{"effort":"max"}}', None),
    ],
)
def test_an_effort_at_the_end_is_the_requests_own(end: bytes, efforts: tuple[str, ...] | None) -> None:
    assert Demands(b'{"model":"claude-opus-5-5"' + end).efforts == efforts


def test_a_conversation_that_goes_on_is_read_as_one_that_begins() -> None:
    """What is known of its beginning is not looked for again."""
    begun = claude_request(4000).body
    for more in (
        b"hello",
        b'","model":"claude-opus-5-5',
        b'","output_config":{"effort":"low"},"a":"',
        b'","\\u006dodel":"x',
    ):
        first = Words(begun)
        assert Demands(begun, words=first).models == ("claude-opus-4-8",)
        assert Demands(begun, words=first).efforts == ("high",)
        at = begun.index(b'"text":"') + len(b'"text":"')
        grown = begun[:at] + more + begun[at:]
        again = Demands(grown, words=Words(grown, first, at))

        assert (again.models, again.efforts) == (Demands(grown).models, Demands(grown).efforts)


JSON = st.recursive(
    st.sampled_from([OPUS, HAIKU, "low", "max", "model", "effort", None, 1]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "tools", "fallbacks", "output_config", "effort", "messages"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(request=st.dictionaries(st.sampled_from(["model", "tools", "fallbacks", "output_config", "messages"]), JSON))
def test_what_is_told_at_a_glance_is_what_a_parser_reads(request: dict[str, Any]) -> None:
    """The gzip takes the way of the parser. An object is no model, as a tool's parameter of that name is none."""
    glanced = demands({"model": OPUS} | request)
    parsed = Demands(gzip.compress(json.dumps({"model": OPUS} | request).encode()), "gzip")

    assert glanced.models == parsed.models or (glanced.models == (request.get("model", OPUS),) and has_object(request))
    assert glanced.efforts == parsed.efforts


def has_object(value: Any) -> bool:
    """Whether an object stands somewhere under the name of a model."""
    if isinstance(value, list):
        return any(map(has_object, value))
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("model"), dict) or any(map(has_object, value.values()))


def test_a_cap_allows_what_is_not_above_it() -> None:
    assert [*up_to("medium")] == ["low", "medium"]
