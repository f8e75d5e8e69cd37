"""The kinds of blocks and deltas that the published SDK has are all known: a new one is noticed here.

The SDK's own lists are read out of its source, which stands in the environment of `scripts/test --clients`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.blocks import BLOCKS, DELTAS, citation, shown
from clients_kit import FOLDER

_UNION = re.compile(r"\bUnion\[([\w\s,]+)\]")
_KIND = re.compile(r"^    type: (?:Required\[)?Literal\[([^]]+)\]", re.MULTILINE)


def sdk_types() -> Path:
    """Where the SDK's types stand."""
    (folder,) = FOLDER.glob("lib/python3*/site-packages/anthropic/types")
    return folder


def sdk_kinds(folder: Path, union: str) -> Iterator[str]:
    """What `type` may be in the members of the union that is defined in this module of the SDK."""
    for name, source in sdk_members(folder, union):
        found = _KIND.search(source)
        assert found, f"{name} has no type"
        yield from re.findall(r'"(\w+)"', found[1])


def sdk_members(folder: Path, union: str) -> Iterator[tuple[str, str]]:
    """The classes that are members of the union, and the source of each."""
    listed = _UNION.search((folder / f"{union}.py").read_text())
    assert listed, f"{union} has another form than it had"
    names = re.findall(r"\w+", listed[1])
    sources = {
        name: path for path in folder.glob("*.py") for name in re.findall(r"^class (\w+)\(", path.read_text(), re.M)
    }
    for name in names:
        if name in sources:
            source = sources[name].read_text().partition(f"class {name}(")[2]
            yield name, re.split(r"\n(?=\S)", source, maxsplit=1)[0]


@pytest.mark.parametrize("part", ["", "beta"])
@pytest.mark.parametrize("union", ["content_block", "content_block_param"])
def test_every_block_of_the_sdk_is_known(part: str, union: str) -> None:
    kinds = {*sdk_kinds(sdk_types() / part, f"{part}_{union}" if part else union)}

    assert len(kinds) >= 12
    assert kinds <= set(BLOCKS)


@pytest.mark.parametrize("part", ["", "beta"])
def test_every_delta_of_the_sdk_is_known(part: str) -> None:
    kinds = {*sdk_kinds(sdk_types() / part, "_".join(filter(None, (part, "raw_content_block_delta"))))}

    assert len(kinds) >= 5
    assert kinds <= set(DELTAS)


@pytest.mark.parametrize("part", ["", "beta"])
@pytest.mark.parametrize("union", ["text_citation", "text_citation_param"])
def test_every_citation_of_the_sdk_is_shown_with_its_text_and_its_place(part: str, union: str) -> None:
    members = dict(sdk_members(sdk_types() / part, f"{part}_{union}" if part else union))

    assert len(members) >= 5
    for name, source in members.items():
        fields = dict.fromkeys(re.findall(r"^    (\w+):", source, re.MULTILINE), "x")
        assert citation(fields) == "[cited from x: x]", name


@pytest.mark.parametrize("part", ["", "beta"])
def test_every_result_of_code_is_shown(part: str) -> None:
    union = "code_execution_tool_result_block_content"
    kinds = [*sdk_kinds(sdk_types() / part, f"{part}_{union}" if part else union)]

    assert len(kinds) >= 3
    for kind in kinds:
        assert shown(kind, {"type": kind, "title": "x", "stdout": "x", "error_code": "x"})
