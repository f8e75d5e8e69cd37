"""A body that goes on from another is cut, named and digested as if it were the first."""

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodies_kit import ODD, turns
from ccflare_core.transcripts import splitting
from ccflare_core.transcripts.digests import digest
from ccflare_core.transcripts.pieces import Pieces, pieces
from ccflare_core.transcripts.splitting import split

# The last ones are the long strings, at whose quotation marks a body is cut too.
PARTS = st.sampled_from(
    (
        *(b'},{"', b'}],"', b'"}]},{"role":"user","content":[{"type":"text","text":"', b'}  ,\n { "', b'}\n]\n,\n"'),
        *(b'"messages":[', b'"system" : [', b'"tools":[', b'"tools"', b"]}", b'"', b'\\"', b"{", b"}", b",", b" "),
        *(b',"cache_control":{"type":"ephemeral"}', b'"previous_message_id":"msg_1"', b"x-anthropic-billing-header: 1"),
        *(b"lorem " * 20, b"lorem " * 180, b"lorem " * 700),
        *(b'"a":"' + b"y" * size + b'"' for size in (300, 1100, 8000, 8200, 20_000)),
    )
)
EDITS = st.tuples(st.integers(0, 1000), st.sampled_from((0, 0, 1, 2)), st.lists(PARTS, max_size=3))


def name(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()


def is_as_the_first(body: bytes, found: Pieces | None) -> bool:
    """Whether cuts, addresses, insertions and digest are those of the body alone."""
    whole, inserts = split(body)
    if found is None:
        return len(whole) == 1
    addresses = [name(piece) for piece in whole]
    return (found.addresses, found.taken.inserts, found.digested.digest) == (addresses, inserts, digest(body))


def bodies(parts: list[bytes], edits: list[tuple[int, int, list[bytes]]]) -> Iterator[bytes]:
    """A session: the body, and what each edit makes of it."""
    yield b"{" + b"".join(parts)
    for place, replaced, new in edits:
        at = place % (len(parts) + 1)
        parts = [*parts[:at], *new, *parts[at + replaced :]]
        yield b"{" + b"".join(parts)


@given(parts=st.lists(PARTS, min_size=5, max_size=60), edits=st.lists(EDITS, max_size=5))
def test_every_body_of_a_session_is_cut_as_the_first_would_be(
    parts: list[bytes], edits: list[tuple[int, int, list[bytes]]]
) -> None:
    earlier = None
    for body in bodies(parts, edits):
        found = pieces(body, name, earlier)
        assert is_as_the_first(body, found)
        earlier = found or earlier


@given(parts=st.lists(PARTS, min_size=5, max_size=60), edits=st.lists(EDITS, max_size=3))
def test_what_has_too_many_cuts_is_cut_from_the_beginning(
    parts: list[bytes], edits: list[tuple[int, int, list[bytes]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "_MOST", 6)
        test_every_body_of_a_session_is_cut_as_the_first_would_be.hypothesis.inner_test(parts, edits)  # type: ignore[attr-defined]


def test_the_turns_of_a_conversation_are_named_only_where_they_are_new() -> None:
    named: list[int] = []

    def counted(piece: bytes) -> bytes:
        named.append(len(piece))
        return name(piece)

    earlier = None
    for turn, body in enumerate(turns(60, files=(20, 40))):
        named.clear()
        found = pieces(body, counted, earlier)
        assert is_as_the_first(body, found)
        assert turn in (0, 20, 21, 40, 41) or sum(named) < 12_000
        earlier = found


def test_what_is_remembered_is_not_shown() -> None:
    found = pieces(ODD["ordinary"], name)
    assert found is not None
    assert (repr(found), repr(found.cuts)) == (
        "<Pieces>",
        f"<Cuts: {len(found.addresses)} pieces>",
    )


@pytest.mark.parametrize("kind", ODD)
def test_odd_bodies_go_on_from_an_ordinary_one(kind: str) -> None:
    earlier = pieces(ODD["ordinary"], name)
    found = pieces(ODD[kind], name, earlier)
    assert is_as_the_first(ODD[kind], found)
    again = pieces(ODD["ordinary"], name, found)
    assert is_as_the_first(ODD["ordinary"], again)
