"""A user's home for the commands that look into it: empty but for mitmproxy's authority."""

import shutil
from pathlib import Path

import pytest

from ccflare_core.store.client_keys import new_key
from database_kit import open_store
from harness import authority


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in this folder, for this process too."""
    monkeypatch.setenv("HOME", str(folder))
    for name in ("CLAUDE_CONFIG_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(authority(), folder / ".mitmproxy")
    return folder


def add_key(home: Path) -> str:
    """A client key in this home's database, which there may not have been."""
    store = open_store(home / "data" / "ccflare.db")
    try:
        return store.clients.add(new_key("laptop", 0.0))
    finally:
        store.close()
