"""What `doctor.py` looks at on this machine: versions, variables, options, files, the checkout, logs."""

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from ccflare_cli import ROOT
from ccflare_cli.doctor import installation, leaks, versions
from ccflare_cli.doctor.installation import MINIMA
from ccflare_cli.doctor.results import Results, checked, fail, ok, warn
from ccflare_core.clients import guardrail_files
from ccflare_core.config import settings
from ccflare_core.config.environment import of_others, read_environment, told
from ccflare_core.config.options import (
    ALERT_SECRET,
    ENCRYPTION_KEY,
    LISTEN,
    MCP_KEY,
    OPTIONS,
    OTEL_HEADERS,
    PASSPHRASE,
    PKCS11_PIN,
)
from ccflare_core.config.permissions import check, guarded_files
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.program import is_clone
from ccflare_core.secrets.redact import TooMuch
from ccflare_core.text import some

_LOG_BYTES = 64 * 1024**2
_GIT_SECONDS = 20
_GENERATED = (".db", ".db-wal", ".db-shm", ".key", ".pem", ".p12", ".har", ".flows", ".mitm", ".log")

Options = Mapping[str, object]


def confdir(options: Options) -> Path:
    """mitmproxy's folder, with its own authority and configuration."""
    return Path(str(options.get("confdir") or "~/.mitmproxy")).expanduser()


def option_sources(environ: Mapping[str, str], problems: list[str]) -> dict[str, Options]:
    """The options by the place where they stand, the strongest last; mistakes go into `problems`."""
    found: dict[str, Options] = {}
    file = None
    try:
        file = settings.config_file(environ)
    except ConfigError as error:
        problems += error.problems
    own: Options = {}
    if file is not None:
        own = _read(file, problems)
    folder = confdir(own)
    for path in (folder / "config.yaml", folder / "config.yml"):
        if path.is_file():
            found[str(path)] = _read(path, problems)
    if file is not None:
        found[str(file)] = own
    try:
        found["the environment"] = settings.environment_defaults(environ)
    except ConfigError as error:
        problems += error.problems
    return found


def _read(path: Path, problems: list[str]) -> Options:
    try:
        return settings.file_defaults(path)
    except ConfigError as error:
        problems += error.problems
        return {}


def host(environ: Mapping[str, str], options: Options) -> Results:
    """Versions and variables."""
    installed = {each.package: version for each in MINIMA if (version := _version(each.package))}
    major, minor, _, patch, _ = ssl.OPENSSL_VERSION_INFO
    yield from installation.versions(sys.version_info[:3], (major, minor, patch), installed)
    yield from versions.versions(environ)
    ports = [int(str(options.get("listen_port") or 8080))]
    secrets = (ENCRYPTION_KEY, PASSPHRASE, PKCS11_PIN, ALERT_SECRET, OTEL_HEADERS, MCP_KEY)
    yield from installation.environment(environ, ports, secrets)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield warn("host.user", "this is the administrator (root)", "run ccflare as a user of its own")
    else:
        yield ok("host.user", "not the administrator")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def sources(environ: Mapping[str, str]) -> Results:
    """Where the options that are not at their defaults come from here, and which variables are not counted."""
    try:
        values, places = settings.defaults(environ), settings.places(environ)
        foreign = told(read_environment(environ).foreign)
    except ConfigError:
        return  # it is told already
    usual = {option.name: option.default for option in (*OPTIONS, *LISTEN)}
    set_ = {name: place for name, place in places.items() if values[name] != usual.get(name)}
    yield from installation.option_places("here, ", set_)
    if foreign:
        yield warn("options.variables", foreign, "unset it for ccflare, if you like")


def options(sources: Mapping[str, Options], problems: Iterable[str], merged: Options) -> Results:
    """Whether all options are understood, and none opens a hole."""
    yield from checked("options.valid", problems, "all options are understood", "correct it where it stands")
    hazards = [result for name, each in sources.items() for result in installation.option_hazards(name, each)]
    yield from hazards or [ok("options.hazards", "no option opens a hole")]
    yield from installation.option_risks(merged)
    yield from installation.mitmweb(merged)


