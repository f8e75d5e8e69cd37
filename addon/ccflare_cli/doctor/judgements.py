"""What is well and what is not, and what to do about it: the judgements behind `scripts/doctor.py`. Pure.

The facts are gathered elsewhere (cli/doctor.py and its neighbours). `fail` is a hole that somebody can use now, or
something that does not work; `warn` is a risk that its owner may accept.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from ccflare_core import MITMPROXY
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.validity import login_warning, token_state
from ccflare_core.config.unsafe_options import VARIABLES, unsafe
from ccflare_core.http.origins import is_this_machine
from ccflare_core.text import span

DAY = 86_400
MIB = 1024**2
GIB = 1024**3

AREAS = ("host", "options", "files", "keys", "database", "accounts", "access", "activity", "proxy", "upstream", "code")


class Level(StrEnum):
    """How it stands, the best first."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Result(NamedTuple):
    """One check: `area.what`, how it stands, what was found, and what mends it."""

    check: str
    level: Level
    found: str
    remedy: str = ""

    @property
    def area(self) -> str:
        """One of AREAS."""
        return self.check.partition(".")[0]


Results = Iterator[Result]


def ok(check: str, found: str) -> Result:
    """All is well."""
    return Result(check, Level.OK, found)


def warn(check: str, found: str, remedy: str) -> Result:
    """A risk that may be accepted."""
    return Result(check, Level.WARN, found, remedy)


def fail(check: str, found: str, remedy: str) -> Result:
    """A hole, or something that does not work."""
    return Result(check, Level.FAIL, found, remedy)


def worst(results: Iterable[Result]) -> Level:
    """The worst level; OK if there is no result."""
    return max((result.level for result in results), key=list(Level).index, default=Level.OK)


# The host


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
    """How far this clock is ahead of the upstream's, in seconds; None if nobody was asked."""
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


