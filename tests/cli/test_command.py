"""`ccflare`, as an installation has it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ccflare_cli import ROOT, command
from ccflare_cli.command import COMMANDS
from ccflare_core import __version__

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.fixture
def ccflare(tmp_path: Path) -> Path:
    """The script that pip makes of what pyproject.toml says, in an environment whose mitmdump says what it was told."""
    module, _, function = SCRIPTS["ccflare"].partition(":")
    script = tmp_path / "ccflare"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(ROOT / 'addon')!r}]\n"
        f"from {module} import {function}\nsys.exit({function}())\n"
    )
    script.chmod(0o755)
    return script


def run(ccflare: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    command = [str(ccflare), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environ}, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_help_has_a_line_for_every_command(ccflare: Path) -> None:
    code, said, _ = run(ccflare, "--help")

    assert code == 0
    assert said.startswith("usage: ccflare")
    assert [name for name in COMMANDS if f"\n    {name} " not in said] == []


def test_version_is_that_of_the_package(ccflare: Path) -> None:
    assert run(ccflare, "--version") == (0, f"ccflare {__version__}\n", "")


def test_every_script_is_a_command() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")}

    assert {*COMMANDS} == scripts | {"proxy", "completion"}


def test_a_command_does_what_its_script_does(ccflare: Path, tmp_path: Path) -> None:
    code, said, _ = run(ccflare, "accounts", "--database", str(tmp_path / "none.db"), "list")
    wrong, _, complained = run(ccflare, "accounts", "lst")

    assert code == 0
    assert said == (
        "No accounts yet: log in with `ccflare accounts login NAME`, or give an API key to "
        "`ccflare accounts add NAME --api-key -`.\n"
    )
    assert wrong == 2
    assert complained.startswith("usage: ccflare accounts ")
    assert "did you mean list?" in complained


@pytest.mark.parametrize(("word", "told"), [("runn", "did you mean run?"), ("acounts", "did you mean accounts?")])
def test_an_unknown_word_is_a_sentence(ccflare: Path, word: str, told: str) -> None:
    code, said, complained = run(ccflare, word)

    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert told in complained


@pytest.mark.parametrize(("word", "told"), [("webb", "did you mean web?"), ("start", "takes web, console or")])
def test_proxy_starts_nothing_for_a_word_that_there_is_not(ccflare: Path, word: str, told: str) -> None:
    code, said, complained = run(ccflare, "proxy", word)

    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert told in complained


def test_proxy_becomes_mitmproxy_with_the_addon(ccflare: Path) -> None:
    code, said, complained = run(ccflare, "proxy", "--version")

    assert (code, complained) == (0, "")
    assert said.startswith("Mitmproxy: ")


def test_proxy_is_this_pythons_where_its_program_does_not_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that PATH has somewhere else may be of an environment without our packages."""
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    program, *words = command._of_this_python("mitmdump")

    assert program == str(tmp_path / "python")
    done = subprocess.run([python, *words, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Mitmproxy: ")
