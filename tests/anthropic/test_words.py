"""Words are found in every body of a conversation as they would be in it alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic import demands, request
from ccflare_core.anthropic.ids import named_by
from ccflare_core.anthropic.request import ESCAPE, ESCAPED_NAME, RARE_NAMES, read_facts
from ccflare_core.anthropic.words import Word, Words

NAMES = (ESCAPE, ESCAPED_NAME, demands._ANOTHER_MODEL, demands._OUTPUT_CONFIG)
LOOKED_FOR = (RARE_NAMES, request._THINKING, *NAMES, Word(re.compile(rb"ab"), b"a"))
PARTS = st.sampled_from(
    (
        *(
            b'"thread"',
            b'"thr',
            b'ead"',
            b'"spe',
            b'ed"',
            b'"file_id":"f"',
            b'\\"container\\"',
            b'"',
            b"\\",
            b"a",
            b"b",
        ),
        *(b'"type"', b'"ty', b'pe"', b" " * 30, b":", b'"thinking"', b'"redacted_', b'thinking"', b"\\u006", b"\\u0"),
        *(
            b'"model":"m"',
            b'"mod',
            b'el"',
            b'"output_config"',
            b'"stream":true',
            b"{",
            b"}",
            b",",
            b"x" * 50,
            b"[",
            b"]",
            b"null",
        ),
    )
)
BODIES = st.lists(PARTS, max_size=20)


@given(front=BODIES, ends=st.lists(BODIES, min_size=2, max_size=4), asked=st.sets(st.sampled_from(LOOKED_FOR)))
def test_words_of_a_session_are_those_of_each_body(
    front: list[bytes], ends: list[list[bytes]], asked: set[Word]
) -> None:
    begun, words = b"".join(front), None
    for end in ends:
        body = begun + b"".join(end)
        words = Words(body, words, len(begun))
        for word in asked:
            assert words.has(word) == (word.pattern.search(body) is not None)
    assert words is not None
    for word in LOOKED_FOR:
        assert words.has(word) == (word.pattern.search(words.body) is not None)


@given(front=BODIES, ends=st.lists(BODIES, min_size=2, max_size=4), model=st.sampled_from(("m", "claude-sonnet-5-5")))
def test_words_that_are_known_change_no_fact(front: list[bytes], ends: list[list[bytes]], model: str) -> None:
    begun, words = b'{"model":"%s",' % model.encode() + b"".join(front), None
    for end in ends:
        body = begun + b"".join(end)
        words = Words(body, words, len(begun))
        assert read_facts(body, words=words) == read_facts(body)
        for strict in (False, True):
            known = named_by("POST", "/v1/messages", body, strict=strict, words=words)
            assert known == named_by("POST", "/v1/messages", body, strict=strict)


def test_words_of_another_text_do_not_count() -> None:
    body = b'{"model":"m","speed":"fast"}'
    assert read_facts(body, words=Words(b"{}")).mode == "fast"


@pytest.mark.parametrize("name", ["file_id", "container", "fallback_credit_token", "thread", "speed", "service_tier"])
def test_words_that_decide_are_rare_names(name: str) -> None:
    assert Words(b'{"%s":1}' % name.encode()).has(RARE_NAMES)


def test_words_are_not_shown() -> None:
    assert repr(Words(b'"secret"')) == "<Words>"
