"""The clients that can be connected: where their settings are, and which entries lead through the proxy.

Only a user's own settings, never a project's: those go into a repository.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccflare_cli.companion import claude_code
from ccflare_cli.companion.environment import LEADING_ELSEWHERE, Variables
from ccflare_cli.companion.jsonc import MISSING, Element, value_at
from ccflare_cli.companion.jsonc import Path as Steps
from ccflare_core.program import typed

_VARIABLES = ("HTTPS_PROXY", "NODE_EXTRA_CA_CERTS", "NO_PROXY", "ANTHROPIC_AUTH_TOKEN")
"""Those that a settings file can set. Of SSL_CERT_FILE Claude Code takes no notice there, and it needs no other."""
_TTL = "CLAUDE_CODE_PROMPT_CACHE_TTL"

_STATUS_LINE = ("statusLine",)


@dataclass(frozen=True, slots=True)
class Client:
    """A program with settings of its own."""

    name: str
    title: str
    find: Callable[[Mapping[str, str]], Path]
    """Its file, which need not be there yet."""
    variable: Callable[[str], Steps]
    """Where a variable stands in it."""
    takes_settings: bool
    """Whether it is Claude Code's own file, which has more than variables."""
    makes_folder: bool
    """Whether the file's folder may be made; without it the program is not installed."""

    @property
    def undo_command(self) -> str:
        """What takes the connection back."""
        return typed(f"connect {self.name} --undo")

    def memory(self, data: Path) -> Path:
        """Where it is remembered that it was connected."""
        return data / "connections" / f"{self.name}.json"

    def environment(self, text: str) -> dict[str, str]:
        """The variables that matter here, as far as this file sets them."""
        names = (*_VARIABLES, *LEADING_ELSEWHERE, "no_proxy", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")
        found = {name: value_at(text, self.variable(name)) for name in names}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    def entries(self, wanted: Variables, status_line: Sequence[str]) -> dict[tuple[str, ...], object]:
        """What is to stand in the file, by its path; MISSING for what must not.

        `status_line` is the command for it, if there is one.
        """
        found: dict[tuple[str, ...], object] = {tuple(self.variable(name)): MISSING for name in wanted.unset}
        found |= {tuple(self.variable(name)): wanted.set[name] for name in _VARIABLES if name in wanted.set}
        if _TTL in wanted.set:
            cache = ("promptCacheTtl",) if self.takes_settings else tuple(self.variable(_TTL))
            found[cache] = wanted.set[_TTL]
        if self.takes_settings and status_line:
            line = {"type": "command", "command": shlex.join(status_line), "padding": 0, "refreshInterval": 5}
            found[_STATUS_LINE] = line
        return found


OPTIONAL = ("promptCacheTtl", "statusLine", _TTL)
"""Entries without which a client is connected as well, so that the user's own stay."""


def _of_vscode(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    if platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif platform == "win32":
        base = Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        base = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "Code" / "User" / "settings.json"


CLIENTS = {
    "claude-code": Client(
        "claude-code",
        "Claude Code",
        claude_code.settings_file,
        lambda variable: ("env", variable),
        takes_settings=True,
        makes_folder=True,
    ),
    "vscode": Client(
        "vscode",
        "Claude Code in VS Code",
        _of_vscode,
        lambda variable: ("claudeCode.environmentVariables", Element(variable)),
        takes_settings=False,
        makes_folder=False,
    ),
}
