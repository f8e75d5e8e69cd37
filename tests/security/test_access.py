"""What SECURITY.md promises of addresses, rates, browsers and the second factor, shown on a running proxy.

Each name starts with the requirement that it proves. On Linux every 127.x.y.z is this machine's own, so clients of
several addresses are at hand; strangers' addresses come through a trusted proxy.
"""

import base64
import re
import time
from collections.abc import Iterator

import pytest

from asking import wait_for_key
from ccflare_core.clients.totp import code_at, step_at
from exchange_kit import Bench
from fake_upstream import FakeUpstream, Header
from flow_kit import asked
from guard_kit import a_gate, a_key, an_authenticator
from harness import Http2Client, RawClient, Reply, Truncated, claude_request, eventually
from rig import Rig

PANEL, EVIL = b"https://panel.example", b"http://evil.com"
PER_MINUTE = 300
"""More than the other tests here ask for, from this machine, on a machine that is quick."""
STRANGERS = (b"10.9.8.7", b"100.64.1.1", b"::ffff:10.0.0.1", b"fe80::1%eth0")


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    options = {
        "ccflare_open_loopback": True,
        "ccflare_allow_ips": "127.0.0.0/8, ::1, 192.0.2.0/24",
        "ccflare_block_ips": "127.6.6.6 192.0.2.66",
        "ccflare_trusted_proxies": "127.9.9.9",
        "ccflare_allowed_origins": PANEL.decode(),
        "ccflare_requests_per_minute_per_ip": PER_MINUTE,
    }
    with FakeUpstream(tls=True, http2=True) as upstream, Rig.running(upstream, **options) as rig:
        yield rig


@pytest.fixture(scope="module")
def client_key(bench: Rig) -> bytes:
    """What a client needs that is not of this machine."""
    key = bench.proxy.add_client_key("remote")
    wait_for_key(bench.proxy, key)
    return key.encode()


@pytest.fixture
def rig(bench: Rig) -> Rig:
    bench.renew("a", "b")
    return bench


def connect(rig: Rig, source: str = "127.0.0.1") -> RawClient:
    return RawClient("127.0.0.1", rig.proxy.port, source=source)


def get(
    rig: Rig, path: str = "/ccflare/health", *headers: Header, method: str = "GET", source: str = "127.0.0.1"
) -> Reply:
    with connect(rig, source) as client:
        return client.request(method, path, headers)


def forwarded(rig: Rig, key: bytes, value: bytes, name: bytes = b"X-Forwarded-For", peer: str = "127.9.9.9") -> Reply:
    """An inference request that came through a proxy in front."""
    request = claude_request(size=3000, session=rig.session, credential=(b"x-api-key", key), extra=((name, value),))
    with connect(rig, peer) as client:
        return client.request(*request)


# -- R14: addresses


def test_r14_who_is_blocked_gets_no_byte(rig: Rig) -> None:
    with connect(rig, "127.6.6.6") as client, pytest.raises((Truncated, ConnectionError)):
        client.request(*claude_request())
    assert rig.asked == []


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("path", ["/v1/messages", "/ccflare/health", "/api/oauth/profile"])
def test_r14_who_is_not_on_the_list_is_refused_on_every_path(rig: Rig, stranger: bytes, path: str) -> None:
    reply = get(rig, path, (b"X-Forwarded-For", stranger), source="127.9.9.9")

    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")
    assert rig.asked == []


def test_r14_a_trusted_proxys_client_is_the_one_that_counts_and_is_recorded(rig: Rig, client_key: bytes) -> None:
    assert forwarded(rig, client_key, b"127.0.0.1, 192.0.2.7").status == 200

    assert rig.row()["client_ip"] == "192.0.2.7"
    assert forwarded(rig, client_key, b"192.0.2.66").status == 403
    assert forwarded(rig, client_key, b"for=192.0.2.8", b"Forwarded").status == 200


def test_r14_nobody_else_is_believed(rig: Rig, client_key: bytes) -> None:
    assert forwarded(rig, client_key, b"192.0.2.7", peer="127.0.0.5").status == 200

    assert rig.row()["client_ip"] == "127.0.0.5"


def test_r14_who_comes_through_something_else_is_not_of_this_machine(rig: Rig) -> None:
    assert forwarded(rig, b"no key", b"127.0.0.1", peer="127.0.0.5").status == 401
    assert rig.asked == []


