"""The README keeps its word: every option, command, script and file that it names exists, and none is left out."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from ccflare_core.config.option import Group
from ccflare_core.config.options import option_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def quoted_commands() -> list[list[str]]:
    """The command lines in the README's code blocks."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for language, block in blocks if not language for line in block.splitlines()]


def table_rows(after: str) -> list[list[str]]:
    """The cells of the first table behind this heading, without their backticks."""
    lines = README.partition(after)[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize("group", Group)
def test_options_table_of_a_group_is_that_of_the_program(group: Group) -> None:
    assert table_rows(f"### {group}\n") == [list(row) for row in option_table(group)]


def test_every_quoted_script_exists_and_is_executable() -> None:
    scripts = [command[0] for command in quoted_commands() if command[0].startswith("./")]
    assert len(scripts) > 10
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_every_script_is_in_the_readme() -> None:
    scripts = [path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and path.name[0] != "_"]
    assert [name for name in scripts if f"scripts/{name}" not in README] == []


@pytest.mark.parametrize("script", ["access", "accounts", "audit", "doctor", "keys", "maintain", "prices", "stats"])
def test_quoted_commands_are_understood(script: str) -> None:
    """Each is parsed by the script's own parser; what they do is tested elsewhere."""
    parser = importlib.import_module(f"ccflare_cli.{script}")._parser()
    lines = [command[1:] for command in quoted_commands() if command[0] == f"./scripts/{script}.py"]
    assert lines
    for arguments in lines:
        parser.parse_args(arguments)


def test_the_addons_commands_are_those_of_the_readme() -> None:
    source = (ROOT / "addon" / "ccflare.py").read_text()
    commands = re.findall(r'@command\.command\("(ccflare\.\w+)"\)', source)
    assert [row[0].split()[0] for row in table_rows("three commands:")] == commands


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
