"""Settings edited in place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_cli.companion.jsonc import MISSING, Element, parse, value_at
from ccflare_cli.companion.jsonc_edits import put, take

PROXY = ("env", "HTTPS_PROXY")
IN_VSCODE = ("claudeCode.environmentVariables", Element("HTTPS_PROXY"))
COMMENTED = """\
// mine
{
    "model": "opus", // the good one
    /* what
       I set */
    "env": {
        "A": "1", // first
        "B": "//no comment" // last
        // "C": "3"
    },
    "list": [
        1,
        2,
    ], // with a comma at its end
    "z": {} // the end
}
// bye
"""


def test_a_member_is_put_behind_the_last_one_and_comments_stay() -> None:
    assert put(COMMENTED, PROXY, "http://x") == COMMENTED.replace(
        '"B": "//no comment" // last\n', '"B": "//no comment", // last\n        "HTTPS_PROXY": "http://x"\n'
    )


def test_a_value_is_replaced_where_it_stands() -> None:
    assert put(COMMENTED, ("env", "A"), "2") == COMMENTED.replace('"A": "1", // first', '"A": "2", // first')


def test_what_leads_to_a_member_is_made_in_the_files_own_indentation() -> None:
    assert put(COMMENTED, ("z", "deep", "er"), 1) == COMMENTED.replace(
        '"z": {} // the end', '"z": {\n        "deep": {\n            "er": 1\n        }\n    } // the end'
    )
    assert put('{\n\t"a": 1\n}\n', PROXY, "x") == '{\n\t"a": 1,\n\t"env": {\n\t\t"HTTPS_PROXY": "x"\n\t}\n}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "env": {\n    "HTTPS_PROXY": "x"\n  }\n}\n'),
        ("{}", '{\n  "env": {\n    "HTTPS_PROXY": "x"\n  }\n}'),
        ("// mine\n", '// mine\n{\n  "env": {\n    "HTTPS_PROXY": "x"\n  }\n}\n'),
        ("{ // mine\n}\n", '{ // mine\n  "env": {\n    "HTTPS_PROXY": "x"\n  }\n}\n'),
        ('{"a": 1}', '{"a": 1, "env": {"HTTPS_PROXY": "x"}}'),
        ('{"env": {"A": "1",}}', '{"env": {"A": "1", "HTTPS_PROXY": "x"}}'),
        ('{\n  "a": 1,\n}\n', '{\n  "a": 1,\n  "env": {\n    "HTTPS_PROXY": "x"\n  },\n}\n'),
        ('{\r\n  "a": 1\r\n}\r\n', '{\r\n  "a": 1,\r\n  "env": {\r\n    "HTTPS_PROXY": "x"\r\n  }\r\n}\r\n'),
        ('{\n  "a": 1 }', '{\n  "a": 1,\n  "env": {\n    "HTTPS_PROXY": "x"\n  } }'),
        ('{\n  "a": 1 /* b */ // c\n}', '{\n  "a": 1, /* b */ // c\n  "env": {\n    "HTTPS_PROXY": "x"\n  }\n}'),
    ],
)
def test_each_form_of_a_file_takes_a_member(before: str, after: str) -> None:
    assert put(before, PROXY, "x") == after


def test_elements_of_an_array_are_found_by_their_name() -> None:
    text = put('{\n    "a": 1\n}\n', IN_VSCODE, "x")

    assert value_at(text, IN_VSCODE) == "x"
    assert json.loads(put(text, IN_VSCODE, "y")) == {
        "a": 1,
        IN_VSCODE[0]: [{"name": "HTTPS_PROXY", "value": "y"}],
    }
    assert json.loads(take(text, IN_VSCODE)) == {"a": 1, IN_VSCODE[0]: []}


@pytest.mark.parametrize(
    ("path", "after"),
    [
        (("env", "A"), COMMENTED.replace('        "A": "1", // first\n', "         // first\n")),
        (
            ("env", "B"),
            COMMENTED.replace(
                '"A": "1", // first\n        "B": "//no comment" // last', '"A": "1" // first\n         // last'
            ),
        ),
        (("model",), COMMENTED.replace('    "model": "opus", // the', "     // the")),
        (("nothing",), COMMENTED),
        (("nothing", "below"), COMMENTED),
    ],
)
def test_what_is_taken_out_leaves_the_users_comments(path: tuple[str, ...], after: str) -> None:
    taken = take(COMMENTED, path)

    assert value_at(taken, path) is MISSING
    assert "".join(taken.split()) == "".join(after.split())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2}'),
        ('{"b": 2, "a": 1}', '{"b": 2}'),
        ('{"a": 1}', "{}"),
        ('{\n  "a": 1,\n  "b": 2\n}', '{\n  "b": 2\n}'),
        ('{\n  "b": 2,\n  "a": 1\n}', '{\n  "b": 2\n}'),
        ('{\n  "b": 2,\n  "a": 1,\n}', '{\n  "b": 2,\n}'),
        ('{\n  "b": 2, // b\n  "a": 1\n}', '{\n  "b": 2 // b\n}'),
    ],
)
def test_a_member_goes_with_its_comma_and_its_line(before: str, after: str) -> None:
    assert take(before, ("a",)) == after


@pytest.mark.parametrize(
    "text",
    ['{"a" 1}', '{"a": 1 "b": 2}', "{a: 1}", '{"a": 1}}', "[1, 2", "{/* ", '{"a": tru}', "{,}", "[" * 500],
)
def test_what_is_no_json_is_told_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        parse(f"\n\n{text}")


def test_a_name_that_stands_there_twice_has_no_single_value() -> None:
    with pytest.raises(ValueError, match="a stands there twice"):
        parse('{"a": 1, "a": 2}')


@pytest.mark.parametrize(("text", "path"), [('{"env": 1}', PROXY), ("[]", PROXY), ('{"a": {}}', ("a", Element("b")))])
def test_a_path_through_something_else_is_refused(text: str, path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"what should hold .* is not an"):
        put(text, path, "x")


NAMES = st.sampled_from(["env", "a", "HTTPS_PROXY", "é", "//", "/*"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
BLANKS = st.sampled_from(["", " ", "\n", "\n  ", " // note\n", "/* , } */", "\r\n\t"])


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """This value with blanks and comments wherever they may be."""

    def blank() -> str:
        return draw(BLANKS)

    if isinstance(value, dict):
        parts = [
            f"{blank()}{json.dumps(name)}{blank()}:{blank()}{draw(written(each))}{blank()}"
            for name, each in value.items()
        ]
    elif isinstance(value, list):
        parts = [f"{blank()}{draw(written(each))}{blank()}" for each in value]
    else:
        return json.dumps(value)
    has_trailing: bool = draw(st.booleans())
    trailing = f",{blank()}" if parts and has_trailing else ""
    inside = ",".join(parts) + trailing or blank()
    return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"


@given(
    st.dictionaries(NAMES, VALUES, max_size=3).flatmap(lambda value: st.tuples(st.just(value), written(value))), VALUES
)
def test_any_file_holds_what_was_put_and_all_that_was_there(case: tuple[dict[str, Any], str], new: Any) -> None:
    value, text = case

    changed = put(text, ("ours", "x"), new)
    taken = take(changed, ("ours",))

    node, without = parse(changed), parse(taken)
    assert node is not None
    assert without is not None
    assert node.value == value | {"ours": {"x": new}}
    assert without.value == value
    assert all(changed.count(comment) >= text.count(comment) for comment in ("// note", "/* , } */"))
    assert all(taken.count(comment) == text.count(comment) for comment in ("// note", "/* , } */"))


@given(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=4).flatmap(
        lambda value: st.tuples(st.just(value), written(value))
    )
)
def test_each_member_of_any_file_can_be_taken_and_replaced(case: tuple[dict[str, Any], str]) -> None:
    value, text = case
    for name in value:
        taken, replaced = parse(take(text, (name,))), parse(put(text, (name,), 7))
        assert taken is not None
        assert replaced is not None
        assert taken.value == {other: each for other, each in value.items() if other != name}
        assert replaced.value == value | {name: 7}
