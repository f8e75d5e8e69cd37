"""Where Claude Code keeps its settings, and whether it has a credential of its own."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccflare_core.errors import ConfigError
from ccflare_core.reading import read_bytes

_LIMIT = 32 * 1024**2
"""Bytes: it keeps a lot in its .claude.json."""


def folder(environ: Mapping[str, str]) -> Path:
    """The user's own, never a project's."""
    named = environ.get("CLAUDE_CONFIG_DIR", "")
    return Path(named).expanduser().absolute() if named else Path.home() / ".claude"


def settings_file(environ: Mapping[str, str]) -> Path:
    """Those of the user."""
    return folder(environ) / "settings.json"


def has_login(environ: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Whether it is logged in, or has a program that gives it a key. On macOS the login itself is in the keychain."""
    home = folder(environ)
    state = home if environ.get("CLAUDE_CONFIG_DIR") else home.parent
    known = _read(state / ".claude.json")
    if known.get("primaryApiKey") or (platform == "darwin" and known.get("oauthAccount")):
        return True
    login = _read(home / ".credentials.json").get("claudeAiOauth")
    has_token = isinstance(login, dict) and bool(login.get("accessToken"))
    return has_token or bool(_read(settings_file(environ)).get("apiKeyHelper"))


def _read(path: Path) -> dict[str, Any]:
    """What is in the file, if it is there and can be read."""
    try:
        found = json.loads(read_bytes(path, _LIMIT))
    except (ConfigError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
