"""Who else on this machine can reach the files that hold secrets, as findings with a remedy each.

What is done about them differs. The database is ours and what it holds is sealed, so sqlite.py takes others'
rights away by itself. A key, a CA's key or a password in a file that others could read may have been read: that
stops the start, since no chmod makes it secret again. Nothing here opens a file or changes one.
"""

import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.files import beside

_OTHERS = 0o077
_CONFIG_BYTES = 256 * 1024
_SECRET_OPTION = re.compile(rb"^\s*[\"']?(?:web_password|proxyauth|upstream_auth)[\"']?\s*:\s*[^\s#]", re.MULTILINE)
_CA_FILES = ("mitmproxy-ca.pem", "mitmproxy-ca.p12")


class Guarded(NamedTuple):
    """A file to look at, what to call it, and whether its being open to others stops the start."""

    path: Path
    what: str
    is_vital: bool = True


class Finding(NamedTuple):
    """What is wrong with a file or folder, and what mends it."""

    path: Path
    problem: str
    remedy: str
    is_fatal: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}: {self.remedy}"


def guarded_files(settings: Settings, confdir: Path | None = None, config: Path | None = None) -> list[Guarded]:
    """All files that should be their owner's alone. `confdir` is mitmproxy's folder, `config` the file of options."""
    found = [Guarded(settings.key_path, "the key file")]
    if isinstance(settings.database, Path):
        files = (beside(settings.database, suffix) for suffix in ("", "-wal", "-shm"))
        found += [Guarded(path, "the database", False) for path in files]
    if settings.audit_path is not None:
        found.append(Guarded(settings.audit_path, "the audit file", False))
    if confdir is not None:
        found += [Guarded(confdir / name, "the key of the proxy's own CA") for name in _CA_FILES]
    for path in (config, confdir and confdir / "config.yaml"):
        if path is not None and _holds_secret(path):
            found.append(Guarded(path, "a configuration with a password"))
    return found


def require(files: Iterable[Guarded]) -> list[Finding]:
    """The findings that are no reason to stop. ConfigError with all of the others."""
    findings = check(files)
    if fatal := [str(finding) for finding in findings if finding.is_fatal]:
        raise ConfigError(*fatal)
    return findings


def check(files: Iterable[Guarded]) -> list[Finding]:
    """What is wrong with those of `files` that exist, and with their folders; each finding once."""
    seen: dict[Finding, None] = {}
    for file in files:
        seen.update(dict.fromkeys(_of_file(file)))
    return list(seen)


def _of_file(file: Guarded) -> Iterator[Finding]:
    path, what, is_vital = file
    try:
        link, info = path.lstat(), path.stat()
    except OSError:
        return
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(info.st_mode):
        yield Finding(path, f"{what} is not a plain file", "name another one", is_vital)
        return
    if {info.st_uid, link.st_uid} - {os.geteuid(), 0}:
        yield Finding(path, f"{what} belongs to another user", f"run `chown {os.geteuid()} {quoted}`", is_vital)
    if info.st_mode & _OTHERS:
        yield Finding(path, f"{what} is open to other users", f"run `chmod 600 {quoted}`", is_vital)
    if info.st_nlink > 1:
        yield Finding(path, f"{what} has a second name somewhere", f"run `cp` and `mv` to make {quoted} anew", False)
    for folder in {path.absolute().parent, path.resolve().parent}:
        yield from _of_folders(folder, is_vital)


def _of_folders(folder: Path, is_vital: bool) -> Iterator[Finding]:
    """A user who can rename an entry of a folder on the way can put another file in the place of ours."""
    for number, place in enumerate((folder, *folder.parents)):
        info = place.stat()
        quoted = shlex.quote(str(place))
        if info.st_uid not in (os.geteuid(), 0):
            yield Finding(place, "the folder belongs to another user", "move the files to one of your own", is_vital)
        if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
            yield Finding(place, "everybody can replace what is in this folder", f"run `chmod o-w {quoted}`", True)
        elif number == 0 and info.st_mode & _OTHERS and not info.st_mode & stat.S_ISVTX:
            yield Finding(place, "other users can look into this folder", f"run `chmod 700 {quoted}`", False)


def _holds_secret(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _SECRET_OPTION.search(file.read(_CONFIG_BYTES)) is not None
    except OSError:
        return False
