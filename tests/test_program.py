"""What a person is told to type is what can be typed where they are: a clone's scripts, or the command `ccflare`."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccflare_core import program
from ccflare_core.program import typed, with_extra
from harness import REPOSITORY

ADDON = REPOSITORY / "addon"


@pytest.mark.parametrize(
    ("called", "told", "extra"),
    [
        ("/home/me/ccflare/scripts/keys.py", "scripts/keys.py rotate", "`scripts/run --with plot` installs it"),
        ("/opt/bin/mitmdump", "scripts/keys.py rotate", "`scripts/run --with plot` installs it"),
        ("/opt/bin/ccflare", "ccflare keys rotate", "install ccflare with [plot]"),
        ("ccflare keys", "ccflare keys rotate", "install ccflare with [plot]"),
    ],
)
def test_a_clones_command_is_named_as_it_was_called(
    called: str, told: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert (typed("keys rotate"), with_extra("plot")) == (told, extra)
    assert typed("proxy") == ("scripts/run" if "scripts/" in told else "ccflare proxy")


def test_an_installation_has_no_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "_SCRIPTS", tmp_path / "scripts")
    monkeypatch.setattr(sys, "argv", ["/opt/bin/mitmdump"])
    assert (typed("doctor"), typed("stats requests")) == ("ccflare doctor", "ccflare stats requests")


@pytest.mark.parametrize("words", [("--help",), ("list",)])
def test_the_one_command_never_speaks_of_scripts(words: tuple[str, ...], tmp_path: Path) -> None:
    """Neither its help nor its complaints."""
    command = "import sys; sys.argv[0] = '/opt/bin/ccflare'; from ccflare_cli.command import main; sys.exit(main())"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ADDON)}
    done = subprocess.run(
        [sys.executable, "-c", command, "accounts", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )

    said = done.stdout + done.stderr
    assert "ccflare accounts add NAME" in said or "ccflare accounts list" in said
    assert "scripts/" not in said


def strings(source: str) -> list[tuple[int, str]]:
    """The texts of a module that are no docstrings, with their lines."""
    tree = ast.parse(source)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]


THEIR_OWN = {
    "ccflare.py": "speaks of a clone that was never run",
    "ccflare_cli/__init__.py": "likewise",
    "ccflare_cli/parsing.py": "spells the examples",
    "ccflare_core/program.py": "spells everything",
    "ccflare_mitm/host/contract.py": "has asked whether it is a clone",
}


def test_no_message_names_a_script_by_itself() -> None:
    found = [
        f"{name}:{line}"
        for path in ADDON.rglob("*.py")
        if (name := path.relative_to(ADDON).as_posix()) not in THEIR_OWN
        for line, text in strings(path.read_text())
        if "scripts/" in text and not text.startswith("examples:")  # which the parser spells
    ]
    assert found == []
