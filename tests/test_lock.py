"""The lock file: it fits pyproject.toml, holds what each group needs, and says what is wrong with it."""

import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "scripts" / "constraints.txt"
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "_lock.py"))
HASH = f"    --hash=sha256:{'0' * 64}"
PROJECT: dict[str, Any] = {
    "build-system": {"requires": ["setuptools>=77"]},
    "project": {"dependencies": ["Proxy_Lib>=2,<3"], "optional-dependencies": {"plot": ["plotter>=1; os_name == 'x'"]}},
    "dependency-groups": {"test": ["tester[fast]>=1"], "check": ["linter"], "dev": [{"include-group": "test"}]},
}


def entry(name: str, version: str, *needed_by: str) -> str:
    """A package as it stands in the file."""
    via = ["    # via", *(f"    #   {each}" for each in needed_by)]
    return "\n".join([f"{name}=={version} ; os_name == 'x' \\", f"{HASH} \\", HASH, *via])


GOOD = {
    "setuptools": entry("setuptools", "80", "-r -"),
    "proxy-lib": entry("proxy-lib", "2.5", "ccflare (pyproject.toml)"),
    "wire": entry("wire", "1", "proxy-lib", "tester"),
    "bytes": entry("bytes", "1", "wire"),
    "plotter": entry("plotter", "1.0.post1", "ccflare (pyproject.toml)"),
    "tester": entry("tester", "9", "ccflare (pyproject.toml:test)"),
    "linter": entry("linter", "0.1", "ccflare (pyproject.toml:check)"),
}


def text(**changed: str) -> str:
    """The good lock with these entries in place of its own; "" leaves one out."""
    return "\n".join(["# A lock.", *filter(None, (GOOD | changed).values())]) + "\n"


def closure_of(*roots: str) -> set[str]:
    return {pinned.name for pinned in TOOL["closure"](TOOL["read"](text()), roots)}


def lock(*arguments: str) -> str:
    """What scripts/_lock.py prints."""
    command = [sys.executable, str(ROOT / "scripts" / "_lock.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def names(lines: Iterable[str]) -> set[str]:
    return {line.partition("==")[0] for line in lines if "==" in line}


def test_the_lock_file_fits_pyproject() -> None:
    assert lock("check") == ""


def test_run_gets_what_the_program_needs_with_hashes_and_no_tools_of_tests() -> None:
    lines = lock("packages", "run").splitlines()

    assert {"mitmproxy", "mitmproxy-rs", "peewee", "cryptography", "tabulate", "certifi", "setuptools"} <= names(lines)
    assert not names(lines) & {"pytest", "ruff", "mypy", "matplotlib", "uv", "cyclonedx-bom"}
    assert all("==" in line or line.startswith("    --hash=sha256:") for line in lines)
    assert all(lines[number + 1].startswith("    --hash") for number, line in enumerate(lines) if "==" in line)


def test_dev_gets_all_that_is_in_it_but_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dev = names(lock("packages", "dev").splitlines())

    assert {"pytest", "ruff", "mypy", "pip-audit"} <= dev
    assert "keyring" not in dev
    assert {TOOL["name_of"](each) for each in project["project"]["optional-dependencies"]["keyring"]} == {"keyring"}


def test_it_names_no_place_that_packages_come_from() -> None:
    lines = LOCK.read_text().splitlines()
    assert not [
        line for line in lines if "://" in line or line.lstrip().startswith(("-i", "--index", "--find", "--extra"))
    ]


@pytest.mark.parametrize(
    ("roots", "found"),
    [
        (["proxy_lib>=2"], {"proxy-lib", "wire", "bytes"}),
        (["Tester[fast]"], {"tester", "wire", "bytes"}),
        (["linter", "setuptools>=77"], {"linter", "setuptools"}),
        (["unknown"], set()),
    ],
)
def test_a_package_brings_what_it_needs(roots: list[str], found: set[str]) -> None:
    assert closure_of(*roots) == found


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"linter": ""}, "linter is not in it"),
        ({"plotter": ""}, "plotter is not in it"),
        ({"proxy-lib": entry("proxy-lib", "3.0", "x")}, "Proxy_Lib 3.0 is in it, and pyproject.toml asks for <3,>=2"),
        ({"old": entry("old", "1", "gone")}, "old is in it, and nothing needs it"),
        ({"linter": "linter==0.1"}, "linter has no hash"),
        ({"linter": f"--find-links https://x.example\n{GOOD['linter']}"}, "it says where packages come from"),
        ({"linter": entry("linter", "0.0.1", "x")}, None),  # a newer one is no fault
    ],
)
def test_what_does_not_fit_is_told(changed: dict[str, str], problem: str | None) -> None:
    found = [*TOOL["problems"](PROJECT, text(**changed))]
    assert (found[-1] if problem and found else None) == problem
    assert bool(found) is (problem is not None)
