"""Whether what is installed and configured is safe, and what to do about it. Pure.

The facts are gathered in host_checks.py and proxy_checks.py.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ccflare_cli.doctor.results import Result, Results, fail, ok, warn
from ccflare_core import MITMPROXY
from ccflare_core.config.unsafe_options import VARIABLES, unsafe
from ccflare_core.http.origins import is_this_machine
from ccflare_core.program import typed
from ccflare_core.text import span


class Minimum(NamedTuple):
    """The oldest version of a package that has no hole that is known, and what the older ones have."""

    package: str
    version: tuple[int, ...]
    why: str
    before: tuple[int, ...] | None = None
    """The version from which on it has not been tried."""


MINIMA = (
    Minimum("mitmproxy", MITMPROXY.oldest, "ccflare's stream layer is made for newer ones", MITMPROXY.before),
    Minimum("cryptography", (44, 0, 1), "CVE-2024-12797"),
    Minimum("h11", (0, 16), "CVE-2025-43859, requests can be smuggled"),
    Minimum("h2", (4, 3), "CVE-2025-57804, requests can be smuggled"),
    Minimum("tornado", (6, 5), "CVE-2025-47287, a request can stop mitmweb"),
    Minimum("certifi", (2026, 10, 19), "it trusts emSign's authorities, and a key that they vouch for is public"),
)
OLDEST_PYTHON, OLDEST_OPENSSL = (3, 12), (3, 0)


def versions(python: tuple[int, ...], openssl: tuple[int, ...], installed: Mapping[str, str]) -> Results:
    """Whether everything is new enough; `installed` has the packages' versions."""
    for name, found, oldest in (("Python", python, OLDEST_PYTHON), ("OpenSSL", openssl, OLDEST_OPENSSL)):
        check, text = f"host.{name.lower()}", f"{name} {_dotted(found)}"
        if found >= oldest:
            yield ok(check, text)
        else:
            yield fail(check, f"{text} gets no fixes any more", f"install {_dotted(oldest)} or newer")
    for package, least, why, before in MINIMA:
        version = installed.get(package, "")
        if before is not None and _numbers(version) >= before:
            told = f"{package} {version} is newer than what ccflare has been tried with"
            yield fail(f"host.{package}", told, f"run `pip install '{package}>={_dotted(least)},<{_dotted(before)}'`")
        elif _numbers(version) >= least:
            yield ok(f"host.{package}", f"{package} {version}")
        else:
            told = f"{package} {version}: {why}" if version else f"{package} is missing"
            yield fail(f"host.{package}", told, f"run `pip install --upgrade '{package}>={_dotted(least)}'`")


def environment(environ: Mapping[str, str], ports: Iterable[int], secrets: Iterable[str]) -> Results:
    """What the variables of this shell would do to the proxy. `secrets` are the names of those that hold one."""
    logging = [name for name in VARIABLES if environ.get(name)]
    if logging:
        yield fail("host.keylog", f"{' and '.join(logging)} writes every connection's keys into a file", "unset it")
    else:
        yield ok("host.keylog", "no variable makes TLS write its keys down")
    own = tuple(f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]") for port in ports)
    proxies = [name for name in environ if name.lower() in ("https_proxy", "all_proxy") and environ[name]]
    if leading := sorted(name for name in proxies if environ[name].rstrip("/").endswith(own)):
        yield warn("host.proxy", f"{leading[0]} leads all of this shell's programs through ccflare", "unset it here")
    else:
        yield ok("host.proxy", "no proxy variable leads back to ccflare")
    plain = [name for name in secrets if environ.get(name) and not environ[name].startswith(("file:", "cmd:"))]
    if plain:
        yield warn(
            "host.secrets",
            f"{' and '.join(plain)} holds a secret that every program started here is given",
            "name a file (file:PATH, mode 0600) or a secret manager (cmd:PROGRAM) instead",
        )
    else:
        yield ok("host.secrets", "no variable holds one of ccflare's secrets in clear")


def clock(skew: float | None) -> Result:
    """How far this clock is ahead of the upstream's, in seconds; None if the upstream was not asked."""
    if skew is None:
        return ok("host.clock", "no time here lies in the future; --online compares with the upstream's")
    if abs(skew) <= 5:
        return ok("host.clock", f"{abs(skew):.0f} s off the upstream's")
    level = fail if abs(skew) > 120 else warn
    told = f"{span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the upstream's"
    return level("host.clock", told, "let the system keep time by NTP: limits and tokens end by the clock")


# Options


def option_hazards(source: str, options: Mapping[str, object]) -> list[Result]:
    """What in these options opens a hole; `source` is where they stand."""
    found = [
        fail("options.hazards", f"{source} sets {name}: {why.partition(';')[0]}", why.partition("; ")[2])
        for name, why in unsafe(options.get)
    ]
    if options.get("validate_inbound_headers") is False:
        told = f"{source} turns validate_inbound_headers off: requests can be smuggled past the gate"
        found.append(fail("options.hazards", told, "leave it on"))
    return found


