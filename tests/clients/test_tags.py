"""Tags: what is one, and which of them a request's fields bring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.tags import MOST_TAGS, NO_TAGS, read_tags, split, valid_tag
from ccflare_core.http.headers import Header


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("ticket=12", True),
        ("a-b_1=two words, ü", True),
        ("x=a=b", True),
        ("x=" + "y" * 64, True),
        ("x=" + "y" * 65, False),
        ("x" * 33 + "=y", False),
        ("X=y", False),
        ("x=", False),
        ("=y", False),
        ("x", False),
        ("x=a\nb", False),
        ("x=a\x1b[2Jb", False),
        ("x=a\u202eb", False),
        ("x=a\u200bb", False),
        ("x=\udcff", False),
        ("ü=y", False),
    ],
)
def test_a_tag_is_a_short_name_and_a_short_value_that_can_be_printed(text: str, is_valid: bool) -> None:
    assert valid_tag(text) is is_valid


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ((), {}),
        ((b"ticket=12",), {"ticket": "12"}),
        ((b"ticket=12", b"who=me"), {"ticket": "12", "who": "me"}),
        ((b"ticket=12,who=me , a=b=c",), {"ticket": "12", "who": "me", "a": "b=c"}),
        ((b"", b" , ticket=12,"), {"ticket": "12"}),
        (("who=u\u0308".encode(),), {"who": "ü"}),
    ],
)
def test_tags_come_one_by_one_or_with_commas(values: tuple[bytes, ...], tags: dict[str, str]) -> None:
    fields = [(b"accept", b"*/*"), *((b"X-ccflare-Tag", value) for value in values)]
    assert read_tags(fields) == (tags, "")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((b"ticket",), "takes name=value"),
        ((b"Ticket=12",), "takes name=value"),
        ((b"ticket=12,who",), "takes name=value"),
        ((b"who=a\x07",), "takes name=value"),
        ((b"who=\xe2\x80\xaea",), "takes name=value"),
        ((b"who=\xff",), "takes name=value"),
        ((b"a=1,b=1", b"c=1,d=1,e=1"), "takes 4 tags at most, and each name once."),
        ((b"a=1", b"a=2"), "takes 4 tags at most, and each name once."),
    ],
)
def test_tags_that_cannot_be_recorded_are_told_in_words_of_ours(values: tuple[bytes, ...], problem: str) -> None:
    tags, told = read_tags([(b"x-ccflare-tag", value) for value in values])

    assert tags == {}
    assert problem in told
    assert told.isascii()


def test_other_fields_are_no_tags() -> None:
    assert read_tags([(b"x-ccflare-tags", b"a=b"), (b"x-ccflare-account", b"a=b")]) == NO_TAGS


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_tags_of_any_bytes_are_few_and_each_is_one_or_there_are_none(values: list[bytes]) -> None:
    fields: list[Header] = [(b"x-ccflare-tag", value) for value in values]
    tags, problem = read_tags(fields)

    assert len(tags) <= MOST_TAGS
    assert all(
        split(f"{name}={value}") == (name, value) and valid_tag(f"{name}={value}") for name, value in tags.items()
    )
    assert not (tags and problem)
