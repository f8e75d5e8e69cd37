"""Whether the clients that were connected by their settings still go through the proxy."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

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


def clients(settings: Settings, environ: Mapping[str, str], place: str, managed: Path = MANAGED) -> Results:
    """One result for each reason, or for each client that is connected."""
    is_any = False
    for client in CLIENTS.values():
        for result in _client(client, settings, environ, place, managed):
            is_any = True
            yield result
    if not is_any:
        yield ok(CHECK, "no client is connected by its settings")


def _client(client: Client, settings: Settings, environ: Mapping[str, str], place: str, managed: Path) -> list[Result]:
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
    why = list(reasons(own, environ, _managed(managed), known.place or place))
    return [warn(CHECK, f"{client.title} goes past the proxy: {each}", again) for each in why] or [
        ok(CHECK, f"{client.title} goes through the proxy")
    ]


def _managed(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
    except (ConfigError, ValueError):
        return {}
    env = found.get("env") if isinstance(found, dict) else None
    return {name: str(value) for name, value in env.items()} if isinstance(env, dict) else {}
