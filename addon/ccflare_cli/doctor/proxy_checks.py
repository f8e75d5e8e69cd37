"""What `doctor.py` checks over the network: the proxy here as an unauthenticated client sees it, and the upstream."""

import asyncio
import http.client
import json
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.doctor import installation, versions
from ccflare_cli.doctor.results import Result, Results, fail, ok, warn
from ccflare_core.clients.checks import SLOW_DOWN
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError
from ccflare_core.http.client import Fetcher
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.messages import Request, Response
from ccflare_core.http.origins import is_this_machine, reachable
from ccflare_core.http.pinning import PinGuard
from ccflare_core.http.pins import Pins
from ccflare_core.program import Version
from ccflare_core.store.store import Store
from ccflare_core.text import to_ms

_SECONDS = 3.0
_ALIVE_MS = 180_000
_EVIL = "http://evil.example"
PAGES = (
    *("/ccflare/", "/ccflare/ready", "/ccflare/accounts", "/ccflare/metrics", "/ccflare/api/v1/requests"),
    *("/ccflare/journal", "/ccflare/api/v1/session/none"),
)
"""Pages of the proxy that take a permission. Each probe counts as a failed authentication, so there are few."""
_REFUSED = (400, 401, 403, 404, 405, 421, 429)
_LATER = "run this again in a minute"
_NAMED = {"User-Agent": "ccflare-doctor"}
"""As the inspector knows it, which leaves out the probes."""
_NAMING = ("server", "via", "x-powered-by")
_TELLING = ("traceback", 'file "/', "site-packages")


_PATIENCE = 5
"""Seconds that a throttled probe waits for its turn."""
_STARTED = """SELECT DISTINCT c.scope, c.options, a.detail FROM audit_log a JOIN configurations c ON c.scope = a.target
    WHERE a.action = 'proxy.start' AND a.detail LIKE ?"""


class Proxy(NamedTuple):
    """A proxy that runs here, by the configuration that it has noted down."""

    host: str
    port: int
    pid: int
    tls: bool
    asks_for_certificate: bool
    options: Mapping[str, object]
    sources: Mapping[str, str]
    """Where those that are set came from when it started."""
    version: Version | None = None
    """None if an old one has not said."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer of the proxy."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)

    @property
    def is_throttled(self) -> bool:
        """Whether it was refused only because there were too many before it, and so proves nothing.

        Who shows no key too often is told to slow down in place of 401, by the same check: that proves as much.
        """
        return self.status == 429 and SLOW_DOWN.message not in self.body

    @property
    def is_of_ccflare(self) -> bool:
        """Whether it reads like an answer of ccflare's health page, or like one of its errors."""
        try:
            told = json.loads(self.body)
        except ValueError:
            return False
        return isinstance(told, dict) and ("status" in told or told.get("type") == "error")


def running(store: Store, now: float) -> list[Proxy]:
    """The proxies of this machine that are alive and accept connections, each on the port that it started with.

    Any other port that was once a proxy's may be another program's by now.
    """
    here = socket.gethostname()
    sql = "SELECT id, pid FROM runs WHERE host = ? AND ended_at IS NULL AND heartbeat_at > ? ORDER BY started_at"
    alive = [row for row in store.query(sql, (here, to_ms(now) - _ALIVE_MS)) if Path(f"/proc/{row[1]}").exists()]
    found = [_proxy(started, pid) for run, pid in alive for started in _started(store, run)]
    return [proxy for proxy in found if _accepts(proxy)]


def _started(store: Store, run: str) -> list[tuple[str, str, str]]:
    """The scope (host:port) that a run has started with, its options, and what the audit log tells of its start."""
    return [
        (scope, options, detail)
        for scope, options, detail in store.query(_STARTED, (f'%"run":"{run}"%',))
        if scope.rpartition(":")[2].isdecimal()
    ]


def _proxy(started: tuple[str, str, str], pid: int) -> Proxy:
    scope, options, detail = started[0], json.loads(started[1]), json.loads(started[2])
    asks = bool(options.get("ccflare_client_ca"))
    tls = asks or options.get("ccflare_client_tls") == "required"
    host = str(options.get("listen_host") or "127.0.0.1")
    version = Version(detail["version"], detail.get("files", "")) if "version" in detail else None
    return Proxy(host, int(scope.rpartition(":")[2]), pid, tls, asks, options, detail.get("sources", {}), version)


def _accepts(proxy: Proxy) -> bool:
    try:
        with socket.create_connection((reachable(proxy.host), proxy.port), timeout=_SECONDS):
            return True
    except OSError:
        return False


