"""Variables as each shell takes them. Pure."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import NamedTuple

from ccflare_cli.companion.environment import Variables


class Shell(NamedTuple):
    """How one kind of shell is told."""

    set: Callable[[str, str], str]
    unset: Callable[[str], str]
    use: str
    """How to have the shell take what a command prints."""


SHELLS = {
    "bash": Shell(
        lambda name, value: f"export {name}={shlex.quote(value)}", lambda name: f"unset {name}", 'eval "$({command})"'
    ),
    "zsh": Shell(
        lambda name, value: f"export {name}={shlex.quote(value)}", lambda name: f"unset {name}", 'eval "$({command})"'
    ),
    "fish": Shell(
        lambda name, value: f"set -gx {name} '{_fish(value)}'", lambda name: f"set -e {name}", "{command} | source"
    ),
    "powershell": Shell(
        lambda name, value: f"$env:{name} = '{_doubled(value)}'",
        lambda name: f"Remove-Item Env:{name} -ErrorAction SilentlyContinue",
        "{command} | Out-String | Invoke-Expression",
    ),
}
DEFAULT = "bash"


def _fish(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _doubled(value: str) -> str:
    # PowerShell takes typographic quotation marks for the plain one.
    return "".join(char * 2 if char in "'\u2018\u2019\u201a\u201b" else char for char in value)


def own_shell(environ: Mapping[str, str]) -> str:
    """The one that the user has, by SHELL; bash for one that is not known, whose language most have."""
    name = PurePath(environ.get("SHELL", "")).name
    return name if name in SHELLS else DEFAULT


def spoken(variables: Variables, shell: str) -> str:
    """All of it as lines for this shell. What is to go comes first: on Windows https_proxy is HTTPS_PROXY."""
    language = SHELLS[shell]
    lines = [language.unset(name) for name in variables.unset]
    return "\n".join([*lines, *(language.set(name, value) for name, value in variables.set.items())])
