"""Our options inside mitmproxy: declared, filled from the environment and the file, checked all at once."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitmproxy import ctx, exceptions, optmanager
from mitmproxy.addonmanager import Loader
from mitmproxy.utils import typecheck

from ccflare_core.audit.entries import Secret
from ccflare_core.config import settings
from ccflare_core.config.option import Option, shown
from ccflare_core.config.options import OPTIONS
from ccflare_core.errors import ConfigError
from ccflare_mitm.host.tls import CLIENT_CIPHERS

_BOOLEANS = {"": True, "true": True, "false": False}
_HARMLESS = (
    *("mode", "server", "listen_host", "listen_port", "web_host", "web_port", "confdir", "scripts", "http2", "rawtcp"),
    *("ssl_insecure", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir", "certs", "client_certs"),
    *("tls_version_client_min", "tls_version_server_min", "request_client_cert", "block_global"),
    *("save_stream_file", "hardump", "ignore_hosts", "allow_hosts"),
)
_LOOKS = ("view_", "console_", "web_columns")
"""What options begin with that change nothing but what a person sees."""
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


COMMAND_LINE = "command line"


def declare(loader: Loader, environ: Mapping[str, str], folder: Path = settings.SHIPPED) -> dict[str, str]:
    """Declare the options of ccflare with the defaults that hold here; `folder` has the shipped mitm-config.yaml.

    What the command line or mitmproxy's own config.yaml says stands. Returns where each option that is set comes from.
    Raises ConfigError with all mistakes in the command line, the environment and the file.
    """
    problems: list[str] = []
    defaults: dict[str, object] = {"listen_host": "127.0.0.1", "ciphers_client": CLIENT_CIPHERS}
    for find in (_check_said, lambda: defaults.update(settings.defaults(environ, folder))):
        try:
            find()
        except ConfigError as error:
            problems += error.problems
    if problems := [*problems, *_unfit(defaults)]:
        raise ConfigError(*problems)
    said = _said()
    for option in OPTIONS:
        told = f"{option.help} A change applies {option.applies}."
        loader.add_option(option.name, option.kind, option.default, told, option.choices or None)
    try:
        ctx.options.update_defer(**{name: value for name, value in defaults.items() if name not in said})
    except exceptions.OptionsError as error:  # one of mitmproxy's addons cannot do what the file says
        raise ConfigError(f"{settings.FILE_NAME}: {error}") from error
    return settings.places(environ, folder) | _places_of(said)


def told_places(places: Mapping[str, str], *names: str) -> str:
    """What these options are and where that comes from, in words."""
    return ", ".join(f"{name} is {getattr(ctx.options, name)} ({places.get(name, 'default')})" for name in names)


def current() -> dict[str, Any]:
    """Our options as they stand, by name."""
    return {option.name: getattr(ctx.options, option.name) for option in OPTIONS}


def in_use() -> dict[str, str | int | bool | Secret]:
    """Every option of ours or mitmproxy's that has another value than its own default, for the audit log.

    What is not known to be harmless is a Secret: passwords are options of mitmproxy.
    """
    found: dict[str, str | int | bool | Secret] = {}
    for name, option in sorted(ctx.options._options.items()):
        value = option.current()
        if value == option.default or value is None or name.startswith(_LOOKS):
            continue
        is_plain = name.startswith("ccflare_") or name in _HARMLESS
        text = value if isinstance(value, str | int | bool) else ", ".join(map(str, value))
        found[name] = text if is_plain else Secret(str(text))
    return found


def _said() -> set[str]:
    """The names of all options that somebody has set before this addon was loaded."""
    ours = {name for name in ctx.options.deferred if name.startswith("ccflare")}
    return ours | {name for name, option in ctx.options._options.items() if option.value is not optmanager.unset}


def _places_of(said: set[str]) -> dict[str, str]:
    """Where these come from: mitmproxy's own file, or else its command line."""
    places = dict.fromkeys(said, COMMAND_LINE)
    for name in ("config.yaml", "config.yml"):
        path = Path(ctx.options.confdir).expanduser() / name
        if path.is_file():
            with contextlib.suppress(ConfigError):  # mitmproxy has understood it
                places |= {option: name for option in settings.file_defaults(path) if option in said}
    return places


def _unfit(values: Mapping[str, object]) -> list[str]:
    """What is wrong with those of `values` that are mitmproxy's own options, which it would meet with a traceback."""
    problems = []
    for name, option in ctx.options._options.items():
        try:
            if name in values:
                typecheck.check_option_type(name, values[name], option.typespec)
        except TypeError:
            allowed = typecheck.typespec_to_str(option.typespec).removeprefix("optional ")
            problems.append(f"{name}: {shown(values[name])} cannot be used; allowed is {allowed}")
    return problems


def _check_said() -> None:
    """Raise ConfigError unless all values that are waiting for our options fit them.

    mitmproxy would stop at the first one, with a traceback, and go on without the addon.
    """
    waiting = {name: value for name, value in ctx.options.deferred.items() if name.startswith("ccflare")}
    problems = list(settings.unknown(waiting))
    problems += [f"{name}: this is said {len(said)} times; say it once" for name, said in _repeated(waiting)]
    values = ((option, _value(option, waiting[option.name])) for option in OPTIONS if option.name in waiting)
    problems += [f"{option.name}: {problem}" for option, value in values if (problem := option.problem(value))]
    if problems:
        raise ConfigError(*problems)


def _repeated(waiting: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The options with several `--set`, and what these say."""
    said = [(name, getattr(value, "val", None)) for name, value in waiting.items()]
    return [(name, texts) for name, texts in said if isinstance(texts, list) and len(texts) > 1]


def _value(option: Option, waiting: Any) -> object:
    """What mitmproxy will make of a deferred value: of `--set name=text`, or of a value from its config.yaml."""
    texts = getattr(waiting, "val", None)
    if not isinstance(texts, list):
        return waiting
    text = texts[-1] if texts else ""
    if option.kind is bool:
        return _BOOLEANS.get(text, text)
    if option.kind is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    return text
