"""What SECURITY.md promises of who may call. Each name starts with the requirement that it proves."""

import base64
import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from ccflare_core.anthropic.answers import SECURITY
from ccflare_core.clients.authentication import Identity, KeyRing, Why, identify
from ccflare_core.clients.keys import PERMISSIONS, Permission, Role, new_secret
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.store import Store
from ccflare_mitm.pages import html
from ccflare_mitm.pages.page import Page
from ccflare_mitm.pages.table import PAGES, find_page
from exchange_kit import EPOCH, Bench
from fake_upstream import FakeUpstream, Header
from flow_kit import asked
from guard_kit import SECRET, Actions, a_gate, a_key, an_authenticator, ring_of
from harness import (
    Http2Client,
    Proxy,
    RawClient,
    Reply,
    Truncated,
    claude_request,
    eventually,
    via_base_url,
    via_connect,
)

ACCOUNT, LOGIN = "sk-ant-api03-the-accounts", "sk-ant-oat01-the-clients-login"
WRONG = new_secret()
DOORS = ("base-url", "https-proxy", "http2", "reverse")


def basic(key: str) -> Header:
    return b"Proxy-Authorization", b"Basic " + base64.b64encode(f"key:{key}".encode())


def bearer(key: str) -> Header:
    return b"Authorization", f"Bearer {key}".encode()


class House(NamedTuple):
    """Running proxies on one database, in front of one upstream, and the keys that they know."""

    upstream: FakeUpstream
    proxy: Proxy
    reverse: Proxy
    keys: dict[str, str]

    def enter(self, door: str, key: str | None = None) -> RawClient | Http2Client:
        """A new connection by this door; a tunnel is opened with the key."""
        headers = (basic(key),) if key else ()
        if door == "http2":
            return Http2Client.via_connect(self.proxy, "localhost", self.upstream.port, headers)
        if door == "https-proxy":
            return via_connect(self.proxy, "localhost", self.upstream.port, headers=headers)
        return via_base_url(self.reverse if door == "reverse" else self.proxy)

    def ask(self, door: str, key: str | None = None, *, path: str = "/v1/models", method: str = "GET") -> Reply:
        """One request by this door, with the key where it belongs there."""
        is_tunnel = door in ("https-proxy", "http2")
        with self.enter(door, key) as client:
            return client.request(method, path, () if is_tunnel or key is None else ((b"x-api-key", key.encode()),))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(FakeUpstream(tls=True, http2=True))
        proxy = Proxy(
            upstream,
            folder=tmp_path_factory.mktemp("proxy"),
            ccflare_hold_seconds=0,
            ccflare_tunnel_targets="localhost",
        )
        proxy.add_api_key("max", ACCOUNT)
        keys = {role.value: proxy.add_client_key(role.value, "--role", role.value) for role in Role}
        keys |= {"revoked": proxy.add_client_key("revoked"), "expired": proxy.add_client_key("expired")}
        keys["tunnels"] = proxy.add_client_key("tunnels", "--tunnels")
        keys["haiku"] = proxy.add_client_key("haiku", "--models", "claude-haiku-*")
        proxy.run_script("keys.py", "client", "revoke", "revoked")
        with contextlib.closing(open_store(proxy)) as store:
            store.clients.change("expired", expires_at=time.time() - 1)
        options = {"folder": tmp_path_factory.mktemp("reverse"), "database": proxy.database}
        reverse = Proxy(upstream, mode=f"reverse:{upstream.url}", ccflare_hold_seconds=0, **options)  # type: ignore[arg-type]
        yield House(upstream, running.enter_context(proxy), running.enter_context(reverse), keys)


def open_store(proxy: Proxy) -> Store:
    return Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))


@contextlib.contextmanager
def nothing_arrives(house: House) -> Iterator[None]:
    before = len(house.upstream.requests), house.upstream.connections
    yield
    assert (len(house.upstream.requests), house.upstream.connections) == before


# --- R1: a key on every path ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models", "/api/oauth/profile", "/ccflare/ready", "/ccflare/x"])
@pytest.mark.parametrize("door", ["base-url", "reverse"])
def test_r01_every_path_needs_a_key(house: House, door: str, path: str) -> None:
    with nothing_arrives(house):
        bad = [house.ask(door, key, path=path) for key in (None, WRONG, house.keys["revoked"], house.keys["expired"])]
    assert {reply.status for reply in bad} <= {401, 429}