RISKS: tuple[tuple[str, object, str, str], ...] = (
    ("ccflare_record", "full", "bodies are kept with the secrets in them", "set it to redacted"),
    ("ccflare_payload_days", 0, "bodies are kept for ever", "set a number of days"),
    ("ccflare_request_days", 0, "the record is kept for ever", "set a number of days"),
    ("ccflare_search_index", "plain", "what was said lies in clear in the database's file", "set it to none"),
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
    """Whether mitmweb is for this machine alone, and asks for a password. Who is in can run code."""
    host = str(options.get("web_host") or "127.0.0.1")
    if is_this_machine(host):
        yield ok("options.web_host", f"mitmweb listens on {host}")
    else:
        yield fail("options.web_host", f"mitmweb would listen on {host}; who is in can run code", "leave web_host out")
    yield _web_password(str(options.get("web_password") or ""))


def _web_password(password: str) -> Result:
    check = "options.web_password"
    if not password:
        return ok(check, "mitmweb makes a new password at each start")
    if password.startswith("$argon2"):
        return ok(check, "mitmweb's password is kept as a hash")
    if len(password) < 16:
        return fail(check, "mitmweb's password is short enough to be guessed", "leave web_password out")
    return warn(check, "mitmweb's password stands in the configuration", "store its argon2 hash, or leave it out")


class Door(NamedTuple):
    """How clients get in, as the options have it."""

    host: str
    remote: bool
    """Whether ccflare_allow_remote is set."""
    tls: bool
    keys: int | None
    """How many client keys are valid; None if that cannot be seen."""


def door(door: Door) -> Results:
    """Who can reach the proxy, and what stands in the way."""
    if is_this_machine(door.host):
        yield ok("access.address", f"the proxy listens on {door.host}, for this machine alone")
    elif not door.remote:
        yield fail(
            "access.address", f"{door.host or 'every interface'} is refused at the start", "set listen_host: 127.0.0.1"
        )
    elif door.tls and door.keys:
        yield ok("access.address", f"other machines reach {door.host}, with TLS and a client key")
    else:
        lacks = " and ".join(word for word, is_there in (("TLS", door.tls), ("client keys", door.keys)) if not is_there)
        yield fail(
            "access.address",
            f"other machines can reach {door.host or 'every interface'} without {lacks}",
            "set ccflare_client_tls: required and make a key with `scripts/keys.py client add`, or listen on 127.0.0.1",
        )
    if door.keys:
        yield ok("access.keys", f"every request needs one of {door.keys} client keys")
    elif door.keys is not None:
        yield warn(
            "access.keys",
            "there is no client key, so every program of every user of this machine can use the accounts",
            "make one: `scripts/keys.py client add NAME`",
        )


# What is stored


def room(free: int, size: int, days: float, minimum: int) -> Results:
    """Whether the disk has room; `size` is the database's, grown in so many days; below `minimum` less is kept."""
    told = f"{_size(free)} are free"
    if free < max(minimum, 100 * MIB):
        yield fail("database.disk", f"{told}, so less is recorded", "free some space")
    elif free < GIB:
        yield warn("database.disk", told, "free some space, or set ccflare_database_limit_bytes")
    else:
        yield ok("database.disk", told)
    daily = size / max(days, 1.0)
    growth = f"{_size(size)}, {_size(round(daily))} more each day" if days >= 1 else _size(size)
    if days >= 1 and daily * 30 > free:
        told = f"{growth}: the disk is full in {free / daily:.0f} days"
        yield warn("database.growth", told, "let less be kept: ccflare_payload_days, ccflare_database_limit_bytes")
    else:
        yield ok("database.growth", growth)


class Backup(NamedTuple):
    """The newest backup: where it was written, how old it is in seconds, and what is wrong with the file now."""

    path: str
    age: float
    problem: str = ""
    is_there: bool = True


def backup(newest: Backup | None, *, is_used: bool) -> Result:
    """Whether there is a backup that is whole and young; None if none was ever made."""
    check, remedy = "database.backup", "run `scripts/maintain.py backup FILE` regularly, and try once to restore it"
    if newest is None:
        return warn(check, "no backup was ever made", remedy) if is_used else ok(check, "empty")
    told = f"the newest backup is {span(newest.age)} old"
    if not newest.is_there:
        return warn(check, f"{told}, and no longer where it was written, {newest.path}", "see that it lies elsewhere")
    if newest.problem:
        return fail(check, f"{told}, and useless: {newest.problem}", "make another one: `scripts/maintain.py backup`")
    return warn(check, told, remedy) if newest.age > 7 * DAY else ok(check, told)


def key_age(age: float, *, is_old: bool) -> Result:
    """How long the data key that seals has been in use, in seconds; `is_old`: older keys are there too."""
    remedy = "run `scripts/keys.py rotate`, then `retire` what nothing needs any more"
    if age > 365 * DAY:
        return warn("keys.age", f"the data key is {span(age)} old", remedy)
    if is_old:
        return warn("keys.age", "older data keys are kept: what they sealed can be read with them", remedy)
    return ok("keys.age", f"the data key is {span(age)} old")


# Accounts


def accounts(found: Iterable[Account], now: float) -> Results:
    """Whether every account can be used, for how long, and whether two are one."""
    all_ = list(found)
    if not all_:
        yield warn("accounts.count", "there is no account", "add one: `scripts/accounts.py login NAME`")
        return
    yield ok("accounts.count", f"{len(all_)} account{'s' * (len(all_) > 1)}")
    for account in all_:
        yield _token(account, now)
        if warning := login_warning(account, now):
            yield warn(
                "accounts.login", f"{account.name}: {warning}", f"run `scripts/accounts.py login {account.name}`"
            )
    yield from _duplicates(all_)


def _token(account: Account, now: float) -> Result:
    state = f"{account.name}: {token_state(account, now)}"
    problem = account.token_problem(now)
    if problem is None or (problem == "token expired" and account.is_renewable):
        return ok("accounts.token", state)
    renew = "login" if account.kind is Kind.OAUTH else "add"
    return fail("accounts.token", state, f"run `scripts/accounts.py {renew} {account.name}`")


def _duplicates(all_: Iterable[Account]) -> Results:
    names: dict[str, list[str]] = defaultdict(list)
    for account in all_:
        for secret in {account.access_token, account.refresh_token, account.api_key} - {None, ""}:
            names[str(secret)].append(account.name)
    twice = sorted({" and ".join(each) for each in names.values() if len(each) > 1})
    if twice:
        remedy = "remove all but one: two that refresh the same login lose it"
        yield from (fail("accounts.duplicate", f"{each} have the same secret", remedy) for each in twice)
    else:
        yield ok("accounts.duplicate", "no two accounts share a secret")


# What goes on


class Activity(NamedTuple):
    """The last 24 hours, from the record and the audit log."""

    requests: int
    failures: int
    addresses: tuple[str, ...]
    """Where requests came from."""
    events: Counter[tuple[str, str]]
    """How often each action had each outcome."""

    def how_often(self, action: str, outcome: str) -> int:
        """How often an action, or one below it, went like this."""
        return sum(
            n for (name, how), n in self.events.items() if how == outcome and f"{name}.".startswith(f"{action}.")
        )


def activity(day: Activity, *, is_remote: bool) -> Results:
    """What an owner should look at. Nothing here fails: only a person can say whether it was meant."""
    looks: tuple[tuple[str, int, int, str, str], ...] = (
        ("denied", day.how_often("auth", "denied"), 10, "bursts of refused requests", "--action auth"),
        (
            "refreshes",
            day.how_often("token", "failed"),
            3,
            "token refreshes that failed",
            "--action token --outcome failed",
        ),
        ("changes", day.how_often("config", "ok"), 20, "changes of options", "--action config"),
    )
    for name, number, limit, what, how in looks:
        told = f"{number} {what} in 24 hours"
        see = f"look: `scripts/audit.py show {how} --since 24h`"
        yield warn(f"activity.{name}", told, see) if number >= limit else ok(f"activity.{name}", told)
    share = day.failures / day.requests if day.requests else 0.0
    told = f"{day.failures} of {day.requests} requests failed in 24 hours"
    is_much = day.requests >= 20 and share > 0.2
    yield warn("activity.failures", told, "see `scripts/stats.py errors`") if is_much else ok("activity.failures", told)
    strange = [address for address in day.addresses if address and not is_this_machine(address)]
    if strange and not is_remote:
        told = f"requests came from {', '.join(strange[:3])}, though only this machine may send any"
        yield warn(
            "activity.addresses", told, "see `scripts/audit.py who-used ACCOUNT`, then `scripts/access.py block`"
        )
    else:
        yield ok("activity.addresses", f"requests came from {len(day.addresses)} addresses")


def checked(name: str, found: Iterable[str], well: str, remedy: str, level: Callable[..., Result] = fail) -> Results:
    """One result for each problem that was found, or one that says that there is none."""
    problems = list(found)
    yield from (level(name, problem, remedy) for problem in problems)
    if not problems:
        yield ok(name, well)


def _size(number: int) -> str:
    for unit, name in ((GIB, "GB"), (MIB, "MB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number / 1024:.0f} kB"


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
