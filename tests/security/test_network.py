"""The network: TLS on both sides, who may be the upstream, what is refused at the start, and who can be reached."""

import contextlib
import os
import socket
import ssl
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from mitmproxy import optmanager, version
from mitmproxy.addons import default_addons
from mitmproxy.io import FlowWriter
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.test import taddons, tflow
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from ccflare import CCFlare
from ccflare_core.anthropic.oauth import Endpoints, refresh_request
from ccflare_core.config.settings import Settings
from ccflare_core.config.unsafe_options import CHANGED, HARMLESS, KNOWN, OPTIONS, SINCE_12_3
from ccflare_core.errors import ConfigError, TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.messages import Request
from ccflare_core.http.pinning import NOT_PINNED, spki_pin
from ccflare_mitm.host import dumps, unsafe_options
from fake_upstream import FakeUpstream
from harness import (
    ADDON,
    Http2Client,
    Proxy,
    RawClient,
    Reply,
    StartProxy,
    Truncated,
    claude_request,
    eventually,
    listening,
    trusting,
)
from programs import run
from rig import Rig, texts
from tls_kit import Authority

WRONG_PIN = f"sha256/{'A' * 43}="
OTHER_PIN = f"sha256/{'B' * 42}A="


CUT_OFF = (ssl.SSLError, ConnectionResetError, Truncated)
"""How a handshake that fails looks: with TLS 1.3 a client hears of it when it reads."""


def ask(proxy: Proxy, tls: ssl.SSLContext | None = None) -> Reply:
    """One exchange with the base URL http(s)://localhost:port."""
    with by_name(proxy, tls) as client:
        return client.request(*claude_request(3000))


def by_name(proxy: Proxy, tls: ssl.SSLContext | None) -> RawClient:
    """A client of that base URL."""
    client = RawClient("localhost", proxy.port, tls=tls)
    client.authority = f"localhost:{proxy.port}"
    return client


# --- R40: TLS to clients ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def secure(api: FakeUpstream) -> Iterator[Proxy]:
    """A proxy that speaks TLS only."""
    proxy = Proxy(api, ccflare_client_tls="required")
    proxy.add_api_key("a", "sk-ant-api03-a")
    with proxy:
        yield proxy


def test_r40_clients_reach_it_by_https(secure: Proxy, api: FakeUpstream) -> None:
    """As Claude Code does with ANTHROPIC_BASE_URL=https://localhost:… and NODE_EXTRA_CA_CERTS."""
    reply = ask(secure, trusting(secure.ca_file))

    assert texts(reply.events())
    assert api.requests[-1].credential == "sk-ant-api03-a"
    rows = secure.rows("SELECT door, outcome FROM requests", until=lambda rows: rows and rows[-1]["outcome"] == "ok")
    assert rows[-1] == {"door": "base-url", "outcome": "ok"}


@pytest.mark.parametrize("head", ["POST /v1/messages", "CONNECT api.anthropic.com:443", "GET /ccflare/health"])
def test_r40_plain_http_on_a_tls_port_gets_a_sentence_and_nothing_else(
    secure: Proxy, api: FakeUpstream, head: str
) -> None:
    before = len(api.requests)
    with RawClient("localhost", secure.port) as client:
        client.send(f"{head} HTTP/1.1\r\nHost: localhost\r\nx-api-key: k\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        answer = client.read_head()
        message = client.read_body()
        assert client.detach().recv(1) == b""

    assert answer.status == 400
    assert b"use https://" in message
    assert len(api.requests) == before


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"SSH-2.0-x\r\n", b"\x16\x02\x00", b"\x16"])
def test_r40_another_protocol_on_a_tls_port_is_cut_off(secure: Proxy, data: bytes) -> None:
    with RawClient("localhost", secure.port) as client:
        client.send(data)
        client.read_head()
        client.read_body()
        assert client.detach().recv(1) == b""


