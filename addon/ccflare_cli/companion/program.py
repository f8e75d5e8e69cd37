"""What a service starts, and with which variables: by paths that are still right after an upgrade."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ccflare_cli import ROOT
from ccflare_cli.console import Refused
from ccflare_core.config.environment import read_environment
from ccflare_core.config.options import (
    ALERT_SECRET,
    CONFIG_PATH,
    ENCRYPTION_KEY,
    OTEL_HEADERS,
    PASSPHRASE,
    PKCS11_PIN,
)
from ccflare_core.config.settings import Settings

_SECRETS = (ENCRYPTION_KEY, PASSPHRASE, PKCS11_PIN, ALERT_SECRET, OTEL_HEADERS)
_DATABASE = "ccflare_DB_PATH"
_PASSING = ("archive-v0", "environments-v2", "builds-v0")
"""Folders of uv's cache, where `uvx` keeps what it runs, and deletes it some day."""


def own_command(
    script: str,
    word: str,
    root: Path = ROOT,
    prefix: Path = Path(sys.prefix),
    which: Callable[[str], str | None] = shutil.which,
) -> list[str]:
    """The script of a clone, else the `ccflare` that the user's PATH has, as long as it is this one's, and the word.

    Behind such a name an upgrade puts another version, where the folder of this version may be gone (Homebrew's is).
    Raises Refused.
    """
    clone = root / "scripts" / script
    if clone.is_file():
        return [str(clone)]
    if any(part in _PASSING for part in prefix.parts):
        raise Refused("uvx keeps a program only for a while: install it, with `pipx install` or `uv tool install`.")
    own = prefix / "bin" / "ccflare"
    named = which("ccflare")
    if named and Path(named).resolve() == own.resolve():
        return [named, word]
    if own.is_file():
        return [str(own), word]
    raise Refused(f"There is no {own}, which would be started: install ccflare with pipx, or make a clone.")


class Carried(NamedTuple):
    """The variables of ours that a service gets, and those that it does not, since a file would show them."""

    variables: dict[str, str]
    secrets: tuple[str, ...]


def carried(environ: Mapping[str, str], settings: Settings, others: Iterable[str] = ()) -> Carried:
    """What of this environment the proxy reads. A service starts without it, and would be another proxy."""
    names = [*read_environment(environ).variables.values(), CONFIG_PATH, "XDG_DATA_HOME", *others]
    found = {name: environ[name] for name in names if environ.get(name, "").strip()}
    if CONFIG_PATH in found:
        found[CONFIG_PATH] = str(Path(found[CONFIG_PATH]).expanduser().absolute())
    found |= {name: environ[name] for name in _SECRETS if environ.get(name, "").startswith(("file:", "cmd:"))}
    if _DATABASE in found:
        found[_DATABASE] = str(settings.database)
    return Carried(found, tuple(name for name in _SECRETS if environ.get(name) and name not in found))
