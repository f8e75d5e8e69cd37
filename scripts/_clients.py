"""Installs the clients that tests/e2e/test_real_clients.py runs into .venv-clients, or the folder in CCFLARE_CLIENTS.

They have an environment of their own, since what they need may not go with what we need. The exit code is 1 if they
cannot be installed, and one line says why: no change should wait for somebody else's server.
"""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 150.0
_OF_THE_USER = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
WITHOUT_DEPENDENCIES = "claude-agent-sdk"
"""It brings Claude Code, a program that needs no Python."""


def main(seconds: float = SECONDS) -> int:
    """Install them unless they are there, and give the exit code."""
    folder = Path(os.environ.get("CCFLARE_CLIENTS") or ROOT / ".venv-clients")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["clients"]
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return 0
    stamp.unlink(missing_ok=True)
    try:
        install(folder, wanted, seconds)
    except subprocess.TimeoutExpired:
        return give_up(f"that took longer than {seconds:g} s")
    except subprocess.CalledProcessError as problem:
        lines = [line for line in problem.stderr.splitlines() if line.startswith("ERROR")]
        return give_up(lines[-1] if lines else f"exit code {problem.returncode}")
    stamp.write_text("\n".join(wanted))
    return 0


def install(folder: Path, wanted: list[str], seconds: float) -> None:
    """A new environment with these packages. Raises what subprocess.run does."""
    print(f"ccflare: installing {' and '.join(wanted)} into {folder.name}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--quiet", "--no-input", "--disable-pip-version-check"]
    alone = [package for package in wanted if package.startswith(WITHOUT_DEPENDENCIES)]
    until = time.monotonic() + seconds
    for command in (
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)],
        [*pip, "install", "--no-deps", *alone],
        [*pip, "install", *(package for package in wanted if package not in alone)],
    ):
        run(command, max(0.0, until - time.monotonic()))


def run(command: list[str], seconds: float) -> None:
    """Run it without what the user has set for Python and pip, which could lead the packages elsewhere."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_USER}
    subprocess.run(command, env=environment, timeout=seconds, check=True, capture_output=True, text=True)  # noqa: S603


def give_up(reason: str) -> int:
    print(f"ccflare: the real clients could not be installed ({reason}); their tests are left out", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*(float(seconds) for seconds in sys.argv[1:])))