@pytest.mark.parametrize("forwarded", [b"127.0.0.1", b"::1", b"::ffff:127.0.0.1", b"127.0.0.1, 192.0.2.9"])
@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"Forwarded"])
def test_r14_a_trusted_proxy_on_another_machine_cannot_make_anybody_local(name: bytes, forwarded: bytes) -> None:
    """Neither while there are no keys, nor where this machine's programs need none."""
    hops = b", ".join(b'for="[%s]"' % hop if b":" in hop else b"for=" + hop for hop in forwarded.split(b", "))
    headers = ((name, forwarded if name == b"X-Forwarded-For" else hops),)
    for authenticator in (an_authenticator(), an_authenticator(a_key(), open_loopback=True)):
        gate = a_gate(Bench(allow_remote=True, trusted_proxies="192.0.2.9 127.0.0.1"), authenticator)
        gate.enter(remote := asked(peer="192.0.2.9", headers=headers))
        gate.enter(tunnel := asked(method="CONNECT", peer="192.0.2.9", headers=headers), is_connect=True)
        assert remote.response is not None
        assert tunnel.response is not None
        assert (remote.response.status_code, tunnel.response.status_code) == (401, 407)
        assert not gate.tunnels.is_open(tunnel.server_conn)

        gate.enter(local := asked(peer="127.0.0.1", headers=((b"X-Forwarded-For", b"127.0.0.1"),)))
        assert local.response is None


def test_r14_a_block_holds_for_open_connections_too_and_can_be_lifted(rig: Rig) -> None:
    network = "127.7.7.0/24"
    with connect(rig, "127.7.7.7") as client:
        assert client.request("GET", "/ccflare/health").status == 200
        rig.proxy.run_script("access.py", "block", network, "--reason", "a test")

        eventually(lambda: client.request(*claude_request(size=3000, session=rig.session)).status, lambda s: s == 403)

    with connect(rig, "127.7.7.7") as client, pytest.raises((Truncated, ConnectionError)):
        client.request("GET", "/ccflare/health")
    rig.proxy.run_script("access.py", "unblock", network)
    eventually(lambda: is_served(rig, "127.7.7.7"))


def is_served(rig: Rig, source: str) -> bool:
    try:
        return get(rig, source=source).status == 200
    except (Truncated, ConnectionError):
        return False


# -- R5: rates


