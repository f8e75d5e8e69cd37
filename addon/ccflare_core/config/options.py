"""The one table of options.

mitmproxy's options, the README's tables, the environment variables and all checks are made from OPTIONS, so an
option is added here and nowhere else. Each says when a change of it applies.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ccflare_core.anthropic import oauth
from ccflare_core.config import location, record_mode
from ccflare_core.config.option import Applies, Group, Option
from ccflare_core.config.target import FORM as UPSTREAM
from ccflare_core.config.target import parse_upstream
from ccflare_core.http import pins
from ccflare_core.http.addresses import are_networks
from ccflare_core.http.egress import FORM as PROXY
from ccflare_core.http.egress import is_open_proxy
from ccflare_core.http.hosts import FORM as HOSTS
from ccflare_core.http.hosts import are_hosts
from ccflare_core.http.messages import check_url
from ccflare_core.http.origins import are_origins
from ccflare_core.http.targets import FORM as TARGETS
from ccflare_core.http.targets import are_targets

AT_ONCE, NEW, RESTART = Applies.AT_ONCE, Applies.NEW, Applies.RESTART

MIB = 1024**2
DAY = 86_400

_ADDRESS = re.compile(r"[a-z0-9._:%-]+", re.IGNORECASE | re.ASCII)
_SCOPES = re.compile(r"[\x21-\x7e]{1,100}(?: [\x21-\x7e]{1,100}){0,49}")


def is_path(text: str) -> bool:
    """Whether `text` can name a file: a ~ in front, if any, must lead to a home folder."""
    if not text.isprintable():
        return False
    try:
        Path(text).expanduser()
    except RuntimeError:
        return False
    return True


def _is_location(text: str) -> bool:
    return location.is_location_of_server(text) if location.is_server(text) else is_path(text)


def _is_server(text: str) -> bool:
    return not text or location.is_location_of_server(text)


def _is_upstream(text: str) -> bool:
    return parse_upstream(text) is not None


def _is_egress(text: str) -> bool:
    if text.startswith(("file:", "cmd:")):
        return bool(text.partition(":")[2].strip())
    return not text or is_open_proxy(text)


def _is_account(text: str) -> bool:
    return text.isprintable() and len(text) <= 100


def _is_client_id(text: str) -> bool:
    return text.isascii() and " " not in text and 0 < len(text) <= 200


def _is_safe_url(text: str) -> bool:
    try:
        check_url(text)
    except ValueError:
        return False
    return True


def _is_webhook(text: str) -> bool:
    return not text or _is_safe_url(text)


def _is_receiver(text: str) -> bool:
    return not text or (_is_safe_url(text) and "?" not in text)


def _is_command(text: str) -> bool:
    try:
        return not text or bool(shlex.split(text))
    except ValueError:
        return False


def _are_scopes(text: str) -> bool:
    return _SCOPES.fullmatch(text) is not None


def _are_rules(text: str) -> bool:
    try:
        record_mode.parse_rules(text)
    except ValueError:
        return False
    return True


def _is_address(text: str) -> bool:
    return _ADDRESS.fullmatch(text) is not None


def _number(
    name: str, applies: Applies, default: int, low: int, high: int, text: str, variable: str = "", scale: int = 1
) -> Option:
    return Option(
        name, applies, int, default, text, minimum=low, maximum=high, environment=variable or None, scale=scale
    )


def _choice(
    name: str, applies: Applies, choices: str, default: str, text: str, variable: str = "", **synonyms: str
) -> Option:
    return Option(
        name,
        applies,
        str,
        default,
        text,
        choices=tuple(choices.split("|")),
        environment=variable or None,
        synonyms=tuple(synonyms.items()),
    )


def _switch(name: str, applies: Applies, default: bool, text: str) -> Option:
    return Option(name, applies, bool, default, text)


def _file(name: str, applies: Applies, text: str, variable: str = "") -> Option:
    return Option(name, applies, str, "", text, environment=variable or None, check=is_path, form="the path of a file")


def _networks(name: str, applies: Applies, text: str) -> Option:
    form = "addresses and networks such as 10.0.0.0/8, with commas or spaces between"
    return Option(name, applies, str, "", text, check=are_networks, form=form)


def _url(name: str, applies: Applies, default: str, text: str) -> Option:
    return Option(
        name,
        applies,
        str,
        default,
        text,
        check=_is_safe_url,
        form="https://… (or http://… on this machine) without user",
    )


def _in(group: Group, *options: Option) -> tuple[Option, ...]:
    return tuple(replace(option, group=group) for option in options)


_TODAY = oauth.Endpoints()

# fmt: off
_UPSTREAM = _in(
    Group.UPSTREAM,
    Option("ccflare_upstream", NEW, str, "https://api.anthropic.com",
           "The API that requests are sent to, or a gateway to it, whose path goes before theirs.",
           check=_is_upstream, form=UPSTREAM),
    Option("ccflare_egress_proxy", RESTART, str, "",
           "The proxy on the way to the upstream, and to where tokens come from. Empty: as --mode upstream:… says, or "
           "none.", environment="ccflare_EGRESS_PROXY", check=_is_egress,
           form=f"{PROXY}, or file:PATH or cmd:PROGRAM for one with USER:PASSWORD@"),
    Option("ccflare_upstream_pins", AT_ONCE, str, "",
           "The public keys that upstream hosts may have: HOST=sha256/BASE64, separated by commas.",
           check=pins.are_pins, form=pins.FORM),
    _choice("ccflare_pins_mode", AT_ONCE, "enforce|report-only", "enforce",
            "What happens when an upstream has none of its pinned keys: nothing is sent to it, or a warning is "
            "logged once an hour."),
    _number("ccflare_retry_attempts", NEW, 3, 0, 10,
            "How often a failed request is retried on the same account before it moves to the next one.",
            "RETRY_ATTEMPTS"),
    _number("ccflare_retry_delay_ms", NEW, 1000, 0, 60_000,
            "The pause before the first retry, in milliseconds.", "RETRY_DELAY_MS"),
    _number("ccflare_retry_backoff", NEW, 2, 1, 10,
            "The factor by which each further pause is longer than the one before.", "RETRY_BACKOFF"),
    _file("ccflare_agents", RESTART,
          "A folder of Claude Code's agent files, or a YAML file, by which requests of agents are recognised and get "
          "their models. Empty: no agent is recognised."),
)
_ACCOUNTS = _in(
    Group.ACCOUNTS,
    _choice("ccflare_strategy", RESTART, "session|least-used|round-robin", "session",
            "How an account is chosen: a session keeps its account, the least used account comes first, or all take "
            "turns.",
            "LB_STRATEGY"),
    _number("ccflare_session_seconds", RESTART, 18_000, 1, 30 * DAY,
            "How long a session keeps its account after its last request.", "SESSION_DURATION_MS",
            scale=1000),
    _number("ccflare_hold_seconds", NEW, 30, 0, 600,
            "How long a request waits when no account is available, or not the one that it needs. 0: it gets a 503 at "
            "once."),
    _choice("ccflare_passthrough", AT_ONCE, "auto|never|always", "auto",
            "When requests are sent with the client's own credential. auto: while there is no account; always: "
            "whenever no account is available."),
    Option("ccflare_stateful_account", AT_ONCE, str, "",
           "The account that Managed Agents live in (sessions, agents, …). Empty: their requests are sent with the "
           "client's own credential.", check=_is_account, form="the name of an account"),
    _number("ccflare_usage_poll_seconds", AT_ONCE, 0, 0, DAY,
            "How often the limits of an idle account are queried, at most once in 60 s. 0: never; answers report "
            "them too."),
)
_RECORDING = _in(
    Group.RECORDING,
    Option("ccflare_database", RESTART, str, "",
           "The database: an SQLite file, or a PostgreSQL URL. Empty: ccflare/ccflare.db in $XDG_DATA_HOME, or else in "
           "~/.local/share.", environment="ccflare_DB_PATH", check=_is_location, form=location.FORM),
    Option("ccflare_notify_database", RESTART, str, "",
           "The PostgreSQL URL by which to hear at once of changes by other proxies, where ccflare_database leads to a "
           "pooler. Empty: ccflare_database.", check=_is_server, form=location.SERVER_FORM),
    _choice("ccflare_record", AT_ONCE, "full|redacted|metadata|off", "redacted",
            "What is kept of each exchange: figures and sealed bodies, bodies without secrets, figures only, or "
            "nothing."),
    Option("ccflare_record_paths", AT_ONCE, str, "",
           "Other modes for some paths, such as /v1/files*=off, /v1/messages=full. The first match counts.",
           check=_are_rules, form="rules like /v1/files*=off with commas between them"),
    _choice("ccflare_search_index", RESTART, "none|plain", "none",
            "Whether searches use an index. plain: recorded text is stored in clear in the database (SQLite only)."),
    _file("ccflare_prices", AT_ONCE,
          "A YAML file with prices that are added to the built-in ones or replace them."),
    _number("ccflare_capture_limit_bytes", NEW, 16 * MIB, 0, 1024 * MIB,
            "How much of each body is recorded; longer bodies are forwarded whole and recorded truncated."),
    _number("ccflare_capture_budget_bytes", AT_ONCE, 256 * MIB, 0, 64 * 1024 * MIB,
            "How much memory the recording of all open answers may take; beyond it they are forwarded whole and "
            "recorded truncated."),
    _number("ccflare_memory_soft_limit_bytes", AT_ONCE, 1024 * MIB, 0, 1024 * 1024 * MIB,
            "The memory of the process above which no bodies are recorded, until it takes less. 0: no limit."),
    _number("ccflare_payload_days", AT_ONCE, 7, 0, 36_500,
            "How many days bodies are kept. 0: for ever."),
    _number("ccflare_request_days", AT_ONCE, 365, 0, 36_500,
            "How many days the figures of a request are kept; its bodies are kept no longer. 0: for ever."),
    _number("ccflare_database_limit_bytes", AT_ONCE, 0, 0, 2**50,
            "How large the database's file may grow; then the oldest records are deleted, bodies first. 0: no limit."),
    _number("ccflare_minimum_free_bytes", AT_ONCE, 256 * MIB, 0, 2**50,
            "How much disk space stays free: below it no bodies are recorded, below half of it nothing. 0: no "
            "minimum."),
    _number("ccflare_inspector_flows", AT_ONCE, 500, 1, 100_000,
            "How many flows mitmweb and the console keep; the oldest finished ones are dropped first."),
    _number("ccflare_inspector_bytes", AT_ONCE, 128 * MIB, 0, 64 * 1024 * MIB,
            "How much memory the bodies of finished flows may take in mitmweb and the console; beyond it the oldest "
            "are left to the database, and come back from there when they are opened."),
)
_NETWORK = _in(
    Group.NETWORK,
    _switch("ccflare_allow_remote", AT_ONCE, False,
            "Allow listening on an address that other machines can reach. Needs a client key and ccflare_client_tls."),
    _switch("ccflare_insecure_remote", AT_ONCE, False,
            "Allow that without TLS, because a reverse proxy in front of ccflare speaks TLS with the clients."),
    _switch("ccflare_open_loopback", AT_ONCE, False,
            "Serve this machine's own programs without a client key, even when there are client keys."),
    _choice("ccflare_client_tls", AT_ONCE, "off|required", "off",
            "Whether clients must use TLS to the proxy; plain HTTP is refused then. See also certs."),
    _file("ccflare_client_ca", AT_ONCE,
          "A PEM file of authorities (and CRLs): clients must show a certificate from one of them. It implies TLS."),
    _networks("ccflare_allow_ips", AT_ONCE,
              "The client addresses and networks (CIDR) that may connect. Empty: this machine, or with "
              "ccflare_allow_remote all."),
    _networks("ccflare_block_ips", AT_ONCE, "The client addresses and networks that may not connect, whatever else "
                                            "is allowed."),
    _networks("ccflare_trusted_proxies", AT_ONCE,
              "Reverse proxies whose X-Forwarded-For or Forwarded header is believed. Empty: none."),
    Option("ccflare_allowed_origins", AT_ONCE, str, "",
           "Origins (https://host:port) whose web pages may call the proxy and read its answers.", check=are_origins,
           environment="ALLOWED_ORIGINS", form="origins such as https://ccflare.example:8443, no * and no path"),
    Option("ccflare_allowed_hosts", AT_ONCE, str, "",
           "Names that clients reach the proxy by, such as host.docker.internal or proxy.example, with the port if "
           "that is another one.", check=are_hosts, form=HOSTS),
    _switch("ccflare_forward_other_hosts", NEW, False,
            "Forward plain http requests for other hosts too, instead of answering 403."),
    Option("ccflare_tunnel_targets", AT_ONCE, str, "",
           "Names and networks on this machine or in private networks that client keys may open tunnels to as well.",
           check=are_targets, form=TARGETS),
    _switch("ccflare_tuning", RESTART, True,
            "Make mitmproxy faster by switching off what a proxy for a single API does not need."),
)
_LIMITS = _in(
    Group.LIMITS,
    _file("ccflare_rules", NEW,
          "A YAML file with rules on which accounts, models and effort requests may have. Empty: there are none."),
    _number("ccflare_max_requests", AT_ONCE, 2048, 1, 1_000_000,
            "How many requests may be open at once; further ones get a 503."),
    _number("ccflare_max_waiting", AT_ONCE, 2048, 0, 1_000_000,
            "How many of them may wait for an account at once; further ones get a 503."),
    _number("ccflare_requests_per_minute_per_ip", AT_ONCE, 0, 0, 1_000_000,
            "How many requests a minute one client address may send; an IPv6 /64 counts as one address. 0: no limit."),
    _number("ccflare_body_limit_bytes", NEW, 64 * MIB, 1, 1024 * MIB,
            "The largest request body but for files and batches; a larger one gets a 413."),
    _number("ccflare_upload_limit_bytes", NEW, 500 * MIB, 1, 64 * 1024 * MIB,
            "The largest file (POST /v1/files), and up to 256 MiB the largest batch; larger ones get a 413."),
    _number("ccflare_client_connections", AT_ONCE, 0, 0, 100_000,
            "How many client connections may be open; further ones are closed at once. 0: as many as open files "
            "allow."),
    _number("ccflare_client_head_seconds", AT_ONCE, 10, 1, 600,
            "How long a client may take to send a request's head; the first one is timed from connecting."),
    _number("ccflare_client_body_idle_seconds", NEW, 30, 1, 3600,
            "How long a client may pause while it sends a request's body."),
    _number("ccflare_client_body_seconds", NEW, 600, 1, DAY,
            "How long a client may take to send a whole body."),
    _number("ccflare_client_stall_seconds", AT_ONCE, 120, 1, DAY,
            "How long a client may read nothing while an answer waits for it."),
    _number("ccflare_client_idle_seconds", AT_ONCE, 600, 1, DAY,
            "How long a client's connection is kept open without a request."),
    _number("ccflare_connect_seconds", NEW, 10, 1, 600,
            "How long connecting to the upstream may take, TLS included."),
    _number("ccflare_first_byte_seconds", NEW, 600, 1, DAY,
            "How long the upstream may take to begin its answer. Then the client gets a 504; nothing is retried."),
    _number("ccflare_stream_idle_seconds", NEW, 300, 1, DAY,
            "How long the upstream may pause within an answer."),
    _number("ccflare_exchange_seconds", NEW, 0, 0, DAY,
            "How long an exchange may take after its whole request has come, waits and retries included. 0: no "
            "limit."),
    _number("ccflare_drain_seconds", AT_ONCE, 10, 0, 600,
            "How long open answers may continue when the proxy stops."),
)
_KEYS = _in(
    Group.KEYS,
    _choice("ccflare_key_source", RESTART, "auto|pkcs11|keyring|passphrase|environment|file", "auto",
            "Where the key that wraps all others comes from. auto: the first of these that is configured, but never "
            "keyring.",
            "ccflare_KEY_SOURCE"),
    _file("ccflare_key_file", RESTART,
          "The file with the key that wraps all others. Empty: beside the database, with the suffix .key."),
    _file("ccflare_pkcs11_module", RESTART,
          "The PKCS#11 library of a token (HSM) that wraps the keys; its PIN is in ccflare_PKCS11_PIN.",
          "ccflare_PKCS11_MODULE"),
    Option("ccflare_pkcs11_token", RESTART, str, "", "The label of that token. Empty: the only one that is present.",
           environment="ccflare_PKCS11_TOKEN"),
    _switch("ccflare_debuggable", RESTART, False,
            "Allow core dumps, and debuggers and profilers of the same user: they see the accounts' credentials."),
)
_OAUTH = _in(
    Group.OAUTH,
    Option("ccflare_client_id", AT_ONCE, str, "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
           "The OAuth client id that accounts log in with.", environment="CLIENT_ID",
           check=_is_client_id, form="1 to 200 ASCII characters without spaces"),
    Option("ccflare_scopes", AT_ONCE, str, " ".join(_TODAY.scopes), "The scopes that a login asks for.",
           check=_are_scopes,
           form="names of scopes with a space between them"),
    _number("ccflare_refresh_before_seconds", AT_ONCE, 1800, 0, DAY,
            "How long before it expires an OAuth token is refreshed, also that of an idle account."),
    _url("ccflare_token_url", AT_ONCE, _TODAY.token_url, "The URL that issues and refreshes OAuth tokens."),
    _url("ccflare_authorize_url", AT_ONCE, _TODAY.authorize_url_max,
         "The page on which a subscription's login is approved."),
    _url("ccflare_console_authorize_url", AT_ONCE, _TODAY.authorize_url_console,
         "The page on which a Console login is approved."),
    _url("ccflare_create_key_url", AT_ONCE, _TODAY.create_key_url, "The URL at which a Console login creates its API "
                                                                   "key."),
    _url("ccflare_redirect_url", AT_ONCE, _TODAY.redirect_uri, "The page that shows the code of a login."),
)
_LOGGING = _in(
    Group.LOGGING,
    _choice("ccflare_log_level", AT_ONCE, "debug|info|warning|error", "info",
            "The lowest level of messages that are logged. ccflare_DEBUG=1 means debug.", "LOG_LEVEL",
            warn="warning"),
    _choice("ccflare_log_format", AT_ONCE, "text|json", "text",
            "The format of log messages: text for people, or one JSON object a line.", "LOG_FORMAT", pretty="text"),
    _file("ccflare_log_file", RESTART,
          "A file that the log is written to as well, readable by its owner alone. Empty: none."),
    _number("ccflare_log_file_bytes", RESTART, 16 * MIB, 64 * 1024, 1024 * MIB,
            "How large the log file may get before it is compressed under another name (.1.gz) and begun anew."),
    _number("ccflare_log_file_days", RESTART, 7, 1, 365,
            "How old its first line may get before that is done."),
    _number("ccflare_log_file_count", RESTART, 10, 1, 1000,
            "How many compressed ones are kept; the oldest is deleted."),
    _file("ccflare_audit_file", RESTART,
          "The second copy of the audit log, as JSON lines. Empty: beside the database, with the suffix .audit.jsonl, "
          "or for a server a file for each URL in the data folder; off: none."),
    _number("ccflare_audit_stop_after_seconds", AT_ONCE, 60, 0, DAY,
            "How long nothing can be audited before new requests get a 503. 0: they never do."),
    _switch("ccflare_anomaly_notices", AT_ONCE, True,
            "Whether the log and the audit log tell of what is unusual for a client key or an account. Nothing is "
            "blocked for it."),
    Option("ccflare_alert_webhook", RESTART, str, "",
           "The URL that alerts are sent to as JSON, signed with the secret in ccflare_ALERT_SECRET. Empty: none.",
           check=_is_webhook, form="https://… (or http://… on this machine) without user"),
    Option("ccflare_alert_command", RESTART, str, "",
           "A program and its arguments that is started for each alert, without a shell, with JSON on its standard "
           "input. Empty: none.", check=_is_command, form="a program and its arguments, quoted as in a shell"),
    Option("ccflare_otel_endpoint", RESTART, str, "",
           "The URL of a receiver of OpenTelemetry (OTLP over HTTP), without /v1/traces; its headers are in "
           "ccflare_OTEL_HEADERS. Empty: none.",
           check=_is_receiver, form="https://… (or http://… on this machine) without user and question mark"),
    _choice("ccflare_otel_signals", RESTART, "all|traces|metrics", "all", "What that receiver gets."),
    _switch("ccflare_otel_content", AT_ONCE, False,
            "Whether the spans of exchanges that are recorded in full say what was said in them."),
)
OPTIONS: tuple[Option, ...] = (
    *_UPSTREAM, *_ACCOUNTS, *_RECORDING, *_NETWORK, *_LIMITS, *_KEYS, *_OAUTH, *_LOGGING,
)

# mitmproxy's own options that have a variable here; the defaults are those of mitm-config.yaml.
LISTEN = _in(
    Group.NETWORK,
    Option("listen_host", AT_ONCE, str, "127.0.0.1", "The address that the proxy listens on.",
           environment="HOST", check=_is_address, form="a host name or an address without a port"),
    _number("listen_port", AT_ONCE, 8080, 0, 65_535, "The port that the proxy listens on. 0: any free one.", "PORT"),
)
# fmt: on

CONFIG_PATH = "ccflare_CONFIG_PATH"
ENCRYPTION_KEY = "ccflare_ENCRYPTION_KEY"
PASSPHRASE = "ccflare_PASSPHRASE"  # noqa: S105
PKCS11_PIN = "ccflare_PKCS11_PIN"
ALERT_SECRET = "ccflare_ALERT_SECRET"  # noqa: S105
OTEL_HEADERS = "ccflare_OTEL_HEADERS"
MCP_KEY = "ccflare_MCP_KEY"
DEBUG = Option(
    "ccflare_DEBUG", RESTART, bool, False, "1: log everything, whatever LOG_LEVEL says.", environment="ccflare_DEBUG"
)

# Variables without an option. Secrets must never become one: mitmweb shows every option to its viewers.
VARIABLES: tuple[tuple[str, str], ...] = (
    (CONFIG_PATH, "The configuration file to read instead of mitm-config.yaml."),
    (ENCRYPTION_KEY, "The key that wraps all others, 32 bytes in base64 or hex, instead of the key file."),
    (PASSPHRASE, "A passphrase instead of that key."),
    (PKCS11_PIN, "The PIN of the token that ccflare_pkcs11_module uses."),
    (ALERT_SECRET, "The secret that alerts to ccflare_alert_webhook are signed with."),
    (OTEL_HEADERS, "The headers for the receiver that ccflare_otel_endpoint names: name=value, with commas between."),
    (MCP_KEY, "The client key that `ccflare mcp` asks with; it takes the permission logs.view."),
    (DEBUG.name, DEBUG.help),
)


def option_table(group: Group | None = None) -> list[tuple[str, str, str, str, str]]:
    """The README's tables: option, default, variable, when a change applies, help. All groups one after the other."""
    groups = Group if group is None else (group,)
    listed = [option for wanted in groups for option in (*LISTEN, *OPTIONS) if option.group is wanted]
    return [(o.name, _written(o), o.environment or "", o.applies.value, o.help) for o in listed]


def waits_for_restart(
    running: Mapping[str, object], before: Mapping[str, object], now: Mapping[str, object]
) -> list[str]:
    """The options that have just been changed, from `before` to `now`, without effect on what is `running`."""
    names = [option.name for option in OPTIONS if option.applies is RESTART]
    return [name for name in names if now[name] not in (before[name], running[name])]


def _written(option: Option) -> str:
    """The default for people: sizes in MiB, though the option itself takes bytes."""
    value = option.default
    if option.name.endswith("_bytes") and isinstance(value, int) and value and value % MIB == 0:
        return f"{value // MIB} MiB"
    return str(value).lower() if isinstance(value, bool) else str(value)