@pytest.mark.parametrize("door", DOORS)
def test_r01_with_a_key_every_door_leads_to_the_upstream(house: House, door: str) -> None:
    before = len(house.upstream.requests)

    assert house.ask(door, house.keys["client"]).status == 200

    (request,) = house.upstream.requests[before:]
    assert request.credential == ACCOUNT


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_r01_a_tunnel_to_wherever_takes_a_key(house: House, host: str) -> None:
    with FakeUpstream(tls=True) as other, RawClient("127.0.0.1", house.proxy.port) as client:
        client.authority = f"{host}:{other.port}"
        refused = client.request("CONNECT", client.authority)
        assert refused.status in (407, 429)
        assert other.connections == 0

        headers = (basic(house.keys["tunnels"]),)
        with via_connect(house.proxy, "localhost", other.port, other.ca_file, headers=headers) as tunnel:
            assert tunnel.request("GET", "/v1/models").status == 200


@pytest.mark.parametrize(
    "header",
    [
        lambda key: (b"x-api-key", key.encode()),
        lambda key: (b"Authorization", b"Bearer " + key.encode()),
        basic,
    ],
    ids=["x-api-key", "bearer", "proxy"],
)
def test_r01_where_a_key_may_stand(house: House, header: object) -> None:
    assert callable(header)
    with via_base_url(house.proxy) as client:
        assert client.request("GET", "/v1/models", (header(house.keys["client"]),)).status == 200


ELSEWHERE: dict[str, tuple[str, tuple[tuple[bytes, bytes], ...]]] = {
    "query": ("/v1/models?api_key={key}", ()),
    "encoded query": ("/v1/models?api_key={encoded}", ()),
    "path": ("/v1/models/{key}", ()),
    "page of ours": ("/ccflare/health?key={key}", ()),
    "cookie": ("/v1/models", ((b"Cookie", b"a=b; key={key}"),)),
    "user agent": ("/v1/models", ((b"User-Agent", b"curl/8 {key}"),)),
    "another header": ("/v1/models", ((b"X-Auth-Token", b"{key}"),)),
    "a header's name": ("/v1/models", ((b"{key}", b"1"),)),
    "a header that comes twice": ("/v1/models", ((b"X-Auth-Token", b"{key}"), (b"X-Auth-Token", b"none"))),
    "referer": ("/v1/models", ((b"Referer", b"http://127.0.0.1/?{key}"),)),
}


