"""Every command that prints a table, on a terminal of 80 and of 60 columns and into a pipe, with the longest names."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from wcwidth import wcswidth

from ccflare_cli import MODULES, ROOT
from ccflare_core.secrets.key_sources import KeyFile
from desk import Desk
from history import NOON, History
from screen import screen
from wide_history import MAIN, write_wide_past

COMMANDS = (
    *("accounts list", "access list", "keys status", "keys client list", "keys mfa status", "prices show"),
    *("stats", "stats accounts", "stats models --since 7d", "stats models --by day --since 7d", "stats sessions"),
    *("stats projects", "stats agents", "stats clients --by address", "stats cache --by session", "stats windows"),
    *("stats timeline", "stats timeline --since 30d", "stats compare", "stats requests --all", "stats errors"),
    "stats proxies",
    *("stats advise", "stats advise --session 4f1c0a3e-1111-4222-8333-000000000000"),
    *("audit show", "audit who-used max-2 --between 7d now", "search pool", "doctor --only host --only options"),
    *("show last", "maintain check", "maintain cleanup --older-than 1d", "accounts import --from claude-code {login}"),
    *(
        "config path",
        "rules check {rules}",
        "simulate --accounts -claude-max-of-the-platform-team@example.com,-max-2,"
        "-claude-max-of-the-platform-team@example.org",
        "ready",
        "service status",
        "prices update {prices} --to {database}.prices",
        "keys rotate-all --yes",
    ),
)
"""The last one changes what it shows, so it stands behind all others."""

UNTRIED = {
    "ccflare_cli.companion.env": "has lines for a shell, and a table for programs alone",
}

_CUT = re.compile(r"…|Left out for want of room")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The database, and what the commands read besides."""
    folder = tmp_path_factory.mktemp("wide")
    found = {name: folder / name for name in ("ccflare.db", "login.json", "prices.yaml", "rules.yaml", "none.yaml")}
    found["none.yaml"].write_text("")
    tokens = {"accessToken": "sk-ant-oat01-A", "refreshToken": "sk-ant-ort01-R", "expiresAt": int(NOON * 1000)}
    found["login.json"].write_text(json.dumps({"claudeAiOauth": tokens}))
    found["prices.yaml"].write_text(
        "claude-model-whose-name-is-as-long-as-can-be-20261101: {input: 1, output: 5, cache_read: 0.1,"
        " cache_write_5m: 1.25, cache_write_1h: 2}\n"
    )
    found["rules.yaml"].write_text(
        "a-rule-whose-name-is-as-long-as-it-likes-to-be: {when: {project: [a-project-with-a-long-name-*, another-*],"
        " hours: [22:00-06:00, 12:00-13:00]}, prefer: [first-account-*, second-account], effort: medium}\n"
    )
    with History(found["ccflare.db"], KeyFile(folder / "ccflare.key")) as past:
        write_wide_past(past)
    return {
        "database": found["ccflare.db"],
        "login": found["login.json"],
        "prices": found["prices.yaml"],
        "rules": found["rules.yaml"],
        **found,
    }


def call(files: dict[str, Path], command: str, desk: Desk, *more: str) -> None:
    script, *words = command.split()
    main = import_module(MODULES.get(script, f"ccflare_cli.{script}")).main
    filled = [word.format(**files) for word in words]
    desk.environ = {**desk.environ, "ccflare_CONFIG_PATH": str(files["none.yaml"])}
    code = main(["--database", str(files["database"]), *more, *filled], desk.console())
    assert code in (0, script in ("doctor", "ready", "service")), desk.complained  # which tell something with it


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 60])
def test_no_line_is_wider_than_the_terminal(files: dict[str, Path], columns: int, command: str) -> None:
    with screen(columns) as terminal:
        call(files, command, Desk(stdout=terminal.stream))  # type: ignore[arg-type]
        lines = terminal.lines()

    assert len(lines) > 1
    assert [line for line in lines if wcswidth(line) > columns] == []


@pytest.mark.parametrize("more", [(), ("--wide",)])
@pytest.mark.parametrize(
    "command", ["accounts list", "stats requests", "audit show", "keys client list", "stats errors"]
)
def test_nothing_is_cut_in_a_pipe_or_with_wide(files: dict[str, Path], command: str, more: tuple[str, ...]) -> None:
    if more:
        with screen(60) as terminal:
            call(files, command, Desk(stdout=terminal.stream), *more)  # type: ignore[arg-type]
            text = terminal.text()
    else:
        desk = Desk()
        call(files, command, desk)
        text = desk.said

    assert not _CUT.search(text)
    assert max(map(len, text.splitlines())) > 100


def test_json_is_the_same_on_a_terminal_and_in_a_pipe(files: dict[str, Path]) -> None:
    desk = Desk()
    call(files, "stats requests", desk, "--format", "json")
    with screen(60) as terminal:
        call(files, "stats requests", Desk(stdout=terminal.stream), "--format", "json")  # type: ignore[arg-type]
        assert json.loads(terminal.text()) == json.loads(desk.said)


def test_every_module_that_shows_tables_is_tried() -> None:
    tried = {
        import_module(MODULES.get(name, f"ccflare_cli.{name}")).__name__ for name in (c.split()[0] for c in COMMANDS)
    }
    rooms = {name.removesuffix(".main") for name in tried}
    showing = [
        ".".join(path.relative_to(ROOT / "addon").with_suffix("").parts)
        for path in (ROOT / "addon" / "ccflare_cli").rglob("*.py")
        if "console.show(" in path.read_text()
    ]

    assert showing
    untried = {name for name in showing if not any(f"{name}.".startswith(f"{room}.") for room in rooms)}
    assert untried == {*UNTRIED}


def test_a_script_in_a_terminal_knows_its_width(files: dict[str, Path]) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, str(ROOT / "scripts" / "accounts.py"), "--database", str(files["database"]), "list"]
    with screen(60) as terminal:
        subprocess.run(
            command,
            stdout=terminal.stream,
            env={**environ, "TERM": "xterm"},
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        text = terminal.text()

    assert "\x1b[" in text
    assert MAIN not in text.partition("\n\r")[0].splitlines()[4]
    assert all(wcswidth(re.sub(r"\x1b\[\d+m", "", line)) <= 60 for line in text.splitlines())


@pytest.mark.parametrize("words", [("lst",), ("--database", "/nowhere/at/all/ccflare.db", "pause", "max-1")])
def test_a_complaint_in_a_terminal_breaks_between_words(words: tuple[str, ...]) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, str(ROOT / "scripts" / "accounts.py"), *words]
    with screen(60) as terminal:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=terminal.stream,
            stderr=terminal.stream,
            env={**environ, "TERM": "xterm"},
            timeout=60,
        )
        shown = terminal.lines()

    assert done.returncode in (1, 2)
    assert len(shown) > 1
    assert all(wcswidth(line) <= 60 for line in shown)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of all of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


@pytest.mark.parametrize("name", sorted({command.split()[0] for command in COMMANDS} | {"maintain", "keys"}))
def test_help_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module = import_module(MODULES.get(name, f"ccflare_cli.{name}"))

    helps = [each.format_help() for each in parsers(module._parser())]

    assert [line for text in helps for line in text.splitlines() if len(line) > 80] == []
