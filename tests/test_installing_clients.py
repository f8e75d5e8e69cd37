"""scripts/_clients.py: what it does when the clients are there, and when they cannot be had."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import REPOSITORY

pytestmark = pytest.mark.timeout(300)  # an environment is made

WANTED = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["clients"]


def install(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and all that is said, with a pip that has nowhere to take packages from."""
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "CCFLARE_CLIENTS": str(folder)}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "_clients.py"), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(folder.parent), **nowhere},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout


def test_clients_that_are_there_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "installed").write_text("\n".join(WANTED))
    assert install(folder) == (0, "")


def test_clients_that_cannot_be_had_are_told_of_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "installed").write_text("claude-agent-sdk==0.0.1")

    status, said = install(folder)

    begun, problem = said.splitlines()
    assert (status, begun) == (1, f"ccflare: installing {' and '.join(WANTED)} into clients")
    assert problem.startswith("ccflare: the real clients could not be installed (ERROR: No matching distribution found")
    assert problem.endswith("); their tests are left out")
    assert not (folder / "installed").exists()


def test_an_installation_ends_in_time(tmp_path: Path) -> None:
    status, said = install(tmp_path / "clients", "0.01")
    assert (status, said.splitlines()[1:]) == (
        1,
        ["ccflare: the real clients could not be installed (that took longer than 0.01 s); their tests are left out"],
    )