def test_r05_one_request_too_many_of_an_address_and_nobody_else_notices(rig: Rig) -> None:
    with connect(rig, "127.0.0.88") as client:
        assert {client.request("GET", "/ccflare/health").status for _ in range(PER_MINUTE)} == {200}

        def one_too_many() -> Reply:
            """Unless so much time has passed since the one before that there is room again."""
            eventually(lambda: client.request("GET", "/ccflare/health").status, lambda status: status == 429)
            return client.request(*claude_request(size=3000, session=rig.session))

        reply = eventually(one_too_many, lambda reply: reply.status == 429)

    assert (reply.status, reply.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(reply.header("retry-after") or 0) == 1
    assert not [name for name, _ in reply.head.headers if name.startswith(b"anthropic-ratelimit")]
    assert rig.rests("a") == []
    assert rig.ask().status == 200
    sql = "SELECT * FROM requests WHERE client_ip = '127.0.0.88' AND path = '/v1/messages' AND status_code = 429"
    [refused] = rig.proxy.rows(sql, until=bool)
    assert (refused["outcome"], refused["status_code"], refused["account_used"]) == ("refused", 429, None)
    assert "requests a minute" in refused["error_message"]


# -- R6: browsers


PREFLIGHT = ((b"Access-Control-Request-Method", b"GET"), (b"Access-Control-Request-Headers", b"X-Requested-With"))


@pytest.mark.parametrize("path", ["/ccflare/health", "/ccflare/api/accounts", "/v1/messages"])
def test_r06_the_reviews_preflight_gets_no_permission(rig: Rig, path: str) -> None:
    reply = get(rig, path, (b"Origin", EVIL), *PREFLIGHT, method="OPTIONS")

    assert reply.status == 403
    assert reply.header("access-control-allow-origin") is None
    assert rig.asked == []


@pytest.mark.parametrize("path", ["/ccflare/health", "/v1/messages"])
def test_r06_a_preflight_of_an_allowed_origin_does(rig: Rig, path: str) -> None:
    reply = get(rig, path, (b"Origin", PANEL), *PREFLIGHT, method="OPTIONS")

    assert (reply.status, reply.header("access-control-allow-origin")) == (204, PANEL.decode())
    assert rig.asked == []


def test_r06_an_allowed_origin_may_read_answers_and_nobody_else(rig: Rig) -> None:
    def origin_of(reply: Reply) -> tuple[int, str | None]:
        return reply.status, reply.header("access-control-allow-origin")

    assert origin_of(get(rig, "/ccflare/health", (b"Origin", PANEL))) == (200, PANEL.decode())
    assert origin_of(rig.ask(extra=((b"Origin", PANEL), (b"Sec-Fetch-Site", b"cross-site")))) == (200, PANEL.decode())
    assert origin_of(get(rig)) == (200, None)
    assert origin_of(rig.ask()) == (200, None)
    assert origin_of(rig.ask(extra=((b"Origin", EVIL),))) == (403, None)


@pytest.mark.parametrize("origin", [EVIL, b"null", b"http://127.0.0.1:1"])
def test_r06_a_plain_post_of_another_page_is_refused(rig: Rig, origin: bytes) -> None:
    assert get(rig, "/ccflare/health", (b"Origin", origin), method="POST").status == 403


@pytest.mark.parametrize("host", [b"evil.com", b"evil.com:%d", b"localhost.evil.com:%d"])
def test_r06_a_name_that_was_pointed_at_us_is_refused(rig: Rig, host: bytes) -> None:
    host = host % rig.proxy.port if b"%d" in host else host
    assert get(rig, "/ccflare/health", (b"Host", host)).status == 403


# -- R44, R85: the headers of our own answers


def test_r44_every_answer_of_ours_has_the_security_headers(rig: Rig) -> None:
    with connect(rig) as client:
        client.send(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        mitmproxys = client.read_head()
    replies = [get(rig), get(rig, "/ccflare/nothing"), get(rig, method="POST"), get(rig, "/v1/messages/../x")]
    for head in (*(reply.head for reply in replies), mitmproxys):
        assert head.header("x-content-type-options") == "nosniff", head
        assert head.header("x-frame-options") == "DENY"
        assert head.header("referrer-policy") == "no-referrer"
        assert head.header("cache-control") == "no-store"
        assert (head.header("content-security-policy") or "").startswith("default-src 'none'; frame-ancestors 'none'")
        assert head.header("server") is None
        assert not [value for _, value in head.headers if b"mitmproxy" in value.lower()]
    assert mitmproxys.header("content-type") == "application/json"


def test_r44_mitmproxys_own_errors_are_ours_on_http2_too(rig: Rig) -> None:
    with Http2Client.via_connect(rig.proxy, "localhost", rig.upstream.port) as client:
        reply = client.request("POST", "/v1/messages", ((b"x(y)", b"1"),), b"abc")

    assert (reply.status, reply.header("content-type"), reply.header("server")) == (400, "application/json", None)
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert b"mitmproxy" not in reply.body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ccflare//", 400),
        ("/ccflare/health/x", 404),
        ("/ccflare/%ff", 404),
        ("/ccflare/" + "x" * 5000, 404),
        ("/ccflare/x?" + "a=b&" * 999, 404),
    ],
)
def test_r85_odd_paths_of_ours_get_a_plain_answer(rig: Rig, path: str, status: int) -> None:
    assert get(rig, path).status == status


# -- R31: the second factor


def test_r31_changes_need_a_code_and_each_code_is_good_once(rig: Rig, client_key: bytes) -> None:
    admin = (b"x-api-key", rig.proxy.add_client_key("boss", "--role", "admin").encode())
    seed = base64.b32decode(re.findall(r"app: (\w+)", rig.proxy.run_script("keys.py", "mfa", "enable"))[0])
    now = step_at(time.time()) + 1  # each code is good for one step more: half a minute at least
    said = rig.proxy.run_script("keys.py", "mfa", "confirm", stdin=code_at(seed, now - 1))
    recovery = re.findall(r"^  (\S+)$", said, re.MULTILINE)

    def pause(*code: str) -> Reply:
        codes = [(b"x-ccflare-otp", each.encode()) for each in code]
        return get(rig, f"/ccflare/accounts/{rig.name('a')}/pause", admin, *codes, method="POST")

    eventually(lambda: pause().status, lambda status: status == 403)
    assert pause().header("x-ccflare-otp") == "required"
    assert get(rig, "/ccflare/accounts", admin).status == 200
    assert [pause(code).status for code in (code_at(seed, now), code_at(seed, now), "000000")] == [200, 403, 403]
    assert rig.proxy.rows("SELECT last_step FROM second_factor")[0]["last_step"] == now
    assert [pause(code).status for code in (recovery[0], recovery[0])] == [200, 403]
    assert len(rig.proxy.rows("SELECT * FROM recovery_codes")) == 9
    assert 429 in [pause("000000").status for _ in range(8)]  # the wait after the fifth is a second
    rig.proxy.run_script("keys.py", "mfa", "disable")
    eventually(lambda: pause().status, lambda status: status == 200)
    assert seed not in rig.proxy.database.read_bytes()