def test_r40_reverse_mode_refuses_plain_http_too(api: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(api, mode=f"reverse:{api.url}", ccflare_client_tls="required", accounts={"a": "sk-ant-api-a"})

    assert ask(proxy).status == 400
    assert ask(proxy, trusting(proxy.ca_file)).status == 200


def legacy(ca_file: Path, version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    """A client that can do no better than that."""
    context = trusting(ca_file)
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # that it is deprecated is the point
        context.minimum_version = version
        context.maximum_version = version
    return context


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-SHA"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_2, "DHE-RSA-AES256-GCM-SHA384"),
    ],
    ids=["TLS 1.1", "CBC", "no forward secrecy", "finite-field DH"],
)
def test_r40_old_tls_is_refused(secure: Proxy, version: ssl.TLSVersion, ciphers: str) -> None:
    with pytest.raises(CUT_OFF):
        ask(secure, legacy(secure.ca_file, version, ciphers))


def test_r40_modern_tls_1_2_will_do(secure: Proxy) -> None:
    context = legacy(secure.ca_file, ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-GCM-SHA256")
    assert ask(secure, context).status == 200


def test_r40_a_certificate_of_ones_own(api: FakeUpstream, start_proxy: StartProxy, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain = authority.issue("localhost", server=True)
    proxy = start_proxy(api, arguments=["--certs", f"localhost={chain}"], ccflare_client_tls="required")

    assert ask(proxy, trusting(authority.file)).status == 200


# --- R40: client certificates -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates the proxy `mutual` asks for."""
    return Authority(tmp_path_factory.mktemp("clients"), "clients")


@pytest.fixture(scope="module")
def mutual(api: FakeUpstream, clients: Authority) -> Iterator[Proxy]:
    """A proxy that clients must show a certificate to; its own is of the same authority."""
    chain = clients.issue("localhost", server=True)
    proxy = Proxy(api, arguments=["--certs", f"localhost={chain}"], ccflare_client_ca=clients.file)
    proxy.add_api_key("a", "sk-ant-api03-a")
    with proxy:
        yield proxy


def showing(ca_file: Path, certificate: Path | None) -> ssl.SSLContext:
    context = trusting(ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def test_r40_a_client_with_a_certificate_is_served(mutual: Proxy, clients: Authority) -> None:
    assert ask(mutual, showing(clients.file, clients.issue("laptop"))).status == 200


def test_r40_an_intermediate_authority_will_do(mutual: Proxy, clients: Authority, tmp_path: Path) -> None:
    assert ask(mutual, showing(clients.file, Authority(tmp_path, "team", clients).issue("laptop"))).status == 200


def test_r40_a_session_is_resumed_or_begun_anew(mutual: Proxy, clients: Authority) -> None:
    context = showing(clients.file, clients.issue("laptop"))
    with by_name(mutual, context) as client:
        assert client.request(*claude_request(3000)).status == 200
        first = client.detach()
        assert isinstance(first, ssl.SSLSocket)
        session = first.session
    plain = socket.create_connection(("localhost", mutual.port), timeout=60)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as again:
        again.sendall(f"GET /ccflare/health HTTP/1.1\r\nHost: localhost:{mutual.port}\r\n\r\n".encode())
        assert again.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("which", ["none", "of another authority", "expired", "a server's"])
def test_r40_any_other_client_fails_in_the_handshake(
    mutual: Proxy, api: FakeUpstream, clients: Authority, tmp_path: Path, which: str
) -> None:
    certificates = {
        "none": None,
        "of another authority": Authority(tmp_path, "clients").issue("laptop"),
        "expired": clients.issue("laptop", expired=True),
        "a server's": clients.issue("laptop", server=True),
    }
    before = len(api.requests)

    with pytest.raises(CUT_OFF):
        ask(mutual, showing(clients.file, certificates[which]))

    assert len(api.requests) == before


def test_r40_client_certificates_leave_no_door_without_tls(mutual: Proxy) -> None:
    assert ask(mutual).status == 400


def test_r40_a_revoked_certificate_is_refused(
    api: FakeUpstream, clients: Authority, start_proxy: StartProxy, tmp_path: Path
) -> None:
    good, lost = clients.issue("laptop"), clients.issue("lost")
    authorities = tmp_path / "with-crl.pem"
    authorities.write_bytes(clients.file.read_bytes() + clients.revoke([lost]))
    authorities.chmod(0o600)
    proxy = start_proxy(api, ccflare_client_ca=authorities)

    assert ask(proxy, showing(proxy.ca_file, good)).status == 200
    with pytest.raises(CUT_OFF):
        ask(proxy, showing(proxy.ca_file, lost))


# --- R41: pinned keys -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pinned_api() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True, http2=True) as upstream:
        yield upstream


def pin_of(file: Path) -> str:
    return spki_pin(x509.load_pem_x509_certificate(file.read_bytes()))


def pins(*values: str) -> str:
    return ",".join(f"localhost={value}" for value in values)


@pytest.fixture(scope="module")
def unpinned(pinned_api: FakeUpstream) -> Iterator[Rig]:
    """A rig whose upstream has other keys than are pinned."""
    with Rig.running(pinned_api, ccflare_upstream_pins=pins(WRONG_PIN, OTHER_PIN)) as rig:
        yield rig


@pytest.mark.parametrize("which", ["chain_file", "ca_file"])
def test_r41_a_pinned_key_is_served(pinned_api: FakeUpstream, start_proxy: StartProxy, which: str) -> None:
    expected = pins(WRONG_PIN, pin_of(getattr(pinned_api, which)))
    proxy = start_proxy(pinned_api, accounts={"a": "sk-ant-api03-a"}, ccflare_upstream_pins=expected)

    assert ask(proxy).status == 200
    assert NOT_PINNED not in proxy.log()


def test_r41_without_a_pinned_key_nothing_is_sent(unpinned: Rig) -> None:
    unpinned.fresh("a", "b")

    reply = unpinned.ask()

    assert reply.status == 502
    assert "certificate not pinned, see ccflare_upstream_pins; nothing was sent" in reply.json()["error"]["message"]
    assert unpinned.requests == []


def test_r41_it_has_a_cause_of_its_own_and_no_account_is_blamed(unpinned: Rig) -> None:
    unpinned.fresh("a", "b")
    unpinned.ask()

    row = unpinned.row()

    assert (row["outcome"], row["status_code"]) == ("upstream_error", 502)
    assert NOT_PINNED in row["error_message"]
    assert unpinned.kinds() == ["not_pinned"]
    assert unpinned.rests("a") == unpinned.rests("b") == []
    assert unpinned.is_idle()


def test_r41_the_clients_own_credential_is_not_sent_either(unpinned: Rig) -> None:
    unpinned.fresh("a")
    with unpinned.client() as client:
        reply = client.request("GET", "/api/oauth/profile", [(b"Authorization", b"Bearer mine")])

    assert reply.status == 502
    assert not any(request.path == "/api/oauth/profile" for request in unpinned.upstream.requests)


def test_r41_http2_is_no_way_round(unpinned: Rig) -> None:
    unpinned.fresh("a")
    with Http2Client.via_connect(unpinned.proxy, "localhost", unpinned.upstream.port) as client:
        streams = [client.send_request(*claude_request(3000)) for _ in range(3)]
        assert [client.read_head(stream).status for stream in streams] == [502, 502, 502]

    assert unpinned.requests == []


def test_r41_report_only_tells_and_serves(pinned_api: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(
        pinned_api,
        accounts={"a": "sk-ant-api03-a"},
        ccflare_upstream_pins=pins(WRONG_PIN),
        ccflare_pins_mode="report-only",
    )

    assert [ask(proxy).status, ask(proxy).status] == [200, 200]
    told = f"{NOT_PINNED}: localhost"
    assert proxy.wait_for_log(told).count(told) == 1
    assert "localhost has one pin only" in proxy.log()


def test_r41_a_pin_is_never_weaker_than_verification(start_proxy: StartProxy) -> None:
    with FakeUpstream(tls=True, expired=True) as expired:
        proxy = start_proxy(
            expired,
            accounts={"a": "sk-ant-api03-a"},
            ccflare_upstream_pins=pins(pin_of(expired.chain_file)),
            ccflare_retry_attempts=0,
        )
        reply = ask(proxy)

    assert reply.status == 502
    assert "certificate has expired" in reply.json()["error"]["message"]
    assert expired.requests == []


# --- R42, R43: what we ask for ourselves ------------------------------------------------------------------------------


def test_r42_a_refresh_token_goes_to_a_pinned_key_only(unpinned: Rig) -> None:
    unpinned.fresh("a", refresh_token="sk-ant-ort01-a", expires_at=1.0)

    reply = unpinned.ask()

    assert reply.status == 503
    unpinned.proxy.wait_for_log(f"({NOT_PINNED})")
    assert not any("oauth/token" in request.path for request in unpinned.upstream.requests)


async def test_r43_our_own_client_goes_to_configured_hosts_only(api: FakeUpstream) -> None:
    settings = Settings.build({"ccflare_upstream": api.url, "ccflare_token_url": "https://tokens.example/x"})
    fetcher = Fetcher(egress=lambda: settings.egress)

    assert (await fetcher.send(Request("GET", f"{api.url}/api/oauth/usage", ()))).status < 500
    before = api.connections
    for place in (f"http://localhost:{api.port}/x", f"http://127.0.0.1:{api.port + 1}/x"):
        with pytest.raises(TokenUnavailable, match="is no host that ccflare is configured to send anything to"):
            await fetcher.send(refresh_request(Endpoints(token_url=place), "sk-ant-ort01-secret"))
    assert api.connections == before


# --- R45: UDP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [None, "127.0.0.1"], ids=["by default", "as said"])
def test_r45_nothing_listens_on_udp(api: FakeUpstream, start_proxy: StartProxy, host: str | None) -> None:
    """mitmproxy would, for HTTP/3, beside `reverse:https://…`; and a firewall rule for TCP would not see it."""
    proxy = start_proxy(api, mode="reverse:https://api.anthropic.com", listen_host=host)

    eventually(lambda: listening(proxy.pid, "udp"), until=lambda found: not found)  # mitmproxy begins before us
    assert listening(proxy.pid) == {("127.0.0.1", proxy.port)}


# --- refusals at the start --------------------------------------------------------------------------------------------


def refusal(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """The sentences of a start that is refused."""
    command = [str(Path(sys.executable).with_name("mitmdump")), "-s", str(ADDON), "-p", "0", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)
    assert done.returncode == 1, done.stdout
    assert "listening at" not in done.stdout
    lines = (done.stdout + done.stderr).splitlines()
    return [line.removeprefix("ccflare: ") for line in lines if line.startswith("ccflare: ")]


def test_r76_all_that_opens_a_hole_is_refused_at_once(tmp_path: Path) -> None:
    settings = {
        "ssl_insecure": "true",
        "keep_host_header": "true",
        "ignore_hosts": "x",
        "tcp_hosts": "x",
        "map_remote": "|a|b",
        "stickyauth": ".",
        "validate_inbound_headers": "false",
        "ciphers_client": "AES128-SHA:@SECLEVEL=0",
        "ciphers_server": "aNULL",
    }
    said = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    told = refusal(tmp_path, *said, SSLKEYLOGFILE="keys", MITMPROXY_SSLKEYLOGFILE="keys")

    assert sorted(sentence.partition(":")[0] for sentence in told) == sorted(
        [*settings, "SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"]
    )
    assert not (tmp_path / "keys").exists()


def test_r76_what_changes_messages_is_refused(tmp_path: Path) -> None:
    settings = {"map_local": "|x|/tmp", "anticache": "true", "anticomp": "true", "modify_body": "/~q/a/b"}
    settings |= {"modify_headers": "/~q/a/b"}
    said = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    assert sorted(sentence.partition(":")[0] for sentence in refusal(tmp_path, *said)) == sorted(settings)


MASTERS = """
import asyncio
from mitmproxy.options import Options
from mitmproxy.tools import console, dump, web

async def names():
    masters = (dump.DumpMaster, web.master.WebMaster, console.master.ConsoleMaster)
    print(*{name for master in masters for name in master(Options()).options.keys()})

asyncio.run(names())
"""


def test_r76_each_option_of_mitmproxys_three_programs_has_been_looked_at() -> None:
    done = subprocess.run([sys.executable, "-c", MASTERS], capture_output=True, text=True, timeout=60, check=True)
    newer = SINCE_12_3 if version.VERSION.startswith("12.2") else set()
    assert set(done.stdout.split()) == KNOWN - newer
    names = [name for _, names in HARMLESS for name in names]
    assert len(KNOWN) == len([*names, *OPTIONS, *CHANGED])


async def test_r76_an_option_that_nobody_has_looked_at_stops_the_start_once_it_is_set() -> None:
    with taddons.context(*default_addons(), loadcore=False) as context:
        options = settled(context)
        options.confdir, options.ccflare_client_ca = "/nowhere", ""
        own = context.options._options
        new = optmanager._Option("http4", bool, False, "", None)
        options._options = {"http4": new, **own}
        unsafe_options.check(options, {})
        new.set(True)
        with pytest.raises(ConfigError, match="http4: nobody has tried this option"):
            unsafe_options.check(options, {})
        options._options = {**own, "http4": new}
        unsafe_options.check(options, {})
        assert unsafe_options.of_other_addons(options) == ["http4"]


def test_r76_a_replay_is_refused_with_all_that_goes_with_it(tmp_path: Path) -> None:
    """Whoever could answer in the gate's place; the file is never looked at."""
    with (tmp_path / "dump").open("wb") as dump:
        FlowWriter(dump).add(tflow.tflow(resp=True))
    settings = {"server_replay": tmp_path / "dump", "server_replay_extra": "204", "server_replay_kill_extra": "true"}
    settings |= {"server_replay_reuse": "true", "server_replay_refresh": "false", "server_replay_ignore_host": "true"}
    said = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    told = refusal(tmp_path, *said)

    assert sorted(sentence.partition(":")[0] for sentence in told) == sorted(settings)
    assert [sentence.partition(":")[0] for sentence in refusal(tmp_path, "-S", str(tmp_path / "dump"))] == [
        "server_replay"
    ]


def test_r76_modes_past_the_gate_are_refused(tmp_path: Path) -> None:
    modes = ["socks5@18081", "dns@18082", "reverse:tcp://127.0.0.1:1@18083", "upstream:http://127.0.0.1:1@18084"]
    said = [word for mode in modes for word in ("--mode", mode)]

    told = refusal(tmp_path, *said, "--set", "ccflare_upstream=http://127.0.0.1:1")

    assert len(told) == len(modes)
    assert all(sentence.startswith(f"mode: {mode}") for sentence, mode in zip(told, modes, strict=True))


def settled(context: taddons.context) -> SimpleNamespace:
    """The options as they stand, to be changed without what mitmproxy does then."""
    found = context.options._options
    ours = {"ccflare_egress_proxy": "", "ccflare_upstream": "https://api.anthropic.com"}
    return SimpleNamespace(_options=found, **{name: option.current() for name, option in found.items()}, **ours)


@pytest.mark.parametrize("name", ["emudhra", "emudhra_old"])
async def test_r76_an_authority_whose_key_is_public_is_refused(name: str) -> None:
    """Without a process: mitmproxy 12.2 has none of these options."""
    with taddons.context(*default_addons(), loadcore=False) as context:
        options = settled(context)
        options.confdir, options.ccflare_client_ca = "/nowhere", ""
        setattr(options, name, True)
        with pytest.raises(ConfigError, match=f"^{name}: .*key is public"):
            unsafe_options.check(options, {})


@pytest.mark.parametrize("name", ["tls_version_client_min", "tls_version_server_min"])
async def test_r40_old_versions_are_refused(name: str) -> None:
    """Without a process: where OpenSSL has no SSLv3, mitmproxy itself stops at this option."""
    with taddons.context(*default_addons(), loadcore=False) as context:
        options = settled(context)
        options.confdir, options.ccflare_client_ca = "/nowhere", ""
        unsafe_options.check(options, {})
        setattr(options, name, "TLS1_1")
        with pytest.raises(ConfigError, match=f"{name}: TLS 1.2 is the least"):
            unsafe_options.check(options, {})


def test_r40_a_failing_hook_leaves_no_handshake() -> None:
    """Else mitmproxy's own, which asks for no certificate, would follow."""
    client = tflow.tclient_conn()
    data = TlsData(client, Context(client, Options()))

    with pytest.raises(RuntimeError):
        CCFlare().tls_start_client(data)

    connection: Any = data.ssl_conn
    hello = client_hello()
    connection.bio_write(hello)
    with pytest.raises(SSL.Error, match=r"no shared cipher|no suitable"):
        connection.do_handshake()


def client_hello() -> bytes:
    """How any client begins."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def test_r40_an_authority_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    [told] = refusal(tmp_path, "--set", f"ccflare_client_ca={tmp_path / 'gone.pem'}")
    assert "cannot be read" in told
    (tmp_path / "junk.pem").write_text("junk")
    (tmp_path / "junk.pem").chmod(0o600)
    [told] = refusal(tmp_path, "--set", f"ccflare_client_ca={tmp_path / 'junk.pem'}")
    assert "holds no certificates" in told


# --- R52: dumps -------------------------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_r52_dumps_are_the_owners_alone(api: FakeUpstream, start_proxy: StartProxy, tmp_path: Path) -> None:
    """A new one, one that was there and is emptied, one that a pattern names, and a HAR file."""
    emptied = tmp_path / "flows"
    emptied.write_bytes(b"old")
    emptied.chmod(0o644)
    for named in (str(emptied), str(tmp_path / "%Y" / "flows")):
        proxy = start_proxy(api, arguments=["-w", named], hardump=str(tmp_path / "flows.har"))
        assert ask(proxy).status == 200
        proxy.stop()

    written = [path for path in tmp_path.rglob("flows*") if path.is_file() and path.stat().st_size]
    assert len(written) == 3
    assert {mode_of(path) for path in written} == {0o600}


def test_r52_a_dump_that_others_can_read_is_not_added_to(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(b"old")
    shared.chmod(0o640)

    told = refusal(tmp_path, "-w", f"+{shared}", "--set", f"hardump={shared}")

    assert [sentence.partition(":")[0] for sentence in told] == ["save_stream_file", "hardump"]
    assert (shared.read_bytes(), mode_of(shared)) == (b"old", 0o640)


def test_r52_a_dump_that_belongs_to_another_user_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs as root can open it, whatever its mode is."""
    with (tmp_path / "flows").open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        dumps.claim(file)
        monkeypatch.setattr(os, "geteuid", lambda: os.fstat(file.fileno()).st_uid + 1)
        with pytest.raises(OSError, match="belongs to another user"):
            dumps.claim(file)


def test_r52_private_keys_and_trust_are_the_owners_alone(tmp_path: Path) -> None:
    chain = Authority(tmp_path).issue("localhost", server=True)
    chain.chmod(0o640)
    trusted = Authority(tmp_path, "trusted").file
    trusted.chmod(0o664)

    told = refusal(
        tmp_path,
        "--certs",
        str(chain),
        *(f"--set=ssl_verify_upstream_trusted_ca={trusted}", f"--set=ccflare_client_ca={trusted}"),
    )

    assert sorted(sentence.partition(":")[0] for sentence in told) == [
        "ccflare_client_ca",
        "certs",
        "ssl_verify_upstream_trusted_ca",
    ]
