"""Secrets that a variable names instead of holding: `file:PATH`, or `cmd:PROGRAM ARGUMENTS` for a secret manager."""

import os
import shlex
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ccflare_core.config.environment import of_others
from ccflare_core.errors import VaultError
from ccflare_core.files import unblocked

_LIMIT = 65_536
_SECONDS = 20.0


def read_secret(environ: Mapping[str, str], variable: str) -> str | None:
    """The secret that the variable holds or leads to; None if it is not set.

    Raises VaultError if it is set and there is nothing behind it: going on without would hide that. No message quotes
    what was read.
    """
    text = environ.get(variable)
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    if kind == "file":
        text = _file(variable, Path(rest.strip()).expanduser())
    elif kind == "cmd":
        text = _output(variable, rest)
    text = text.strip()
    if not text:
        raise VaultError(f"{variable} is set but there is no secret in it: correct it, or unset it")
    return text


def read_private(path: Path, what: str) -> bytes:
    """The bytes of a file that nobody else can read. Raises VaultError, which calls the file `what`."""
    try:
        with open(path, "rb", opener=unblocked) as file:
            _check_private(path, os.fstat(file.fileno()), what)
            return file.read(_LIMIT)
    except OSError as error:
        raise VaultError(f"{what} {path} cannot be used: {error.strerror or error}") from error


def _check_private(path: Path, info: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise VaultError(f"{what} {path} is not a plain file: name another one")
    if info.st_uid not in (os.geteuid(), 0):
        raise VaultError(f"{what} {path} belongs to another user: give it to the user that runs ccflare")
    if info.st_mode & 0o077:
        raise VaultError(f"{what} {path} is open to other users: run `chmod 600 {path}`")


def _file(variable: str, path: Path) -> str:
    return _text(variable, read_private(path, f"the file of {variable},"))


def _output(variable: str, line: str) -> str:
    """What the program prints. No shell sees the line, and what it complains about may be secret."""
    try:
        run = subprocess.run(  # noqa: S603
            shlex.split(line),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=of_others(os.environ),
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VaultError(f"the command of {variable} took longer than {_SECONDS:.0f} s: try it by hand") from None
    except (OSError, ValueError, IndexError):
        raise VaultError(f"the command of {variable} cannot be run: check the program's path") from None
    if run.returncode:
        raise VaultError(f"the command of {variable} failed with exit code {run.returncode}: try it by hand")
    return _text(variable, run.stdout[:_LIMIT])


def _text(variable: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise VaultError(f"what {variable} leads to is not text: check which file or program it names") from None