@pytest.mark.parametrize("is_known", [True, False], ids=["ours", "none of ours"])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_r01_a_key_anywhere_else_is_refused_and_stored_nowhere(house: House, place: str, is_known: bool) -> None:
    key = house.keys["client"] if is_known else WRONG
    path, fields = ELSEWHERE[place]
    named = tuple(
        (name.replace(b"{key}", key.encode()), value.replace(b"{key}", key.encode())) for name, value in fields
    )
    proper = ((b"x-api-key", house.keys["client"].encode()),)

    with nothing_arrives(house), via_base_url(house.proxy) as client:
        reply = client.request("GET", path.format(key=key, encoded=key.replace("_", "%5F")), (*proper, *named))

    assert (reply.status, reply.header("x-should-retry")) == (400, "false")
    assert reply.json()["error"]["message"].startswith("A client key of this proxy came in the ")
    sql = "SELECT detail FROM audit_log WHERE action LIKE '%denied%' AND detail LIKE '%a client key in the %'"
    assert house.proxy.rows(sql, until=bool)
    kept = [path for path in house.proxy.folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert [path.name for path in kept] == []


def test_r01_a_key_as_the_method_is_shown_nowhere(house: House) -> None:
    key = house.keys["client"]
    with nothing_arrives(house), via_base_url(house.proxy) as client:
        reply = client.request(key, "/v1/models", ((b"x-api-key", key.encode()),))

    assert (reply.status, key in house.proxy.log(), key.encode() in reply.body) == (400, False, False)


def test_r01_a_key_in_a_tunnels_host_opens_none(house: House) -> None:
    with RawClient("127.0.0.1", house.proxy.port) as client:
        client.authority = f"{house.keys['client']}.example:443"
        reply = client.request("CONNECT", client.authority, (basic(house.keys["client"]),))

    assert (reply.status, house.keys["client"] in house.proxy.log()) == (400, False)


def test_r01_a_tunnel_without_a_key_gets_a_407() -> None:
    for headers, status in (((), 407), ((basic(WRONG),), 407), ((basic(SECRET),), 0)):
        gate = a_gate(Bench(), an_authenticator(a_key()))
        gate.enter(
            flow := asked(method="CONNECT", address=("https", "api.anthropic.com", 443), headers=headers),
            is_connect=True,
        )
        assert (flow.response.status_code if flow.response else 0) == status
        assert gate.tunnels.is_open(flow.server_conn) == (status == 0)
        assert status == 0 or (flow.response and flow.response.headers["proxy-authenticate"] == 'Basic realm="ccflare"')


def test_r01_no_key_at_all_serves_nobody_but_this_machine() -> None:
    local, remote = asked(), asked(peer="192.0.2.7")
    gate = a_gate(Bench(allow_remote=True))
    gate.enter(local)
    gate.enter(remote)

    assert local.response is None
    assert remote.response is not None
    assert remote.response.status_code == 401


@pytest.mark.parametrize("header", [(b"X-Forwarded-For", b"192.0.2.7"), (b"Forwarded", b"for=x"), (b"Via", b"1.1 x")])
def test_r01_a_proxy_on_this_machine_is_not_this_machine(header: Header) -> None:
    flow = asked(headers=(header,))
    a_gate(Bench()).enter(flow)
    assert flow.response is not None
    assert flow.response.status_code == 401


def test_r01_the_last_keys_end_does_not_open_the_door(house: House) -> None:
    gate = a_gate(Bench(), an_authenticator(a_key(revoked_at=EPOCH)))
    gate.enter(flow := asked())
    assert flow.response is not None
    assert flow.response.status_code == 401


def test_r01_a_key_outlives_the_data_key_that_its_digest_was_made_with(house: House) -> None:
    database = house.proxy
    (old,) = (row["id"] for row in json.loads(database.run_script("keys.py", "status", "--format", "json")))
    key = database.add_client_key("long-lived")
    database.run_script("keys.py", "rotate")

    def moved() -> bool:
        assert house.ask("base-url", key).status in (
            200,
            401,
            429,
        )  # until the proxy has seen the new key of the client
        rows = json.loads(database.run_script("keys.py", "client", "list", "--format", "json"))
        assert "long-lived" in {row["name"] for row in rows}
        heads = house.proxy.rows("SELECT hex(substr(digest, 2, 8)) AS head FROM client_keys WHERE name = 'long-lived'")
        return str(heads[0]["head"]).lower() != str(old)

    eventually(moved)
    assert house.ask("base-url", key).status == 200
    assert [house.ask("base-url", house.keys[role.value]).status for role in Role] == [200, 403, 403, 200]


# --- R2: what fails, fails closed -------------------------------------------------------------------------------------

CALLEES = (
    ("ccflare_mitm.gate.ingress", "take_keys"),
    ("ccflare_mitm.gate.ingress", "find_page"),
    ("ccflare_mitm.gate.ingress.Names", "of"),
    ("ccflare_core.clients.access.Access", "admits"),
    ("ccflare_core.clients.access.Access", "serves"),
    ("ccflare_core.clients.access.Access", "caller"),
    ("ccflare_core.clients.rate_limits.RateLimits", "for_address"),
    ("ccflare_core.clients.rate_limits.RateLimits", "for_key"),
    ("ccflare_core.clients.rate_limits.RateLimits", "count_address"),
    ("ccflare_core.clients.rate_limits.RateLimits", "count_key"),
    ("ccflare_core.clients.admission", "is_loopback"),
    ("ccflare_core.clients.admission", "examine"),
    ("ccflare_core.clients.admission", "identify"),
    ("ccflare_core.clients.checks", "refuse_request"),
    ("ccflare_core.clients.checks.browser", "is_cross_site"),
    ("ccflare_core.clients.checks.routes", "refuse"),
    ("ccflare_mitm.gate.ingress", "address_of"),
    ("ccflare_mitm.gate.gate", "ingress_of"),
    ("ccflare_mitm.gate.gate", "read_request_head"),
    ("ccflare_mitm.gate.gate", "admit"),
    ("ccflare_mitm.gate.gate.Gate", "state"),
    ("ccflare_mitm.gate.gate.Gate", "apply"),
    ("ccflare_mitm.gate.gate.Gate", "_count"),
    ("ccflare_mitm.gate.gate.Gate", "_send_on"),
    ("ccflare_mitm.host.decisions", "make_response"),
    ("ccflare_mitm.gate.gate", "has_credential"),
    ("ccflare_mitm.gate.gate.Gate", "_open"),
    ("ccflare_core.clients.credentials", "is_key"),
    ("ccflare_core.clients.credentials", "_credentials"),
    ("ccflare_core.clients.authentication", "_judge"),
    ("ccflare_core.clients.authentication.Authenticator", "renew"),
    ("ccflare_core.clients.authentication.Authenticator", "count_failure"),
    ("ccflare_core.clients.authentication.KeyRing", "find"),
    ("ccflare_core.clients.keys.ClientKey", "is_valid"),
    ("ccflare_core.clients.throttle.Throttle", "wait"),
    ("ccflare_core.clients.throttle.Throttle", "count"),
    ("ccflare_core.secrets.vault.Vault", "mac"),
)
NOT_FOR_A_RIGHT_KEY = ("make_response", "count_failure", "wait", "count")
"""What only a rejection needs."""


@pytest.mark.parametrize("credential", [SECRET, WRONG, None], ids=["right", "wrong", "none"])
@pytest.mark.parametrize("callee", CALLEES, ids=".".join)
def test_r02_an_error_anywhere_in_deciding_admits_nobody(
    monkeypatch: pytest.MonkeyPatch, callee: tuple[str, str], credential: str | None
) -> None:
    """A request that would be let in is stopped, and no other gets in by it."""
    place, name = callee
    ring = ring_of(a_key())
    vault = Vault([b"k" * 32])
    authenticator = an_authenticator(a_key())
    authenticator.replace(
        KeyRing(
            lambda secret, pepper: vault.mac("pepper", secret.encode()),
            ring.peppers,
            ring.keys,
            {vault.mac("pepper", SECRET.encode()): next(iter(ring.digests.values()))},
        )
    )

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("sabotage")

    monkeypatch.setattr(f"{place}.{name}", broken)
    flow = asked(headers=(bearer(credential),) if credential else ())
    gate = a_gate(Bench(), authenticator)
    with contextlib.suppress(RuntimeError):
        gate.enter(flow)
    with contextlib.suppress(RuntimeError):
        gate.issue_ticket(flow)

    exchange = gate.find(flow)
    assert exchange is None or (credential == SECRET and name in NOT_FOR_A_RIGHT_KEY)


SABOTEUR = """
import importlib
from pathlib import Path

BROKEN = Path(__file__).with_name("broken")


class Saboteur:
    def running(self):
        for place in Path(__file__).with_name("places").read_text().split():
            path, _, name = place.rpartition(".")
            module, _, inner = path.partition(":")
            owner = importlib.import_module(module)
            owner = getattr(owner, inner) if inner else owner
            setattr(owner, name, self.wrap(place, getattr(owner, name)))

    def wrap(self, place, function):
        def wrapped(*args, **kwargs):
            if BROKEN.read_text() == place:
                raise RuntimeError("sabotage of " + place)
            return function(*args, **kwargs)

        return wrapped


addons = [Saboteur()]
"""
PLACES = (
    "ccflare_mitm.gate.tunnels:Tunnels.open",
    "ccflare_mitm.gate.gate.read_request_head",
    "ccflare_mitm.gate.gate.admit",
    "ccflare_mitm.gate.gate:Gate.apply",
    "ccflare_mitm.gate.ingress.take_keys",
    "ccflare_mitm.gate.ingress.is_foreign_tunnel",
    "ccflare_core.clients.admission.examine",
    "ccflare_core.clients.admission.identify",
    "ccflare_core.clients.authentication._judge",
    "ccflare_core.clients.authentication:KeyRing.find",
    "ccflare_core.secrets.vault:Vault.mac",
    "ccflare_core.clients.keys:ClientKey.is_valid",
)


def status_of(ask: Callable[[], Reply]) -> int:
    """The status of an answer; 0 if there is none, because the connection was refused or cut."""
    try:
        return ask().status
    except (OSError, Truncated):
        return 0


def test_r02_in_a_running_proxy_nothing_goes_upstream(tmp_path: Path, tls_upstream: FakeUpstream) -> None:
    for name, text in (("saboteur.py", SABOTEUR), ("places", "\n".join(PLACES)), ("broken", "")):
        (tmp_path / name).write_text(text)
    options = {"arguments": ["-s", str(tmp_path / "saboteur.py")], "ccflare_tunnel_targets": "127.0.0.0/8 ::1"}
    proxy = Proxy(tls_upstream, folder=tmp_path / "proxy", **options)  # type: ignore[arg-type]
    proxy.add_api_key("max", ACCOUNT)
    key = proxy.add_client_key("laptop", "--tunnels")

    def plain() -> Reply:
        with via_base_url(proxy) as client:
            return client.request("GET", "/v1/models", (bearer(key),))

    def tunnelled(server: FakeUpstream) -> Reply:
        ca_file = None if server is tls_upstream else server.ca_file
        with via_connect(proxy, "localhost", server.port, ca_file, headers=(basic(key),)) as client:
            return client.request("GET", "/v1/models")

    with proxy, FakeUpstream(tls=True) as foreign:
        for place in PLACES:
            (tmp_path / "broken").write_text(place)
            statuses = {
                status_of(plain),
                status_of(lambda: tunnelled(tls_upstream)),
                status_of(lambda: tunnelled(foreign)),
            }
            served = {200} if place.endswith("Tunnels.open") else set()  # by the base URL, which needs no CONNECT
            assert statuses <= {0, 401, 500} | served, place
        assert len(tls_upstream.requests) == 1
        assert foreign.connections == 0
        (tmp_path / "broken").write_text("")
        assert (plain().status, tunnelled(tls_upstream).status, tunnelled(foreign).status) == (200, 200, 200)


# --- R3, R12: a key is shown once and goes nowhere --------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/messages", "/api/oauth/profile", "/v1/code/sessions"])
@pytest.mark.parametrize("door", DOORS)
def test_r12_a_client_key_never_goes_upstream(house: House, door: str, path: str) -> None:
    key = house.keys["client"]
    headers = ((b"x-api-key", key.encode()), bearer(LOGIN), (b"x-other", b"kept"))
    before = len(house.upstream.requests)
    with house.enter(door, key) as client:
        client.request("POST", path, headers, b"{}")

    (request,) = house.upstream.requests[before:]
    assert not any(b"ccf_" in value or b"client key" in value for _, value in request.headers)
    assert request.header_values("x-other") == ["kept"]
    assert request.credential == (ACCOUNT if path == "/v1/messages" else LOGIN)
    assert not request.header_values("proxy-authorization")


def test_r12_without_accounts_a_client_key_alone_passes_nothing_on(upstream: FakeUpstream, tmp_path: Path) -> None:
    proxy = Proxy(upstream, folder=tmp_path, ccflare_hold_seconds=0)
    key = proxy.add_client_key("laptop")
    with proxy, via_base_url(proxy) as client:
        refused = client.request(*claude_request(3000, credential=(b"x-api-key", key.encode())))
        passed = client.request(*claude_request(3000, credential=(b"x-api-key", key.encode()), extra=(bearer(LOGIN),)))

    assert (refused.status, passed.status) == (503, 200)
    assert [request.credential for request in upstream.requests] == [LOGIN]


def test_r03_after_a_run_no_key_is_anywhere(house: House) -> None:
    house.ask("base-url", WRONG)
    for proxy in (house.proxy, house.reverse):
        log = proxy.log().encode()
        files = [file for file in proxy.folder.rglob("*") if file.is_file()]
        files += list(proxy.database.parent.iterdir())
        for secret in (*house.keys.values(), WRONG):
            assert secret.encode() not in log
            assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_r03_no_key_is_in_what_the_inspector_shows() -> None:
    flow = asked(headers=((b"x-api-key", SECRET.encode()), basic(SECRET)))
    connect = asked(method="CONNECT", address=("https", "api.anthropic.com", 443), headers=(basic(SECRET),))
    gate = a_gate(Bench(), an_authenticator(a_key()))

    gate.enter(flow)
    gate.enter(connect, is_connect=True)

    assert SECRET not in repr(flow.get_state())
    assert base64.b64encode(f"key:{SECRET}".encode()).decode() not in repr((flow.get_state(), connect.get_state()))


# --- R4: the same answer in the same time -----------------------------------------------------------------------------


def test_r04_missing_wrong_expired_and_revoked_get_the_same_bytes(tmp_path: Path, upstream: FakeUpstream) -> None:
    proxy = Proxy(upstream, folder=tmp_path)
    revoked, expired = proxy.add_client_key("revoked"), proxy.add_client_key("expired")
    proxy.run_script("keys.py", "client", "revoke", "revoked")
    with contextlib.closing(open_store(proxy)) as store:
        store.clients.change("expired", expires_at=time.time() - 1)
    with proxy:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/messages")):
            answers = set()
            for key in (None, WRONG, revoked, expired):
                with via_base_url(proxy) as client:
                    reply = client.request(method, path, ((b"x-api-key", key.encode()),) if key else ())
                answers.add((reply.status, reply.head.headers, reply.body))
            ((status, _, _),) = answers
            assert status == 401
    assert upstream.requests == []
    entries = proxy.rows("SELECT actor, detail FROM audit_log WHERE action = 'auth.denied' ORDER BY actor")
    counts = Counter[str]()
    for entry in entries:  # one for each burst, and it knows whose key that was
        counts[entry["actor"]] += json.loads(entry["detail"])["count"]
    assert counts == {"": 6, "client:expired": 2}


def test_r04_they_take_the_same_time() -> None:
    expired, revoked = a_key("expired", expires_at=EPOCH - 1), a_key("revoked", revoked_at=EPOCH - 1)
    vault = Vault([b"k" * 32])
    kit = ring_of(expired, revoked, secrets=(SECRET, new_secret()))
    by_digest = {vault.mac("pepper", SECRET.encode()): next(iter(kit.digests.values()))}
    ring = KeyRing(lambda secret, pepper: vault.mac("pepper", secret.encode()), ("00" * 8,), kit.keys, by_digest)
    cases: dict[str, tuple[str, ...]] = {"missing": (), "wrong": (WRONG,), "expired": (SECRET,)}
    times: dict[str, list[int]] = {name: [] for name in cases}

    for _ in range(4000):
        for name, presented in cases.items():
            start = time.perf_counter_ns()
            identity = identify(ring, presented, EPOCH, is_local=False, open_loopback=False)
            times[name].append(time.perf_counter_ns() - start)
            assert identity.principal is None

    medians = {name: statistics.median(found) for name, found in times.items()}
    noise = max(statistics.quantiles(found, n=20)[-1] - statistics.median(found) for found in times.values())
    assert max(medians.values()) - min(medians.values()) < max(noise, 2_000), (medians, noise)


# --- R5: guessing -----------------------------------------------------------------------------------------------------


def test_r05_ten_thousand_guesses_cost_little_and_one_report() -> None:
    reports: list[tuple[str, Identity, int]] = []
    authenticator = an_authenticator(a_key(), report=lambda *report: reports.append(report))
    digested: list[tuple[str, str]] = []
    ring = authenticator.ring

    def counted(secret: str, pepper: str) -> bytes:
        digested.append((secret, pepper))
        return ring.digest(secret, pepper)

    authenticator.replace(replace(ring, digest=counted))
    gate = a_gate(bench := Bench(allow_remote=True), authenticator)
    guesses = [asked(peer="192.0.2.7", headers=((b"x-api-key", new_secret().encode()),)) for _ in range(10_000)]

    for flow in guesses:
        gate.enter(flow)

    statuses = [flow.response.status_code for flow in guesses if flow.response]
    assert (statuses.count(401), statuses.count(429)) == (10, 9_990)
    assert [(source, identity.why, number) for source, identity, number in reports] == [("192.0.2.7", Why.UNKNOWN, 1)]
    assert bench.notes.started_ones == []  # no row for each
    assert len(digested) == 10_000  # one HMAC each, and nothing slower


def test_r05_a_throttled_source_still_serves_who_has_a_key(house: House) -> None:
    statuses = []
    for _ in range(15):
        reply = house.ask("base-url", WRONG)
        statuses.append(reply.status)
        assert reply.header("x-should-retry") == "false"
    assert statuses[-1] == 429
    assert 1 <= int(reply.header("retry-after") or 0) <= 60
    assert reply.json()["error"]["type"] == "rate_limit_error"
    assert house.ask("base-url", house.keys["client"]).status == 200
    eventually(lambda: "refused for an unknown key" in house.proxy.log() or " refused for " in house.proxy.log())


# --- R8: roles --------------------------------------------------------------------------------------------------------

ROUTES: tuple[tuple[str, str, Permission | None], ...] = (
    *((method, page.path.replace("{name}", "max"), page.permission) for page in PAGES for method in page.methods),
    ("POST", "/v1/messages", Permission.API_REQUEST),
    ("GET", "/v1/models", Permission.API_REQUEST),
    ("GET", "/api/oauth/profile", Permission.API_REQUEST),
    ("HEAD", "/", None),
)


def expected(route: tuple[str, str, Permission | None], role: Role | None) -> str:
    method, path, permission = route
    if (method, path) == ("POST", html.LOGIN):
        return "401"  # it takes a key in its form, and there is none
    if permission is None:
        return "served"
    if role is None:
        return "401"
    return "served" if permission in PERMISSIONS[role] else "403"


@pytest.mark.parametrize(("route", "role"), list(product(ROUTES, [*Role, None])), ids=str)
async def test_r08_every_route_for_every_role(route: tuple[str, str, Permission | None], role: Role | None) -> None:
    method, path, _ = route
    actions = Actions()
    gate = a_gate(Bench(), an_authenticator(a_key(role=role or Role.CLIENT)), actions)
    flow = asked(path, method, headers=((b"x-api-key", SECRET.encode()),) if role else ())

    gate.enter(flow)
    gate.issue_ticket(flow)
    await flow.wait_for_resume()

    status = flow.response.status_code if flow.response else 0
    assert (str(status) if status in (401, 403) else "served") == expected(route, role)
    is_change = method == "POST" and path.startswith("/ccflare/") and path not in (html.LOGIN, html.LOGOUT)
    assert bool(actions.done) == (is_change and status == 200)


@pytest.mark.parametrize("door", DOORS)
def test_r08_no_method_and_no_spelling_gets_past_a_keys_models(house: House, door: str) -> None:
    def ask(path: str, method: str) -> int:
        return house.ask(door, house.keys["haiku"], path=path, method=method).status

    with nothing_arrives(house):
        assert [ask("/v1/messages", "PUT"), ask("/v1/messages", "PATCH"), ask("/v1/messages", "TRACE")] == [405] * 3
        assert [ask("/v1/messages/batches/", "POST"), ask("/V1/messages", "POST")] == [400] * 2
        assert [ask("/v1/messages", "POST"), ask("/v1/complete", "POST")] == [403] * 2
        assert ask("/v1/messages/batches", "POST") == 400  # it is no batch, so nobody knows whose models it would run


def test_r08_a_page_cannot_be_without_a_decision_on_its_permission() -> None:
    for page in PAGES:
        assert page.permission is None or isinstance(page.permission, Permission)
    for_everybody = {page.path for page in PAGES if page.permission is None}
    assert for_everybody == {"/ccflare/health", html.LOGIN, html.LOGOUT, "/ccflare/pages.css", "/ccflare/pages.js"}
    with pytest.raises(TypeError):
        Page("/ccflare/new", ("GET",), handler=PAGES[0].handler)  # type: ignore[call-arg]


@pytest.mark.parametrize("path", ["/ccflare/x/", "/ccflare/new", "/ccflare/accounts/a/b/pause", "/ccflare/health/"])
def test_r08_what_is_in_no_table_is_denied(path: str) -> None:
    assert find_page(path) is None
    for role, status in ((None, 401), (Role.CLIENT, 403), (Role.ADMIN, 404)):
        flow = asked(path, "GET", headers=((b"x-api-key", SECRET.encode()),) if role else ())
        a_gate(Bench(), an_authenticator(a_key(role=role or Role.ADMIN))).enter(flow)
        assert flow.response is not None
        assert flow.response.status_code == status


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 200000"])
def test_r13_a_page_takes_no_large_body(house: House, framing: bytes) -> None:
    key, chunk = house.keys["operator"].encode(), b"a" * 100_000
    body = b"%x\r\n%b\r\n" % (len(chunk), chunk) if framing.startswith(b"T") else chunk
    head = b"POST /ccflare/accounts/max/pause HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nx-api-key: %b\r\n%b\r\n\r\n"
    with RawClient("127.0.0.1", house.proxy.port) as client:
        client.send(head % (house.proxy.port, key, framing) + body)
        assert client.read_head().status == 413
    assert house.ask("base-url", house.keys["operator"], path="/ccflare/accounts").json()["accounts"][0]["available"]


def test_r11_accounts_are_paused_over_http(house: House) -> None:
    def pause(verb: str) -> Reply:
        return house.ask("base-url", house.keys["operator"], path=f"/ccflare/accounts/max/{verb}", method="POST")

    assert (pause("pause").status, pause("pause").json()) == (200, {"name": "max", "paused": True})
    assert house.ask("base-url", house.keys["client"]).status == 503
    assert pause("resume").json() == {"name": "max", "paused": False}
    assert house.ask("base-url", house.keys["client"]).status == 200
    missing = house.ask("base-url", house.keys["admin"], path="/ccflare/accounts/nobody/pause", method="POST")
    assert (missing.status, missing.json()["error"]["type"]) == (404, "not_found_error")


def test_r11_a_key_is_revoked_over_http_and_in_its_tunnels(house: House) -> None:
    key = house.proxy.add_client_key("lost")
    eventually(lambda: house.ask("base-url", key).status, lambda status: status == 200)
    with house.enter("https-proxy", key) as tunnel:
        assert tunnel.request("GET", "/v1/models").status == 200
        reply = house.ask("base-url", house.keys["admin"], path="/ccflare/clients/lost/revoke", method="POST")
        assert reply.json() == {"name": "lost", "revoked": True}

        # It is cut, and until then never a 401 beside a login.
        assert status_of(lambda: tunnel.request("GET", "/v1/models", (bearer(LOGIN),))) in (0, 403)
    (entry,) = house.proxy.rows("SELECT actor, ip FROM audit_log WHERE action = 'client.revoke' AND target = 'lost'")
    assert entry == {"actor": "client:admin", "ip": "127.0.0.1"}
    assert house.ask("base-url", key).status in (401, 429)


# --- R39: addresses that others can reach -----------------------------------------------------------------------------


def refusal_to_start(proxy: Proxy) -> str:
    """Why it does not start."""
    with contextlib.suppress(RuntimeError):
        proxy.start()
    eventually(lambda: proxy.returncode, lambda code: code == 1)
    proxy.close()
    return [line for line in proxy.log().splitlines() if line.startswith("ccflare: ")][-1]


def test_r39_other_machines_are_let_in_only_with_a_key_and_tls(tmp_path: Path) -> None:
    def remote(**options: object) -> Proxy:
        return Proxy(folder=tmp_path, listen_host="0.0.0.0", **options)  # type: ignore[arg-type]

    assert "set ccflare_allow_remote" in refusal_to_start(remote(ccflare_client_tls="required"))
    assert "set ccflare_client_tls to required" in refusal_to_start(remote(ccflare_allow_remote=True))
    both = {"ccflare_allow_remote": True, "ccflare_client_tls": "required"}
    assert "there is no client key" in refusal_to_start(remote(**both))
    proxy = remote(**both)
    proxy.add_client_key("laptop")
    with proxy:
        assert proxy.returncode is None


# --- R72, R82: what is told to anybody --------------------------------------------------------------------------------


def test_r72_health_says_no_more_than_ok_to_anybody(house: House) -> None:
    assert house.ask("base-url", path="/ccflare/health").json() == {"status": "ok"}
    assert house.ask("base-url", house.keys["client"], path="/ccflare/health").json() == {"status": "ok"}
    assert "accounts" in house.ask("base-url", house.keys["viewer"], path="/ccflare/health").json()
    assert house.ask("base-url", path="/ccflare/ready").status in (401, 429)


def test_r82_the_reviews_curl_tests(house: House) -> None:
    accounts = house.ask("reverse", path="/api/accounts")
    preflight = asked("/v1/messages", "OPTIONS", headers=((b"Origin", b"http://evil.com"),))
    a_gate(Bench(), an_authenticator(a_key())).enter(preflight)
    head = house.ask("reverse", path="/api/health", method="HEAD").head

    assert accounts.status in (401, 429)
    assert preflight.response is not None
    assert "access-control-allow-origin" not in preflight.response.headers
    told = {name.lower() for name, _ in head.headers}
    assert told <= {
        b"content-type",
        b"content-length",
        b"request-id",
        b"www-authenticate",
        b"retry-after",
        b"x-should-retry",
        b"connection",
        *dict(SECURITY),
    }
