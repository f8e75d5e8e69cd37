"""Entries put into a settings file and taken out again."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_cli.companion.edits import Change, apply, conflicts
from ccflare_cli.companion.jsonc import MISSING, Element

ENV: dict[Any, object] = {
    ("env", "HTTPS_PROXY"): "http://x",
    ("env", "NO_PROXY"): "localhost",
    ("promptCacheTtl",): "1h",
}
LIST: dict[Any, object] = {("claudeCode.environmentVariables", Element("HTTPS_PROXY")): "http://x"}
THEIRS = b'{\n    // mine\n    "model": "opus",\n    "env": {"A": "1"}\n}\n'


def remembered(change: Change) -> Change:
    """As it comes back out of its file."""
    return Change.read(json.loads(json.dumps(change.written())))


@pytest.mark.parametrize(
    "before", [b"", b"{}", THEIRS, THEIRS.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + THEIRS, b"// a\n"]
)
@pytest.mark.parametrize("wanted", [ENV, LIST])
def test_a_file_that_nobody_touched_becomes_what_it_was(before: bytes, wanted: dict[Any, object]) -> None:
    after, change = apply(before, wanted)

    assert list(conflicts(after, wanted)) == []
    assert after != before
    assert remembered(change).undone(after) == before


def test_in_a_file_that_was_touched_only_our_entries_go() -> None:
    after, change = apply(THEIRS, ENV)
    touched = after.replace(b'"model": "opus"', b'"model": "sonnet"').replace(b'"localhost"', b'"theirs"')

    assert json.loads(remembered(change).undone(touched).replace(b"// mine", b"")) == {
        "model": "sonnet",
        "env": {"A": "1", "NO_PROXY": "theirs"},
    }


def test_what_was_made_goes_if_nothing_else_is_in_it() -> None:
    after, change = apply(b'{"a": 1}', ENV)
    more, change_of_list = apply(b'{"a": 1}', LIST)

    assert remembered(change).undone(after.replace(b'"a": 1', b'"a": 2')) == b'{"a": 2}'
    assert remembered(change_of_list).undone(more.replace(b'"a": 1', b'"a": 2')) == b'{"a": 2}'


def test_a_value_of_the_users_comes_back() -> None:
    before = b'{"env": {"HTTPS_PROXY": "http://theirs", "ANTHROPIC_BASE_URL": "http://other"}, "z": 1}'
    wanted = {**ENV, ("env", "ANTHROPIC_BASE_URL"): MISSING}

    after, change = apply(before, wanted)

    assert [path[-1] for path in conflicts(before, wanted)] == ["HTTPS_PROXY", "ANTHROPIC_BASE_URL"]
    assert b"http://other" not in after
    assert remembered(change).undone(after) == before
    assert json.loads(remembered(change).undone(after.replace(b'"z": 1', b'"z": 2'))) == json.loads(before) | {"z": 2}


def test_what_is_there_already_is_no_entry_of_ours() -> None:
    before = b'{"env": {"HTTPS_PROXY": "http://x"}}'

    after, change = apply(before, {("env", "HTTPS_PROXY"): "http://x"})

    assert (after, change.entries) == (before, ())


def test_a_key_is_remembered_as_a_digest_alone() -> None:
    _, change = apply(THEIRS, {("env", "HTTPS_PROXY"): "http://key:ccf_EXAMPLE@x"})

    assert "ccf_EXAMPLE" not in json.dumps(change.written())


def test_what_is_no_text_or_no_json_is_not_edited() -> None:
    for content in (b"\xff\xfe{}", b"{oops}", b'{"env": []}'):
        with pytest.raises(ValueError, match=r"."):
            apply(content, ENV)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_stretch_that_differs_is_put_back(before: bytes, after: bytes) -> None:
    change = remembered(Change.between(before, after, (), ()))

    assert change.undone(after) == before