def proxies(store: Store, now: float) -> Results:
    """What each of them tells an unauthenticated client."""
    has_keys = any(key.is_valid(now) for key in store.clients.all())
    found = running(store, now)
    if not found:
        yield ok("proxy.health", "no proxy runs here with this database; the checks that need one were not made")
    for proxy in found:
        yield from _memory(proxy)
        if proxy.version is not None:
            yield versions.of_proxy(str(proxy), proxy.version)
        yield from installation.option_hazards(f"the proxy on {proxy}", proxy.options)
        yield from installation.option_places(f"the proxy on {proxy}: ", proxy.sources)
        try:
            yield from _unauthenticated(proxy, has_keys=has_keys)
        except (OSError, http.client.HTTPException) as error:
            yield fail("proxy.health", f"{proxy} does not answer ({type(error).__name__})", "see its log, restart it")


def _unauthenticated(proxy: Proxy, *, has_keys: bool) -> Iterator[Result]:
    """What a client without a key gets: health, and nothing else."""
    is_closed = has_keys and not proxy.options.get("ccflare_open_loopback")
    if proxy.asks_for_certificate:
        yield ok("proxy.health", f"{proxy} listens and requires a client certificate; other checks were not made")
        return
    health = _ask(proxy, "GET", "/ccflare/health")
    if not health.is_of_ccflare:
        yield warn("proxy.health", f"{proxy} is answered by another program than ccflare", "restart the proxy")
        return
    yield _health(proxy, health)
    for name, text, seen, is_well in _probes(proxy, is_closed=is_closed):
        yield _judged(name, text, seen, is_well=is_well)
    yield _endpoints({page: _ask(proxy, "GET", page) for page in PAGES}, is_closed=is_closed)
    yield _leaky("proxy.headers", [f"{name}: {health.headers[name]}" for name in _NAMING if name in health.headers])
    odd = _ask(proxy, "GET", "/ccflare/%00..").body.lower()
    yield _leaky("proxy.errors", [word for word in _TELLING if word in odd])


def _health(proxy: Proxy, seen: Seen) -> Result:
    if seen.status == 200:
        return ok("proxy.health", f"{proxy} is well")
    return fail("proxy.health", f"{proxy} answers with {seen.status}", "see its log")


def _judged(name: str, text: str, seen: Seen, *, is_well: bool) -> Result:
    told = f"{text}: {seen.status}"
    if seen.is_throttled:
        return warn(name, f"{told}, which proves nothing: too many requests of this address", _LATER)
    return ok(name, told) if is_well else fail(name, told, "it was let through: stop the proxy, report the bug")


def _endpoints(pages: Mapping[str, Seen], *, is_closed: bool) -> Result:
    shown = [page for page, seen in pages.items() if seen.status == 200]
    if throttled := [page for page, seen in pages.items() if seen.is_throttled]:
        told = f"too many requests of this address, so {', '.join(throttled)} could not be tried"
        return warn("proxy.endpoints", told, _LATER)
    told = f"clients without a key are shown {', '.join(('/ccflare/health', *shown))}"
    if shown and is_closed:
        return fail("proxy.endpoints", told, "stop the proxy, report the bug")
    return ok("proxy.endpoints", told)


def _probes(proxy: Proxy, *, is_closed: bool) -> Iterator[tuple[str, str, Seen, bool]]:
    """Requests that must be refused: none of them can reach the upstream with an account's credential."""
    preflight = _ask(proxy, "OPTIONS", "/ccflare/accounts", {"Origin": _EVIL, "Access-Control-Request-Method": "POST"})
    allowed = preflight.headers.get("access-control-allow-origin", "")
    yield "proxy.cors", "a preflight of another site's page", preflight, allowed not in ("*", _EVIL)
    posted = _ask(proxy, "POST", "/ccflare/accounts/none/pause", {"Origin": _EVIL})
    yield "proxy.origin", "a change by another site's page", posted, posted.status in _REFUSED
    rebound = _ask(proxy, "GET", "/ccflare/health", {"Host": "evil.example"})
    yield "proxy.host", "a page under a foreign name", rebound, rebound.status in _REFUSED
    changed = _ask(proxy, "POST", "/ccflare/accounts/none/pause")
    yield "proxy.changes", "a change without a key", changed, changed.status in _REFUSED
    if is_closed:
        asked = _ask(proxy, "GET", "/v1/models")
        yield "proxy.keys", "a request to the API without a key", asked, asked.status in _REFUSED


def _leaky(check: str, found: list[str]) -> Result:
    if found:
        return fail(
            check, f"an answer tells unauthenticated clients {', '.join(found)}", "report it as a bug in ccflare"
        )
    return ok(check, "answers tell unauthenticated clients nothing internal")


