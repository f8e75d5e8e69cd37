"""Whether what runs, what is installed and what lies in the clone are one and the same program.

Nothing that is found is run: files tell.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ccflare_cli.doctor.results import Result, Results, ok, warn
from ccflare_core.program import FOLDER, Version, typed

_UPGRADE = "install it anew: `rm -rf build && pipx install --force .` in the clone"


def versions(environ: Mapping[str, str], here: Path = FOLDER) -> Results:
    """This installation, the clone that it was made from, and the `ccflare` that the user's PATH has."""
    ours = Version.of(here)
    yield ok("host.version", f"ccflare {ours} in {here}")
    for what, folder in (*_clones(), *_commands(environ)):
        theirs = None if folder == here else _version(folder)
        if theirs is not None:
            yield _compared(what, theirs, ours, _UPGRADE)


def of_proxy(proxy: str, theirs: Version) -> Result:
    """Whether a running proxy is what would be started now."""
    return _compared(f"the proxy on {proxy}", theirs, Version.of(), f"restart it: `{typed('proxy')}`", "proxy.version")


def _compared(what: str, theirs: Version, ours: Version, remedy: str, check: str = "host.version") -> Result:
    if theirs == ours:
        return ok(check, f"{what} is of the same version")
    return warn(check, f"{what} is another version, {theirs}: this is {ours}", remedy)


def _version(folder: Path) -> Version | None:
    try:
        return Version.of(folder)
    except OSError:
        return None


def _clones() -> Iterator[tuple[str, Path]]:
    """The clone that pip has installed, if it says, and where the packages are in it."""
    try:
        told = json.loads(metadata.distribution("ccflare").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return
    url = urlsplit(str(told.get("url", "")))
    if url.scheme == "file":
        clone = Path(unquote(url.path))
        yield f"the clone that it was installed from, {clone},", (clone / "addon").resolve()


def _commands(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """The `ccflare` that a shell would start, and where its packages are."""
    command = shutil.which("ccflare", path=environ.get("PATH", ""))
    folder = _packages(Path(command).resolve().parent.parent) if command else None
    if folder is not None:
        yield f"the command {command}", folder


def _packages(prefix: Path) -> Path | None:
    """Where the packages are of the environment with this prefix."""
    for site in sorted((prefix / "lib").glob("python*/site-packages")):
        if (site / "ccflare_core").is_dir():
            return site.resolve()
        for link in site.glob("__editable__.ccflare-*.pth"):  # a clone that pip leads to
            return Path(link.read_text(encoding="utf-8").strip()).resolve()
    return None
