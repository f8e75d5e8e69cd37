"""The README keeps its word: every option, command, script and file that it names exists, and none is left out."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from ccflare_cli import MODULES
from ccflare_core.config.option import Group
from ccflare_core.config.options import option_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str = "") -> list[str]:
    """The README's code blocks in this language; without one they are commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [block for each, block in found if each == language]


def quoted_commands() -> list[list[str]]:
    """The command lines in the README's code blocks."""
    return [shlex.split(line) for block in blocks() for line in block.splitlines()]


def anchors(text: str) -> set[str]:
    """Where a link with a # may lead to in this text."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
    assert table_rows(f"<summary>{group}</summary>\n") == [list(row) for row in option_table(group)]


def test_options_have_no_other_table() -> None:
    section = README.partition("## Options")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(ccflare_\w+|listen_\w+)` \| .* \|$", section, re.MULTILINE)

    assert sorted(named) == sorted(row[0] for row in option_table())


def test_collapsible_sections_are_closed_again() -> None:
    parts = re.findall(r"^<(/?)details>$", README, re.MULTILINE)

    assert parts == ["", "/"] * (len(parts) // 2)
    assert len(parts) >= 2 * len(Group)


def test_every_quoted_script_exists_and_is_executable() -> None:
    scripts = [command[0] for command in quoted_commands() if command[0].startswith("./")]
    assert len(scripts) > 10
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_every_script_is_in_the_readme() -> None:
    scripts = [path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and path.name[0] != "_"]
    assert [name for name in scripts if f"scripts/{name}" not in README] == []


@pytest.mark.parametrize(
    "script",
    [
        "access",
        "accounts",
        "audit",
        "config",
        "connect",
        "dashboard",
        "doctor",
        "env",
        "keys",
        "maintain",
        "mcp",
        "prices",
        "ready",
        "rules",
        "run",
        "search",
        "service",
        "show",
        "simulate",
        "stats",
        "statusline",
        "top",
    ],
)
def test_quoted_commands_are_understood(script: str) -> None:
    """Each is parsed by the script's own parser; what they do is tested elsewhere."""
    parser = importlib.import_module(MODULES.get(script, f"ccflare_cli.{script}"))._parser()
    lines = [command[1:] for command in quoted_commands() if command[0] == f"./scripts/{script}.py"]
    assert lines
    for arguments in lines:
        parser.parse_args(arguments)


def test_the_addons_commands_are_those_of_the_readme() -> None:
    source = (ROOT / "addon" / "ccflare_mitm" / "inspector" / "commands.py").read_text()
    commands = re.findall(r'"(ccflare\.\w+)": self\.', source)
    assert [row[0].split()[0] for row in table_rows("There are commands, too.")] == commands


def test_links_lead_to_files_and_headings() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", README)
    assert targets
    for file, anchor in targets:
        path = ROOT / (file or "README.md")
        assert path.exists(), file
        assert not anchor or anchor in anchors(path.read_text()), anchor


def test_standard_headings_are_there() -> None:
    wanted = (
        "Start, Add accounts, Connect a client, Failover, Everyday commands, Run in the background, Update, Uninstall"
    )
    reference = (
        "Health check, Statistics and search, Options, Retention and maintenance, Incident response, Architecture"
    )

    found = re.findall(r"^##+ (.+)$", README, re.MULTILINE)

    assert [title for title in f"{wanted}, {reference}".split(", ") if title not in found] == []
    assert len(found) == len(set(found)), "each anchor leads to one place"


def test_settings_of_claude_code_are_a_snippet_for_each_way_to_connect() -> None:
    base_url, https_proxy = (json.loads(block) for block in blocks("json"))

    for settings in (base_url, https_proxy):
        assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == "unused"
        assert settings["promptCacheTtl"] == "1h"
        assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"} & set(settings["env"])
    assert base_url["env"]["ANTHROPIC_BASE_URL"] == https_proxy["env"]["HTTPS_PROXY"] == "http://127.0.0.1:8080"
    assert https_proxy["env"]["NODE_EXTRA_CA_CERTS"].startswith("/"), "Claude Code does not expand ~ there"


def test_base_urls_end_behind_host_and_port() -> None:
    urls = re.findall(r"ANTHROPIC_BASE_URL[=\": ]+(http[^`\"\s]*)", README)

    assert len(urls) >= 3
    assert [url for url in urls if not re.fullmatch(r"https?://[\w.]+:\d+", url)] == []
