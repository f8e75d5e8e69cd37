"""SECURITY.md keeps its word: every requirement has a row, every named test exists, and none is left out."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()
REQUIREMENTS = range(1, 89)
UNPROVED = ("left to you", "not done")
"""What a row may say instead of naming a test; the reason follows."""


def rows() -> list[tuple[set[int], str]]:
    """The table's rows: the requirements that each is about, and what proves them."""
    lines = TEXT.partition("## Proof")[2].splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| R") and "Requirement" not in line]
    return [({int(number) for number in re.findall(r"\bR(\d+)\b", what)}, proof.strip()) for what, proof in cells]


def named(proof: str) -> Iterator[tuple[str, str]]:
    """The files and patterns of tests in a cell; `::name` goes on with the file before it."""
    path = ""
    for quoted in re.findall(r"`(tests/[^`]+|::[^`]+)`", proof):
        file, _, pattern = quoted.partition("::")
        path = file or path
        yield path, pattern or "*"


@cache
def names_in(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"^ *(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE))


def matching(path: str, pattern: str) -> set[str]:
    """The tests of a file that `name` or `name_*` stands for."""
    form = re.compile(re.escape(pattern).replace(r"\*", r"\w*"))
    return {name for name in names_in(path) if form.fullmatch(name)}


def test_every_requirement_has_a_row() -> None:
    found = set().union(*(numbers for numbers, _ in rows()))
    assert sorted(set(REQUIREMENTS) - found) == []
    assert sorted(found - set(REQUIREMENTS)) == []


@pytest.mark.parametrize(("numbers", "proof"), rows(), ids=lambda value: str(value)[:40])
def test_every_row_names_tests_that_exist_or_says_plainly_that_there_are_none(numbers: set[int], proof: str) -> None:
    tests = list(named(proof))
    if not tests:
        assert proof.startswith(UNPROVED)
        assert len(proof) > 30, "it says why, or what to do instead"
    for path, pattern in tests:
        assert (ROOT / path).is_file(), path
        assert matching(path, pattern), f"{path}::{pattern}"


def test_every_test_that_has_a_requirements_number_is_named_in_its_row() -> None:
    missing = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = str(path.relative_to(ROOT))
        for test in names_in(name):
            if match := re.match(r"test_r(\d+)_", test):
                number = int(match[1])
                proofs = [proof for numbers, proof in rows() if number in numbers]
                if not any(
                    test in matching(p, pattern) for proof in proofs for p, pattern in named(proof) if p == name
                ):
                    missing.append(f"R{number} {name}::{test}")
    assert missing == []


def test_what_is_not_done_has_no_test() -> None:
    """A row that says so is removed when there is one."""
    undone = set().union(*(numbers for numbers, proof in rows() if proof.startswith("not done")))
    done = set().union(*(numbers for numbers, proof in rows() if list(named(proof))))
    assert undone & done == set()


def test_every_promise_names_requirements_that_are_proved() -> None:
    promises = re.split(r"^- \*\*", TEXT.partition("## What is promised")[2].partition("\n## ")[0], flags=re.MULTILINE)[
        1:
    ]
    proved = set().union(*(numbers for numbers, proof in rows() if list(named(proof))))
    assert promises
    for promise in promises:
        (numbers,) = re.findall(r"\((R\d[^()]*)\)\s*$", promise) or [""]
        assert numbers, promise
        assert {int(number) for number in re.findall(r"\d+", numbers)} <= proved


def test_the_reporting_process_has_its_times_and_severities() -> None:
    reporting = TEXT.partition("## Reporting")[2].partition("\n## ")[0]
    for word in ("48 hours", "7 days", "Critical", "High", "Medium", "Low"):
        assert word in reporting


def test_links_lead_to_headings() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()}
    assert [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT) if anchor not in headings] == []