def _ask(proxy: Proxy, method: str, path: str, headers: Mapping[str, str] | None = None) -> Seen:
    """The answer; a throttled request is sent once more after a short `retry-after`."""
    seen = _send(proxy, method, path, headers or {})
    wait = seen.headers.get("retry-after", "")
    if seen.is_throttled and wait.isdecimal() and int(wait) <= _PATIENCE:
        time.sleep(int(wait))
        return _send(proxy, method, path, headers or {})
    return seen


def _send(proxy: Proxy, method: str, path: str, headers: Mapping[str, str]) -> Seen:
    connection: http.client.HTTPConnection
    if proxy.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Nothing is sent that anybody could use, and our own certificate is another's business.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(reachable(proxy.host), proxy.port, timeout=_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(reachable(proxy.host), proxy.port, timeout=_SECONDS)
    try:
        connection.request(method, path, headers={"Connection": "close", **_NAMED, **headers})
        answer = connection.getresponse()
        body = answer.read(65_536).decode("utf-8", "replace")
        return Seen(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    finally:
        connection.close()


def _memory(proxy: Proxy) -> Results:
    """Whether the process could write its memory, and so its secrets, into a core file (Linux)."""
    try:
        limits = Path(f"/proc/{proxy.pid}/limits").read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    sizes = next((line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")), None)
    if sizes == ["0", "0"]:
        yield ok("proxy.core", f"process {proxy.pid} writes no core file")
    else:
        yield fail("proxy.core", f"process {proxy.pid} may write its memory into a core dump", "restart the proxy")


# The upstream


class _PinReader(PinGuard):
    """Accepts every verified connection and keeps its pins."""

    def __init__(self) -> None:
        super().__init__(Pins, enforced=lambda: False)
        self.pins: dict[str, tuple[str, ...]] = {}

    def covers(self, host: str) -> bool:
        """All of them are of interest."""
        return True

    def accepts(self, host: str, chain: Iterable[str]) -> bool:
        """Note the pins."""
        self.pins[host] = tuple(chain)
        return True


type Fetch = Callable[..., Fetcher]
"""Makes our own client, with pins to look at."""


def upstream(settings: Settings, fetch: Fetch, now: float) -> Results:
    """Whether each host that gets credentials is reached with verified TLS, its pins, and how the clocks differ."""
    reader, skews = _PinReader(), []
    for origin in sorted(settings.egress):
        if origin.scheme != "https" and not is_this_machine(origin.host):
            yield fail("upstream.tls", f"{origin} gets credentials without TLS", "use an https:// address")
            continue
        try:
            answer = _head(f"{origin}/", fetch(pins=reader))
        except CCFlareError as error:
            yield fail("upstream.tls", str(error), "check the network and the proxy on the way, if there is one")
            continue
        yield ok("upstream.tls", f"{origin} answers, its certificate is verified")
        skews += [now - at for at in [_date(answer)] if at]
        yield from _pins(settings, origin.host, reader.pins.get(origin.host, ()))
    yield installation.clock(min(skews, key=abs)) if skews else installation.clock(None)


def ways(store: Store, settings: Settings, fetch: Fetch) -> Results:
    """Whether the proxies of single accounts lead to the upstream."""
    names: dict[EgressProxy, list[str]] = defaultdict(list)
    for account in store.accounts.all():
        if account.proxy is not None:
            names[account.proxy].append(account.name)
    for proxy, used_by in names.items():
        told = f"the proxy of {' and '.join(used_by)}"
        try:
            _head(f"{settings.upstream}/", fetch(), proxy)
        except CCFlareError as error:
            yield fail("upstream.proxy", f"{told}: {error}", "try it by hand, or set another with `accounts.py set`")
        else:
            yield ok("upstream.proxy", f"{told}, {proxy}, leads to {settings.upstream}")


def _pins(settings: Settings, host: str, chain: tuple[str, ...]) -> Iterator[Result]:
    if not chain:
        return
    told = f"{host}: {', '.join(chain)}"
    if settings.upstream_pins.allow(host, chain):
        yield ok("upstream.pins", told)
    else:
        level = fail if settings.pins_mode == "enforce" else warn
        yield level("upstream.pins", f"{told}: none of them is pinned", 'see "Pinned keys" in SECURITY.md')


def _head(url: str, fetcher: Fetcher, proxy: EgressProxy | None = None) -> Response:
    return asyncio.run(fetcher.send(Request("HEAD", url, proxy=proxy)))


def _date(answer: Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.header("date")).timestamp()
    except (TypeError, ValueError):
        return None
