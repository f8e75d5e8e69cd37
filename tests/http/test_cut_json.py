"""JSON that was cut off anywhere gives what had come of it."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.http.cut_json import DEPTH, parse_cut

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
HALF = re.compile("[\ufffd\ud800-\udbff]$")
"""What is left of a character that was cut in two."""
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def is_beginning(cut: Any, whole: Any) -> bool:
    """Whether one is what the other is, as far as it goes."""
    if isinstance(whole, dict):
        names = list(whole)[: len(cut)]
        return list(cut) == names and all(is_beginning(cut[name], whole[name]) for name in names)
    if isinstance(whole, list):
        return len(cut) <= len(whole) and all(map(is_beginning, cut, whole))
    return whole.startswith(HALF.sub("", cut)) if isinstance(whole, str) else cut == whole


@given(VALUES.filter(lambda value: isinstance(value, dict | list)), st.data(), st.booleans())
def test_a_cut_text_gives_the_beginning_of_its_value(value: Any, data: st.DataObject, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    cut = parse_cut(text[: data.draw(st.integers(1, len(text)))])
    assert is_beginning(cut, value)


@given(st.binary())
def test_any_bytes_are_taken(text: bytes) -> None:
    parse_cut(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": "b', {"a": "b"}),
        (b'{"a": "b\\', {"a": "b"}),
        (b'{"a": "b\\u00', {"a": "b"}),
        (b'{"a": "b\\"', {"a": 'b"'}),
        (b'{"a": "b\\\\u00', {"a": "b\\u00"}),
        (b'{"a": 1, "b', {"a": 1}),
        (b'{"a": 1, "b": 2', {"a": 1}),
        (b'[1, {"x": [true, "y', [1, {"x": [True, "y"]}]),
        (b"[1, tru", [1]),
        (b'"abc', "abc"),
        (b'{"a": "b"', {"a": "b"}),
    ],
)
def test_what_had_come_is_kept(text: bytes, value: object) -> None:
    assert parse_cut(text) == value


@pytest.mark.parametrize("text", [b"", b"x", b"<html>", b"}", b"[}", b"[" * (DEPTH + 1)])
def test_what_is_no_json_is_nothing(text: bytes) -> None:
    assert parse_cut(text) is None