def files(settings_: Settings | None, merged: Options, environ: Mapping[str, str]) -> Results:
    """Whether the files that hold secrets are their owner's alone."""
    if settings_ is not None:
        config = settings.config_file(environ)
        found = check(guarded_files(settings_, confdir(merged), config))
        for finding in found:
            level = fail if finding.is_fatal else warn
            yield level("files.private", f"{finding.path}: {finding.problem}", finding.remedy)
        if not found:
            yield ok("files.private", "keys, database, audit log and CA key are their owner's alone")
    open_ = [f"{path}: others can read it" for path in _env_files() if path.stat().st_mode & 0o077]
    yield from checked("files.env", open_, "no .env file that others can read", "run chmod 600 on it")


def rules(path: Path | None) -> Results:
    """Whether the rules can be understood, and not everybody can change them.

    A proxy that runs keeps the ones it has while they cannot be understood.
    """
    if path is None:
        return
    try:
        found = guardrail_files.load(path)
    except ConfigError as error:
        yield from (fail("options.rules", problem, "correct it where it stands") for problem in error.problems)
        return
    if path.stat().st_mode & stat.S_IWOTH:
        yield warn("options.rules", f"{path}: everybody can change the rules", "run chmod o-w on it")
    else:
        yield ok("options.rules", f"{some(len(found), 'rule')} in {path}")


def rules_accounts(path: Path | None, names: Callable[[], Collection[str]]) -> Results:
    """Whether the rules are about accounts that there are. What is wrong with the file itself, `rules` tells."""
    try:
        found = guardrail_files.load(path).rules
    except ConfigError:
        return
    accounts = names() if found else ()
    for rule in found:
        for text in rule.unmatched(accounts):
            told = f"rule {rule.name}: no account is called {text}"
            yield warn("options.rules", told, "correct it, or take it out, where the rules are")


def _env_files() -> Iterator[Path]:
    for folder in {ROOT, Path.cwd()}:
        yield from (path for path in sorted(folder.glob(".env*")) if path.is_file())


def code() -> Results:
    """Whether the checkout holds a secret, or a file that has one in it by its nature."""
    tracked = _tracked()
    if tracked is None:
        yield ok("code.tracked", "this is no git checkout, so nothing can be committed by mistake")
        return
    strays = [f"{name} is tracked" for name in tracked if _is_stray(name)]
    yield from checked(
        "code.tracked", strays, "no tracked file is a database, a key, a log or an .env", "run `git rm --cached` on it"
    )
    found = [f"{name}:{leak.line}: {leak.kind}" for name in tracked for leak in _leaks(ROOT / name, is_source=True)]
    yield from checked(
        "code.secrets",
        found,
        f"no secret in {len(tracked)} tracked files",
        "revoke it, then remove it from the history",
    )


def _tracked() -> list[str] | None:
    if not is_clone():  # an installation may lie in somebody else's checkout
        return None
    command, environ = ["git", "-C", str(ROOT), "ls-files", "-z"], of_others(os.environ)
    try:
        done = subprocess.run(command, capture_output=True, env=environ, timeout=_GIT_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in os.fsdecode(done.stdout).split("\0") if name]


def _is_stray(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.endswith(_GENERATED) or (last.startswith(".env") and not last.endswith((".example", ".sample")))


def logs(paths: Iterable[Path], known: Iterable[bytes]) -> Results:
    """Whether these files hold a secret, one of this database's or any other."""
    secrets = list(known)
    for path in paths:
        if not path.is_file():
            yield fail("files.logs", f"{path} is no file", "name a log")
            continue
        found = [f"{path}:{leak.line}: {leak.kind}" for leak in _leaks(path, secrets)]
        remedy = "renew that secret, then delete the file"
        yield from checked("files.logs", found[:20], f"no secret in {path}", remedy)
        if path.stat().st_size > _LOG_BYTES:
            told = f"only the first {_LOG_BYTES // 1024**2} MB of {path} were searched"
            yield warn("files.logs", told, "split the file, or rotate logs earlier")
        if path.stat().st_mode & stat.S_IROTH:
            yield warn("files.logs", f"everybody can read {path}", "run chmod 600 on it")


def _leaks(path: Path, known: Iterable[bytes] = (), *, is_source: bool = False) -> list[leaks.Leak]:
    try:
        with path.open("rb") as file:
            return leaks.find(file.read(_LOG_BYTES), known, is_source=is_source)
    except (OSError, TooMuch):
        return [leaks.Leak(0, "cannot be searched")]
