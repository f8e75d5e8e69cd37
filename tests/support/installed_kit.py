"""A clone of the program in which everything is installed, with the packages of the Python that runs the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

from harness import REPOSITORY, Proxy

PROGRAMS = ("python", "mitmdump", "mitmproxy", "mitmweb")


def installed(root: Path) -> Path:
    """Make it there; its `scripts/run`."""
    (root / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "scripts/run", "scripts/_bootstrap.sh"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "addon").symlink_to(REPOSITORY / "addon")
    (root / ".venv" / "bin").mkdir(parents=True)
    for name in PROGRAMS:
        (root / ".venv" / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
    known = root / ".venv" / ".ccflare"
    known.mkdir()
    (known / "root").write_text(f"{root}\n")
    both = (root / "pyproject.toml").read_bytes() + (root / "scripts" / "_bootstrap.sh").read_bytes()
    (known / "run.stamp").write_bytes(subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout)
    return root / "scripts" / "run"


def by_run(proxy: Proxy, folder: Path, *words: str) -> None:
    """Have it started by scripts/run."""
    proxy._command[:1] = [str(installed(folder / "clone")), *words]
    loads = proxy._command.index("-s")
    del proxy._command[loads : loads + 2]  # that is run's part
