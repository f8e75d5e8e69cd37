"""What the requests of a batch may take, read from its body."""

import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic import batch_requests
from ccflare_core.anthropic.batch_requests import BatchSize, Unreadable, requests_of, weigh
from ccflare_core.anthropic.demands import DEFAULT
from ccflare_core.anthropic.ids import named_by, named_in_batch
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.prompt_size import IMAGE_TOKENS, estimated_tokens
from ccflare_core.anthropic.request import MOST_OUTPUT

PRICES = PriceList()
OPUS, HAIKU = "claude-opus-4-8", "claude-haiku-4-5"


def one(model: str = OPUS, text: str = "Hello.", **params: Any) -> dict[str, Any]:
    """A request of a batch."""
    content = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": "r", "params": content | params}


def batch(*requests: Any, **more: Any) -> bytes:
    return json.dumps({"requests": requests, **more}).encode()


def size(*requests: Any) -> BatchSize:
    return weigh(batch(*requests), "", PRICES)


def prompt(request: Any) -> int:
    return estimated_tokens(json.dumps(request).encode())


def test_a_batch_is_the_sum_of_its_requests_at_half_the_price() -> None:
    requests = (one(text="x" * 3000), one(HAIKU, max_tokens=20))
    prompts = [prompt(each) for each in requests]

    dollars = (Decimal(prompts[0] * 5 + 100 * 25) + Decimal(prompts[1] * 1 + 20 * 5)).scaleb(-6) / 2
    assert size(*requests) == BatchSize(2, sum(prompts) + 120, dollars, frozenset({OPUS, HAIKU}), frozenset({DEFAULT}))


def test_a_batch_has_the_efforts_of_all_its_requests_or_none_that_is_known() -> None:
    low, odd = ({"params": {"model": OPUS, "output_config": {"effort": effort}}} for effort in ("low", "odd"))

    assert size(one(), low).efforts == frozenset({"low", DEFAULT})
    assert size(one(), odd, low).efforts is None


def test_a_batch_without_requests_takes_nothing() -> None:
    assert size() == weigh(b"{}", "", PRICES) == BatchSize(0, 0, Decimal(0), frozenset())


@pytest.mark.parametrize(
    ("params", "factor"),
    [
        ({"inference_geo": "us"}, Decimal("1.1")),
        ({"speed": "fast"}, Decimal(2)),
    ],
)
def test_where_and_how_fast_it_is_made_has_its_price(params: dict[str, Any], factor: Decimal) -> None:
    request = one(**params)
    assert size(request).dollars == (prompt(request) * 5 + 100 * 25) * factor / 2_000_000


def test_a_prompt_that_may_be_cached_has_the_price_of_writing_it() -> None:
    request = one(system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}])
    assert size(request).dollars == Decimal(prompt(request) * 10 + 100 * 25) / 2_000_000


@pytest.mark.parametrize("limit", [None, "9", 1.5, True, -1])
def test_an_answer_without_a_limit_is_as_long_as_the_longest(limit: object) -> None:
    assert size(one(max_tokens=limit)).tokens == prompt(one(max_tokens=limit)) + MOST_OUTPUT


def test_an_unknown_model_has_the_price_of_the_dearest() -> None:
    request = one("claude-next-9")
    assert size(request).dollars == Decimal(prompt(request) * 15 + 100 * 75) / 2_000_000


def test_every_model_is_named_also_in_parts() -> None:
    request = one(tools=[{"type": "advisor_20260301", "name": "advisor", "model": "claude-fable-5-2"}])
    assert size(request, one(HAIKU)).models == {OPUS, HAIKU, "claude-fable-5-2"}


def test_a_name_written_with_escapes_is_read_all_the_same() -> None:
    text = batch(one(max_tokens=77)).replace(b'"max_tokens"', b'"max\\u005ftokens"').replace(b'"req', b'"\\u0072eq')
    assert weigh(text, "", PRICES).tokens == estimated_tokens(text[len(b'{"\\u0072equests": [') : -2]) + 77


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"requests"',
        b'{"requests":[',
        b'{"requests":[{}',
        b'{"requests":[{}]}',
        b'{"requests":{}}',
        b'{"requests":[1]}',
        b'{"requests":[{"params":[]}]}',
        b'{"requests":[],"requests":[]}',
        b'{"requests":[{"params":{"model":"m","model":"n"}}]}',
        b'{"requests":[{"params":{"model":"m"}]}]}',
        b'{"requests":[{"params":{"model":"m"}}]} x',
        b'{"requests":[{"params":{"model":"m"}},]}',
        b'{"requests":[{"params":{}}]}',
        b'{"requests":[{"params":{"model":"m\\n"}}]}',
        b'{"requests":[{"params":{"model":7}}]}',
        b'{"requests":[{"params":{"model":"m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}}]}",
        '{"requests":[]}'.encode("utf-16"),
        b'{"requests":[{"params":{"model":"\xff"}}]}',
        b'{"a\\x":1}',
        b'{"requests":[]' + b"\0}",
    ],
)
def test_what_has_no_single_reading_is_not_read(text: bytes) -> None:
    with pytest.raises(Unreadable):
        weigh(text, "", PRICES)