def option_places(whose: str, places: Mapping[str, str]) -> Results:
    """Where the options that are set come from, by place; `whose` begins each line."""
    names: dict[str, list[str]] = {}
    for name, place in places.items():
        names.setdefault(place, []).append(name)
    if not names:
        yield ok("options.sources", f"{whose}all options have their defaults")
    for place, found in sorted(names.items()):
        yield ok("options.sources", f"{whose}from {place}: {', '.join(sorted(found))}")


RISKS: tuple[tuple[str, object, str, str], ...] = (
    ("ccflare_record", "full", "bodies are kept with the secrets in them", "set it to redacted"),
    ("ccflare_payload_days", 0, "bodies are kept for ever", "set a number of days"),
    ("ccflare_request_days", 0, "the record is kept for ever", "set a number of days"),
    ("ccflare_search_index", "plain", "recorded text is stored in clear in the database", "set it to none"),
    ("ccflare_forward_other_hosts", True, "clients reach other services through the proxy", "leave it off"),
    ("ccflare_open_loopback", True, "programs of this machine need no client key", "leave it off on a shared machine"),
    ("ccflare_insecure_remote", True, "client keys come over the network in clear", "have TLS up to this machine"),
    ("ccflare_audit_stop_after_seconds", 0, "requests go on when nothing can be audited", "leave it at its default"),
    ("ccflare_pins_mode", "report-only", "an upstream with other keys is used all the same", "set it to enforce"),
)
"""Option, value, what comes of it, and what to do instead: allowed, but to be chosen knowingly."""


def option_risks(options: Mapping[str, object]) -> Results:
    """What in these options is weaker than it has to be."""
    found = [
        warn("options.risks", f"{name}: {why}", how) for name, value, why, how in RISKS if options.get(name) == value
    ]
    if options.get("ccflare_allow_remote") and not options.get("ccflare_requests_per_minute_per_ip"):
        told = "other machines may send any number of requests"
        found.append(warn("options.risks", told, "set ccflare_requests_per_minute_per_ip"))
    yield from found or [ok("options.risks", "no option is weaker than its default")]


def mitmweb(options: Mapping[str, object]) -> Results:
    """Whether mitmweb is for this machine alone, and asks for a password. Anyone who logs in can run code."""
    host = str(options.get("web_host") or "127.0.0.1")
    if is_this_machine(host):
        yield ok("options.web_host", f"mitmweb listens on {host}")
    else:
        yield fail(
            "options.web_host", f"mitmweb would listen on {host}; anyone who logs in can run code", "leave web_host out"
        )
    yield _web_password(str(options.get("web_password") or ""))


def _web_password(password: str) -> Result:
    check = "options.web_password"
    if not password:
        return ok(check, "mitmweb makes a new password at each start")
    if password.startswith("$argon2"):
        return ok(check, "mitmweb's password is kept as a hash")
    if len(password) < 16:
        return fail(check, "mitmweb's password is short enough to be guessed", "leave web_password out")
    return warn(check, "mitmweb's password is in the configuration in clear", "store its argon2 hash, or leave it out")


class Ingress(NamedTuple):
    """How clients get in, as the options have it."""

    host: str
    remote: bool
    """Whether ccflare_allow_remote is set."""
    tls: bool
    keys: int | None
    """How many client keys are valid; None if that cannot be seen."""


def ingress(ingress: Ingress) -> Results:
    """Who can reach the proxy, and what stands in the way."""
    where = ingress.host or "every interface"
    if is_this_machine(ingress.host):
        yield ok("access.address", f"the proxy listens on {ingress.host}, for this machine alone")
    elif not ingress.remote:
        yield fail("access.address", f"{where} is refused at the start", "set listen_host: 127.0.0.1")
    elif ingress.tls and ingress.keys:
        yield ok("access.address", f"other machines reach {ingress.host}, with TLS and a client key")
    else:
        needed = (("TLS", ingress.tls), ("client keys", ingress.keys))
        lacks = " and ".join(word for word, is_there in needed if not is_there)
        yield fail(
            "access.address",
            f"other machines can reach {where} without {lacks}",
            f"set ccflare_client_tls: required and make a key with `{typed('keys client add')}`, or listen on "
            "127.0.0.1",
        )
    if ingress.keys:
        yield ok("access.keys", f"every request needs one of {ingress.keys} client keys")
    elif ingress.keys is not None:
        yield warn(
            "access.keys",
            "there is no client key, so every program of every user of this machine can use the accounts",
            f"make one: `{typed('keys client add NAME')}`",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers in front: `4.3.0rc1` is (4, 3, 0)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
