"""A user's home for the commands that look into it: empty but for mitmproxy's authority."""

import shutil
from pathlib import Path

import pytest

from harness import authority


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in this folder, for this process too."""
    monkeypatch.setenv("HOME", str(folder))
    for name in ("CLAUDE_CONFIG_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(authority(), folder / ".mitmproxy")
    return folder
