"""Where a body is cut: it is always whole again, and what stays the same from turn to turn is cut the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodies_kit import ODD, conversation
from ccflare_core.transcripts.splitting import SMALLEST, join, split

TOKENS = (
    *(b'{"messages":[', b'"system": [', b'"tools":[', b'{"role":"user","content":[', b'{"type":"text","text":"'),
    *(
        b'"}',
        b'},{"',
        b'} , {\n "',
        b"}]",
        b'}],"',
        b"]}",
        b'"',
        b"\\",
        b'\\"',
        b"{",
        b"[",
        b",",
        b":",
        b" \r\n\t",
        b"\xff\xfe",
    ),
    *(b',"cache_control":{"type":"ephemeral"}', b'"cache_control" : {', b"x-anthropic-billing-header: cch=ab12;"),
    *(b'"previous_message_id":"msg_1"', b"\\ud800", b"\x00", b"a" * 900, b"\xc3\xa9" * 2000, b"1e999999"),
)


@given(parts=st.lists(st.sampled_from(TOKENS) | st.binary(max_size=20), min_size=5, max_size=80))
def test_whatever_comes_is_whole_again(parts: list[bytes]) -> None:
    body = b"{" + b"".join(parts) * 4
    assert join(*split(body)) == body


@pytest.mark.parametrize("name", ODD)
def test_odd_bodies_are_whole_again(name: str) -> None:
    assert join(*split(ODD[name])) == ODD[name]


def test_a_small_body_is_one_piece() -> None:
    body = conversation(3)[0][: SMALLEST - 1]
    assert split(body) == ([body], [])


def test_the_next_turn_brings_new_pieces_only_at_its_end() -> None:
    known: set[bytes] = set()
    for turn, body in enumerate(conversation(30)):
        pieces = split(body).pieces
        fresh = [piece for piece in pieces if piece not in known]
        assert turn == 0 or sum(map(len, fresh)) < 10_000
        assert max(map(len, pieces)) < 40_000
        known |= set(pieces)


@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"separators": (",", ":"), "sort_keys": True}])
def test_other_spellings_of_json_are_cut_too(style: dict[str, object]) -> None:
    first, second = (json.dumps(json.loads(body), **style).encode() for body in conversation(40)[-2:])  # type: ignore[arg-type]
    known = split(first).pieces
    fresh = [piece for piece in split(second).pieces if piece not in known]
    assert sum(map(len, fresh)) < len(second) / 10


def test_a_long_text_is_a_piece_of_its_own_wherever_it_stands() -> None:
    text = "x = 1\\n" * 4000
    bodies = [
        b'{"messages":[{"role":"user","content":[{"id":"%s","content":"%s"}]}]}' % (n * 200, text.encode())
        for n in (b"a", b"b")
    ]
    assert {text.encode()} <= set(split(bodies[0]).pieces) & set(split(bodies[1]).pieces)


def test_the_work_is_bounded_whatever_comes() -> None:
    for part in (b'},{"', b'"cache_control":{},', b'"messages":[', b'"x'):
        body = b"{" + part * 300_000
        pieces, inserts = split(body)
        assert len(pieces) < 41_000
        assert len(inserts) <= 600
        assert join(pieces, inserts) == body


def test_an_insertion_out_of_place_is_refused() -> None:
    for inserts in ([(9, b"x")], [(2, b"x"), (1, b"y")]):
        with pytest.raises(ValueError, match="outside"):
            join([b"abc"], inserts)