def test_a_content_coding_is_undone_or_named() -> None:
    assert weigh(gzip.compress(batch(one())), "gzip", PRICES) == size(one())
    for coding in ("rot13", "gzip"):
        with pytest.raises(Unreadable, match="send it without a content coding"):
            weigh(b"\x1f\x8bno", coding, PRICES)


def test_a_bomb_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_requests, "DECODED_LIMIT", 1000)
    with pytest.raises(Unreadable, match="too long"):
        weigh(gzip.compress(b" " * 1_000_000 + batch()), "gzip", PRICES)


@pytest.mark.parametrize("inside", [b"[]," * 600_000 + b"1", b"1," * 1_100_000 + b"1"])
def test_a_request_of_too_many_values_is_not_parsed(inside: bytes) -> None:
    with pytest.raises(Unreadable, match="too large"):
        weigh(b'{"requests":[{"params":{"model":"m","x":[' + inside + b"]}}]}", "", PRICES)


def test_images_of_any_size_have_no_more_than_the_largest() -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR" + "A" * 5_000_000},
    }
    found = size(one(messages=[{"role": "user", "content": [image, image]}]))

    assert 2 * IMAGE_TOKENS < found.tokens < 2 * IMAGE_TOKENS + 300


def test_one_request_at_a_time_is_in_memory() -> None:
    text = batch(*[one(text="word " * 20_000)] * 300)  # 30 MB
    tracemalloc.start()
    try:
        assert weigh(text, "", PRICES).requests == 300
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.sampled_from([one(), one(HAIKU, '"\\]}[{'), one(text='{"max_tokens": 1}')]), max_size=5), st.data())
def test_any_json_is_walked_over_as_it_is_parsed(requests: list[Any], data: st.DataObject) -> None:
    more = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
    before, after = data.draw(more), data.draw(more)
    text = json.dumps({"a": before, "requests": requests, "z": after}, indent=data.draw(st.sampled_from([None, 1])))

    found = weigh(text.encode(), "", PRICES)

    assert found.requests == len(requests)
    assert found.models == frozenset(each["params"]["model"] for each in requests)


def test_the_time_grows_with_the_size_alone() -> None:
    def seconds(number: int) -> float:
        text = batch(*[one(text="word [{ " * 100)] * number)
        began = time.process_time()
        weigh(text, "", PRICES)
        return time.process_time() - began

    seconds(100)
    assert min(seconds(8_000) for _ in range(3)) < 40 * max(seconds(1_000), 0.005)


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_body_reads_the_same_in_whatever_pieces_it_comes(step: int) -> None:
    text = (
        b' { "a\\"b" : [1, {"x": "]}"}], "n": -1.5e3 , "requests" : '
        b'[ {"custom_id":"1","params":{"model":"m","max_tokens":5}}'
        b' , {"params":{"model":"n\\\\","max_tokens":7,"x":"\\u0022[{"}} ] , "z": null } '
    )
    pieces = [text[start : start + step] for start in range(0, len(text), step)]

    assert weigh(iter(pieces), "", PRICES) == weigh(text, "", PRICES)
    assert list(requests_of(iter(pieces))) == list(requests_of(text))


@given(st.data())
def test_body_with_one_reading_less_has_none_in_pieces_either(data: st.DataObject) -> None:
    whole = batch(one(), one())
    text = whole[: data.draw(st.integers(0, len(whole) - 1))]
    step = data.draw(st.integers(1, 50))

    with pytest.raises(Unreadable):
        weigh((text[start : start + step] for start in range(0, len(text), step)), "", PRICES)


def test_batch_of_any_size_takes_no_more_memory_than_a_request() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"requests":['
        for number in range(200):
            yield (b"," if number else b"") + json.dumps(one(text="y" * 500_000)).encode()
        yield b"]}"

    tracemalloc.start()
    try:
        found = weigh(pieces(), "", PRICES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found.requests == 200
    assert peak < 16 * 1024**2


def test_requests_of_a_batch_name_what_they_name_in_one_body() -> None:
    texts = [
        b'{"params":{"model":"m","messages":[{"role":"user","content":[{"type":"document","source":{"type":"file",'
        b'"file_id":"file_%d"}}]}]}}' % number
        for number in (1, 2, 1)
    ]
    body = b'{"requests":[' + b",".join(texts) + b"]}"

    assert named_in_batch(iter(texts)) == named_by("POST", "/v1/messages/batches", body)
    assert named_in_batch([b'{"params":{"container":"c","container":"d"}}'], strict=True).problem
