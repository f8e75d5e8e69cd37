"""How a script starts whichever Python it was given, in copies of the project that have an environment or none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ccflare_cli

SCRIPTS = ccflare_cli.ROOT / "scripts"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose only command does what its text says; `probe.py` starts it as the real scripts do."""
    package = tmp_path / "addon" / "ccflare_cli"
    package.mkdir(parents=True)
    shutil.copy(str(ccflare_cli.__file__), package)
    (tmp_path / "scripts").mkdir()
    script = (SCRIPTS / "stats.py").read_text().replace('run("stats")', 'run("probe")')
    (tmp_path / "scripts" / "probe.py").write_text(script)
    return tmp_path


def start(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    (project / "addon" / "ccflare_cli" / "probe.py").write_text(command)
    probe = [sys.executable, str(project / "scripts" / "probe.py"), "--since", "7d"]
    return subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)


def give_environment(project: Path) -> None:
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nshift\necho "went on with $*"\n')
    python.chmod(0o755)


def test_the_commands_code_is_the_exit_code(project: Path) -> None:
    done = start(project, "def main():\n    print('here')\n    return 7\n")

    assert (done.returncode, done.stdout, done.stderr) == (7, "here\n", "")


def test_without_the_packages_it_goes_on_in_the_environment(project: Path) -> None:
    give_environment(project)

    done = start(project, "import no_such_package")

    assert (done.returncode, done.stdout) == (0, "went on with --since 7d\n")


def test_environment_of_another_user_is_as_good_as_none(project: Path) -> None:
    give_environment(project)
    (project / ".venv" / "bin" / "python").chmod(0o600)

    done = start(project, "import no_such_package")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_without_packages_and_environment_it_says_what_to_do(project: Path) -> None:
    done = start(project, "import no_such_package")

    assert done.returncode == 1
    assert done.stderr.startswith("probe.py: this Python has no package no_such_package; run scripts/run")
    assert done.stderr.count("\n") == 1


def test_a_module_of_our_own_that_is_missing_is_no_reason_to_go_elsewhere(project: Path) -> None:
    give_environment(project)

    done = start(project, "import ccflare_core.no_such_module")

    assert "ModuleNotFoundError" in done.stderr


def test_an_interrupt_ends_it_without_a_traceback(project: Path) -> None:
    done = start(project, "def main():\n    raise KeyboardInterrupt\n")

    assert (done.returncode, done.stderr) == (130, "\n")


@pytest.mark.parametrize("name", ["accounts.py", "stats.py"])
def test_the_real_scripts_run(name: str) -> None:
    done = subprocess.run([str(SCRIPTS / name), "--help"], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}")


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(SCRIPTS / "accounts.py"), "--database", str(tmp_path / "none.db"), "list"]

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (1, "")
