"""The frozen Settings that the program reads, and the places that options come from.

What counts, strongest first: command line, environment, configuration file, built-in default. All
mistakes are raised together, one sentence each: the name, what is wrong, what is allowed.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ccflare_core.anthropic.oauth import Endpoints
from ccflare_core.config import location
from ccflare_core.config.environment import read_environment
from ccflare_core.config.location import Location
from ccflare_core.config.option import Option, shown
from ccflare_core.config.options import (
    CONFIG_PATH,
    ENCRYPTION_KEY,
    LISTEN,
    OPTIONS,
    VARIABLES,
    is_path,
    option_table,
)
from ccflare_core.config.record_mode import Rule, parse_rules
from ccflare_core.config.spelling import unknown
from ccflare_core.config.target import parse_upstream
from ccflare_core.errors import ConfigError
from ccflare_core.http.addresses import Networks
from ccflare_core.http.hosts import HostNames
from ccflare_core.http.origins import Origin, Origins
from ccflare_core.http.pins import Pins
from ccflare_core.http.targets import TunnelTargets
from ccflare_core.reading import read_text

__all__ = [
    "ENCRYPTION_KEY",
    "LISTEN",
    "OPTIONS",
    "VARIABLES",
    "Option",
    "Settings",
    "config_file",
    "defaults",
    "environment_defaults",
    "file_defaults",
    "option_table",
    "own_file",
    "places",
    "unknown",
]

FILE_NAME = "mitm-config.yaml"
_ROOT, _HERE = Path(__file__).resolve().parents[3], Path(__file__).resolve().parent
SHIPPED = _ROOT if (_ROOT / FILE_NAME).is_file() else _HERE
"""The folder whose mitm-config.yaml came with the program: a clone's own, or that of an installation's package."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options after all checks, without their prefix; paths are absolute and a ~ is resolved."""

    upstream: Origin
    upstream_path: str
    egress_proxy: str
    database: Location
    notify_database: location.Server | None
    key_path: Path
    key_source: str
    pkcs11_module: Path | None
    pkcs11_token: str
    audit_path: Path | None
    audit_stop_after_seconds: int
    anomaly_notices: bool
    alert_webhook: str
    alert_command: str
    otel_endpoint: str
    otel_signals: str
    otel_content: bool
    prices_path: Path | None
    rules_path: Path | None
    agents_path: Path | None
    strategy: str
    session_seconds: int
    hold_seconds: int
    retry_attempts: int
    retry_delay_ms: int
    retry_backoff: int
    passthrough: str
    stateful_account: str
    record: str
    record_paths: tuple[Rule, ...]
    search_index: str
    body_limit_bytes: int
    upload_limit_bytes: int
    client_connections: int
    client_head_seconds: int
    client_body_idle_seconds: int
    client_body_seconds: int
    client_stall_seconds: int
    client_idle_seconds: int
    connect_seconds: int
    first_byte_seconds: int
    stream_idle_seconds: int
    exchange_seconds: int
    capture_limit_bytes: int
    capture_budget_bytes: int
    memory_soft_limit_bytes: int
    payload_days: int
    request_days: int
    database_limit_bytes: int
    minimum_free_bytes: int
    drain_seconds: int
    inspector_flows: int
    inspector_bytes: int
    forward_other_hosts: bool
    allow_remote: bool
    insecure_remote: bool
    open_loopback: bool
    client_tls: str
    client_ca: Path | None
    upstream_pins: Pins
    pins_mode: str
    debuggable: bool
    allow_ips: Networks
    block_ips: Networks
    trusted_proxies: Networks
    allowed_origins: Origins
    allowed_hosts: HostNames
    tunnel_targets: TunnelTargets
    requests_per_minute_per_ip: int
    max_requests: int
    max_waiting: int
    tuning: bool
    client_id: str
    refresh_before_seconds: int
    usage_poll_seconds: int
    token_url: str
    authorize_url: str
    console_authorize_url: str
    create_key_url: str
    redirect_url: str
    scopes: str
    log_level: str
    log_format: str
    log_file: Path | None
    log_file_bytes: int
    log_file_days: int
    log_file_count: int

    @classmethod
    def build(cls, values: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Self:
        """The settings that `values` (by option name) and the defaults make; ConfigError with all mistakes.

        mitmproxy's names are ignored, so its whole set of options may be given. `environ` is asked only for
        XDG_DATA_HOME, where the database lies by default.
        """
        merged: dict[str, Any] = {option.name: values.get(option.name, option.default) for option in OPTIONS}
        problems = [*unknown(values), *_problems(merged)]
        if problems:
            raise ConfigError(*problems)
        fields = {name.removeprefix("ccflare_"): value for name, value in merged.items()}
        fields["upstream"], fields["upstream_path"] = parse_upstream(fields["upstream"]) or (None, "")
        fields["database"] = _database(fields["database"], environ)
        fields["notify_database"] = _notify_database(fields["notify_database"], fields["database"])
        fields["key_path"] = _key_path(fields.pop("key_file"), fields["database"], environ)
        fields["audit_path"] = _audit_path(fields.pop("audit_file"), fields["database"], environ)
        fields["prices_path"] = _absolute(fields.pop("prices"))
        fields["agents_path"] = _absolute(fields.pop("agents"))
        fields["rules_path"] = _absolute(fields.pop("rules"))
        fields["record_paths"] = parse_rules(fields["record_paths"])
        fields["pkcs11_module"] = _absolute(fields["pkcs11_module"])
        for name in ("allow_ips", "block_ips", "trusted_proxies"):
            fields[name] = Networks.parse(fields[name])
        fields["allowed_origins"] = Origins.parse(fields["allowed_origins"])
        fields["allowed_hosts"] = HostNames.parse(fields["allowed_hosts"])
        fields["tunnel_targets"] = TunnelTargets.parse(fields["tunnel_targets"])
        fields["log_file"] = _log_file(_absolute(fields["log_file"]), fields)
        fields["client_ca"] = _absolute(fields["client_ca"])
        fields["upstream_pins"] = Pins.parse(fields["upstream_pins"])
        if fields["search_index"] == "plain" and isinstance(fields["database"], location.Server):
            raise ConfigError("ccflare_search_index: plain works with an SQLite file only; allowed is none")
        settings = cls(**fields)
        settings._check_pins()
        return settings

    @property
    def requires_client_tls(self) -> bool:
        """Whether plain HTTP is refused on our port."""
        return self.client_tls == "required" or self.client_ca is not None

    @property
    def own_scheme(self) -> str:
        """By which scheme clients reach our port."""
        return "https" if self.requires_client_tls else "http"

    @property
    def notify_option(self) -> str:
        """Which option has named the server that announcements are heard on."""
        return "ccflare_database" if self.notify_database == self.database else "ccflare_notify_database"

    def api_url(self, path: str) -> str:
        """Where this path of the API is."""
        return f"{self.upstream}{self.upstream_path}{path}"

    @property
    def egress(self) -> frozenset[Origin]:
        """The only places that ccflare sends requests of its own to, or an account's credential."""
        return frozenset({self.upstream, _origin(self.token_url), _origin(self.create_key_url)})

    @property
    def alert_egress(self) -> frozenset[Origin]:
        """The only place that alerts are sent to."""
        return frozenset({_origin(self.alert_webhook)} if self.alert_webhook else ())

    @property
    def otel_egress(self) -> frozenset[Origin]:
        """The only place that OpenTelemetry is sent to."""
        return frozenset({_origin(self.otel_endpoint)} if self.otel_endpoint else ())

    def _check_pins(self) -> None:
        """Raise ConfigError for pins that would protect nothing: a name misspelt, or no TLS at all."""
        pinned = self.upstream_pins.of_host.keys()
        used = {origin.host for origin in self.egress}
        plain = {origin.host for origin in self.egress if origin.scheme == "http"}
        problems = [f"{host}: nothing is ever sent to this host; remove its pin" for host in pinned - used]
        problems += [f"{host}: it has no key without TLS (http://); remove its pin" for host in pinned & plain]
        if problems:
            raise ConfigError(*(f"ccflare_upstream_pins: {problem}" for problem in sorted(problems)))

    @property
    def endpoints(self) -> Endpoints:
        """Where logins and refreshes go, and who asks."""
        return Endpoints(
            authorize_url_max=self.authorize_url,
            authorize_url_console=self.console_authorize_url,
            token_url=self.token_url,
            create_key_url=self.create_key_url,
            redirect_uri=self.redirect_url,
            client_id=self.client_id,
            scopes=tuple(self.scopes.split()),
        )


def _problems(values: Mapping[str, object]) -> list[str]:
    """What is wrong with those of `values` that are ours."""
    found = ((o.name, o.problem(values[o.name])) for o in OPTIONS if o.name in values)
    return [f"{name}: {problem}" for name, problem in found if problem]


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _absolute(text: str) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _database(text: str, environ: Mapping[str, str]) -> Location:
    return location.parse(text) if text else _folder(environ) / "ccflare.db"


def _notify_database(text: str, database: Location) -> location.Server | None:
    if not isinstance(database, location.Server):
        if text:
            raise ConfigError(
                "ccflare_notify_database: the database is an SQLite file, which announces nothing; unset it"
            )
        return None
    return location.Server(text) if text else database


def _folder(environ: Mapping[str, str]) -> Path:
    """Where data lie by default. The XDG base directory rules say that a relative XDG_DATA_HOME is to be ignored."""
    data = Path(environ.get("XDG_DATA_HOME", ""))
    try:
        folder = data if data.is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError as error:
        raise ConfigError("ccflare_database: there is no home folder for it; give the path of a file") from error
    return folder / "ccflare"


def _key_path(text: str, database: Location, environ: Mapping[str, str]) -> Path:
    if path := _absolute(text):
        found = path
    else:
        found = database.with_suffix(".key") if isinstance(database, Path) else _folder(environ) / "ccflare.key"
    if found == database:
        raise ConfigError("ccflare_key_file: this is the database too; allowed is the path of another file")
    return found


def _audit_path(text: str, database: Location, environ: Mapping[str, str]) -> Path | None:
    if text == "off":
        return None
    if text:
        return _absolute(text)
    if isinstance(database, Path):
        return database.with_suffix(".audit.jsonl")
    # One file a database: rows of two in one file would look like tampering.
    return _folder(environ) / f"ccflare-{hashlib.sha256(str(database).encode()).hexdigest()[:8]}.audit.jsonl"


def _log_file(path: Path | None, fields: Mapping[str, object]) -> Path | None:
    taken = {"database": "the database", "key_path": "the key file", "audit_path": "the audit file"}
    for name, what in taken.items():
        if path is not None and fields[name] == path:
            raise ConfigError(f"ccflare_log_file: this is {what} too; allowed is the path of another file")
    return path


def defaults(environ: Mapping[str, str], folder: Path = SHIPPED) -> dict[str, object]:
    """What holds where the command line is silent: the file's options under the environment's.

    `folder` is where mitm-config.yaml is looked for last. ConfigError with the mistakes of both.
    """
    found: dict[str, object] = {}
    problems: list[str] = []
    try:
        found |= file_defaults(config_file(environ, folder))
    except ConfigError as error:
        problems += error.problems
    try:
        found |= environment_defaults(environ)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return found


def places(environ: Mapping[str, str], folder: Path = SHIPPED) -> dict[str, str]:
    """Where each of the `defaults` comes from: a file by its name, the user's own by its path, or `variable NAME`."""
    file = config_file(environ, folder)
    found = dict.fromkeys(file_defaults(file), _told(file, environ) if file else "")
    return found | {option: f"variable {name}" for option, name in read_environment(environ).variables.items()}


def environment_defaults(environ: Mapping[str, str]) -> dict[str, object]:
    """The options that variables set, PORT and HOST as listen_port and listen_host; see `read_environment`."""
    return read_environment(environ).values


def _told(file: Path, environ: Mapping[str, str]) -> str:
    return str(file) if file == own_file(environ) else file.name


def own_file(environ: Mapping[str, str]) -> Path | None:
    """The user's own mitm-config.yaml, which no update touches, whether it is there or not; None without a home."""
    try:
        return _folder(environ) / FILE_NAME
    except ConfigError:
        return None


def config_file(environ: Mapping[str, str], folder: Path = SHIPPED) -> Path | None:
    """The file that ccflare_CONFIG_PATH names, or else the user's own mitm-config.yaml, or else that in `folder`.

    None if there is none of them.
    """
    if named := environ.get(CONFIG_PATH, "").strip():
        if not is_path(named):
            raise ConfigError(f"{CONFIG_PATH}: {shown(named)} cannot be used; allowed is the path of a YAML file")
        path = Path(named).expanduser()
        if not path.exists():
            raise ConfigError(f"{CONFIG_PATH}: there is no file {path}; name one, or unset the variable")
        return path
    own, shipped = own_file(environ), folder / FILE_NAME
    # Not exists(), which raises an error for a home that is another user's.
    return next((path for path in (own, shipped) if path is not None and os.access(path, os.F_OK)), None)


def file_defaults(path: Path | None) -> dict[str, object]:
    """The options in a file of mitmproxy's own format, ours checked, mitmproxy's as they stand; {} for None.

    ConfigError with all mistakes, also if the file cannot be read.
    """
    found = _read_mapping(path) if path else {}
    if problems := [*unknown(found), *_problems(found)]:
        raise ConfigError(*(f"{path}: {problem}" for problem in problems))
    return found


def _read_mapping(path: Path) -> dict[str, object]:
    text = read_text(path)
    try:
        # YAML 1.2, as mitmproxy reads it: `off` is a word there and not false.
        found = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise ConfigError(f"{where}: this is not YAML; allowed is `name: value`, one a line") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{path}: these are no options; allowed is `name: value`, one a line")
    return found
