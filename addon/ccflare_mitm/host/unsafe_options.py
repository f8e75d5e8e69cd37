"""Refuses to start with mitmproxy's unsafe options and variables."""

import ssl
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mitmproxy.net.tls import INSECURE_TLS_MIN_VERSIONS, Version
from mitmproxy.proxy import mode_specs

from ccflare_core.config.unsafe_options import KNOWN, VARIABLES, unsafe
from ccflare_core.errors import ConfigError
from ccflare_mitm.host import dumps

TRUST = ("ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir", "ccflare_client_ca")
"""A user who can write these decides whom we trust."""

WEAK_BITS = 128


def check(options: Any, environ: Mapping[str, str]) -> None:
    """Raise ConfigError with all that keeps the proxy from starting, a sentence each; `options` are mitmproxy's."""
    problems = [f"{name}: {why}." for name, why in unsafe(lambda name: getattr(options, name, None))]
    problems += [
        f"{name}: it makes the keys of every connection readable in a file; unset this variable."
        for name in VARIABLES
        if environ.get(name)
    ]
    if not options.validate_inbound_headers:
        problems.append("validate_inbound_headers: without it requests can be smuggled past the gate; leave it on.")
    problems += [f"{name}: nobody has tried this option of mitmproxy here; leave it out." for name in _untried(options)]
    problems += [*_modes(options), *_egress(options), *_weak_tls(options), *_trust(options), *_private_keys(options)]
    problems += dumps.problems(options)
    if problems:
        raise ConfigError(*problems)


def of_other_addons(options: Any) -> list[str]:
    """The options that other addons have declared, as far as they are set: what they do is unknown here."""
    return _changed(options, _declared(options)[1])


def _untried(options: Any) -> list[str]:
    return _changed(options, _declared(options)[0])


def _declared(options: Any) -> tuple[list[str], list[str]]:
    """Options that are not known here: mitmproxy's own, and those of other addons, which load after all of its own."""
    names = [name for name in options._options if not name.startswith("ccflare_")]
    last = max(number for number, name in enumerate(names) if name in KNOWN)
    unknown = [(number, name) for number, name in enumerate(names) if name not in KNOWN]
    return [name for number, name in unknown if number < last], [name for number, name in unknown if number > last]


def _changed(options: Any, names: Iterable[str]) -> list[str]:
    return [name for name in names if options._options[name].has_changed()]


def _egress(options: Any) -> Iterator[str]:
    """A proxy on the way that would see requests in clear, or be left out by mitmproxy."""
    if options.ccflare_egress_proxy and options.ccflare_upstream.startswith("http:"):
        yield (
            "ccflare_egress_proxy: it would show the accounts' credentials to that proxy; use an https:// "
            "ccflare_upstream."
        )
    if options.ccflare_egress_proxy and options.connection_strategy != "lazy":
        yield (
            "connection_strategy: with ccflare_egress_proxy it has to be lazy, since eager connections go past that "
            "proxy; set it to lazy."
        )


def _modes(options: Any) -> Iterator[str]:
    """Modes other than regular, reverse and upstream, and an upstream proxy that would see requests in clear."""
    for spec in options.mode:
        mode = mode_specs.ProxyMode.parse(spec)
        if isinstance(mode, mode_specs.UpstreamMode) and options.ccflare_upstream.startswith("http:"):
            yield f"mode: {spec} would show the accounts' credentials to that proxy; use an https:// ccflare_upstream."
        is_web = isinstance(mode, mode_specs.ReverseMode) and mode.scheme in ("http", "https")
        if not is_web and not isinstance(mode, mode_specs.RegularMode | mode_specs.UpstreamMode):
            yield f"mode: {spec} would lead connections past the gate; use regular, reverse:https://… or upstream:…."


def _weak_tls(options: Any) -> Iterator[str]:
    for side in ("client", "server"):
        name = f"tls_version_{side}_min"
        if Version[getattr(options, name)] in INSECURE_TLS_MIN_VERSIONS:
            yield f"{name}: TLS 1.2 is the least that is safe; leave it out."
        ciphers = f"ciphers_{side}"
        if (chosen := getattr(options, ciphers)) and (problem := _weakness(chosen)):
            yield f"{ciphers}: {problem}; leave it out, or name ciphers such as ECDHE+AESGCM."


def _weakness(ciphers: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        return "OpenSSL knows none of these"
    if "@SECLEVEL=0" in ciphers.upper():
        return "@SECLEVEL=0 allows what is broken"
    weak = [c["name"] for c in context.get_ciphers() if c["strength_bits"] < WEAK_BITS or c["auth"] == "auth-null"]
    return f"{weak[0]} is too weak" if weak else None


def _trust(options: Any) -> Iterator[str]:
    for name in TRUST:
        path = Path(getattr(options, name) or "").expanduser()
        if getattr(options, name) and path.exists() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"{name}: others can change {path}, and so whom you trust; run chmod go-w on it."


def _private_keys(options: Any) -> Iterator[str]:
    """The keys of certificates that we show: to clients (`certs`, mitmproxy's own authority) and upstream."""
    shown = [("certs", spec.partition("=")[2] or spec) for spec in options.certs]
    shown += [("client_certs", options.client_certs or "")]
    shown += [("confdir", f"{options.confdir}/mitmproxy-ca.{kind}") for kind in ("pem", "p12")]
    for name, named in shown:
        path = Path(named).expanduser()
        if named and path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield f"{name}: others can read the private key in {path}; run chmod 600 on it."
