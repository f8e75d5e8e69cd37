"""The wheel as pip makes it of a clone, and an environment that has it and nothing of the clone."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

from harness import REPOSITORY

SOURCES = ("addon", "pyproject.toml", "README.md", "LICENSE", "mitm-config.yaml")
PROGRAMS = ("mitmdump", "mitmweb", "mitmproxy")


def build(folder: Path) -> Path:
    """The wheel, made of a copy: building leaves files behind."""
    for name in SOURCES:
        if (source := REPOSITORY / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / "clone" / name, symlinks=True, ignore=left_out)
        else:
            shutil.copy(source, folder / "clone" / name)
    # With what the tests were installed with, no network is needed.
    isolation = ["--no-build-isolation"] if find_spec("setuptools") else []
    _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(folder), str(folder / "clone"))
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Its `ccflare`, in an environment there whose other packages are those of the Python that runs the tests."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    # Packages alone: what such a folder's own .pth files name, as an editable clone, is not looked at.
    own = next((folder / "lib").glob("python*/site-packages"))
    (own / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for name in PROGRAMS:
        script = folder / "bin" / name
        script.write_text(f"#!{python}\nimport sys\nfrom mitmproxy.tools.main import {name}\nsys.exit({name}())\n")
        script.chmod(0o755)
    return folder / "bin" / "ccflare"


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
