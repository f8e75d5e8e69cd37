"""Whether the clients that were connected by their settings still go through the proxy."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from ccflare_cli.companion import claude_code
from ccflare_cli.companion.bypasses import NAMES, reasons
from ccflare_cli.companion.clients import CLIENTS, Client
from ccflare_cli.companion.here import data_folder
from ccflare_cli.companion.jsonc import value_at
from ccflare_cli.companion.settings_file import Connection, SettingsFile
from ccflare_cli.doctor.results import Result, Results, ok, warn
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError, ConfigError
from ccflare_core.program import typed
from ccflare_core.reading import read_text

CHECK = "host.clients"
MANAGED = Path(
    "/Library/Application Support/ClaudeCode/managed-settings.json"
    if sys.platform == "darwin"
    else "/etc/claude-code/managed-settings.json"
)
"""Where an administrator's settings of Claude Code are."""


def clients(
    settings: Settings, environ: Mapping[str, str], place: str, managed: Path = MANAGED, folder: Path | None = None
) -> Results:
    """One result for each reason, or for each client that is connected. `folder` is this one, unless it is given."""
    project = _project(Path.cwd() if folder is None else folder, environ)
    is_any = False
    for client in CLIENTS.values():
        for result in _client(client, settings, environ, place, _variables(managed), project):
            is_any = True
            yield result
    if not is_any:
        yield ok(CHECK, "no client is connected by its settings")


def _client(
    client: Client,
    settings: Settings,
    environ: Mapping[str, str],
    place: str,
    managed: Mapping[str, str],
    project: Mapping[str, str],
) -> list[Result]:
    again = f"give `{typed(f'connect {client.name}')}` again, or take out what leads elsewhere"
    try:
        known = Connection.read(client.memory(data_folder(settings)))
        if known is None:
            return []
        text = SettingsFile(Path(known.file)).read().content.decode("utf-8-sig")
        found = {name: value_at(text, client.variable(name)) for name in NAMES}
    except (CCFlareError, ValueError) as error:
        return [warn(CHECK, f"the settings of {client.title} cannot be read: {error}", again)]
    own = {name: value for name, value in found.items() if isinstance(value, str)}
    why = list(reasons(own, environ, managed, known.place or place, project))
    return [warn(CHECK, f"{client.title} goes past the proxy: {each}", again) for each in why] or [
        ok(CHECK, f"{client.title} goes through the proxy")
    ]


def _project(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the settings of the project in this folder set; nothing in the home, where they are the user's own."""
    place = folder / ".claude"
    if place.resolve() == claude_code.folder(environ).resolve():
        return {}
    return _variables(place / "settings.json") | _variables(place / "settings.local.json")


def _variables(path: Path) -> dict[str, str]:
    """Those that a file of Claude Code's settings sets; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
    except (ConfigError, ValueError):
        return {}
    env = found.get("env") if isinstance(found, dict) else None
    return {name: str(value) for name, value in env.items()} if isinstance(env, dict) else {}
