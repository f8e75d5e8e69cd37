"""Whatever breaks inside, nothing goes upstream that should not, and nobody is left hanging."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.accounts.account import Kind
from fake_upstream import FakeUpstream, Gate, sse
from harness import ADDON, Http2Client, Proxy, RawClient, Reply, Truncated, claude_request, eventually
from rig import Rig

# Loaded beside our addon: whatever the file `broken` names raises, in all that runs, from then on.
SABOTEUR = '''
import functools
import importlib
from pathlib import Path

from mitmproxy import ctx

BROKEN = Path(__file__).with_name("broken")
PLACES = Path(__file__).with_name("places").read_text().split()


class Saboteur:
    """Wraps each place; async functions are left alone."""

    def running(self):
        for place in PLACES:
            path, _, name = place.rpartition(".")
            if path == "addon":
                owner = type(ctx.master.addons.get("ccflare"))
            else:
                module, _, inner = path.partition(":")
                owner = importlib.import_module(module)
                owner = getattr(owner, inner) if inner else owner
            setattr(owner, name, self.wrap(place, getattr(owner, name)))

    def wrap(self, place, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if BROKEN.read_text() == place:
                raise RuntimeError(f"sabotage of {place}")
            return function(*args, **kwargs)

        return wrapped


addons = [Saboteur()]
'''

# Obeys headers of the request: what a careless or hostile second addon could do.
MEDDLER = """
from mitmproxy import http


class Meddler:
    def requestheaders(self, flow):
        if "x-stream" in flow.request.headers:
            flow.request.stream = True
        if "x-early-port" in flow.request.headers:
            flow.request.host, flow.request.port = "127.0.0.1", int(flow.request.headers["x-early-port"])

    def request(self, flow):
        headers = flow.request.headers
        if "x-late-port" in headers:
            flow.request.port = int(headers["x-late-port"])
        if "x-late-host" in headers:
            flow.request.host = headers["x-late-host"]
        if "x-late-scheme" in headers:
            flow.request.scheme = headers["x-late-scheme"]
        if "x-late-path" in headers:
            flow.request.path = headers["x-late-path"]
        if "x-answer" in headers:
            flow.response = http.Response.make(299, b"mine")
        if "x-kill" in headers:
            flow.kill()

    def responseheaders(self, flow):
        if "x-kill-late" in flow.request.headers:
            flow.kill()

    def response(self, flow):
        if "x-raise" in flow.request.headers:
            raise RuntimeError("meddler")


addons = [Meddler()]
"""

BEFORE_UPSTREAM = (
    "addon.next_layer",
    "addon.requestheaders",
    "addon.request",
    "ccflare_mitm.gate.gate:Gate.enter",
    "ccflare_mitm.gate.gate:Gate.state",
    "ccflare_mitm.gate.gate:Gate.apply",
    "ccflare_mitm.gate.gate:Gate.issue_ticket",
    "ccflare_mitm.gate.gate:Gate.find",
    "ccflare_mitm.gate.gate:Gate._open",
    "ccflare_mitm.gate.ticketing:Ticketing.issue",
    "ccflare_mitm.gate.gate.read_request_head",
    "ccflare_mitm.gate.gate.admit",
    "ccflare_core.writer.auditor:Auditor.halted",
    "ccflare_mitm.gate.ticketing.route_of",
    "ccflare_mitm.gate.gate.aim",
    "ccflare_mitm.gate.ticketing.read_facts",
    "ccflare_mitm.wire.layer.adopt",
    "ccflare_mitm.wire.layer:FailoverLayer.make_stream",
    "ccflare_mitm.wire.hooks:HookRunner.run",
    "ccflare_mitm.host.peers:Http1Server.read_body",
    "ccflare_mitm.wire.stream:FailoverStream._read",
    "ccflare_mitm.wire.stream:FailoverStream.make_server_connection",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.begin",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.next_step",
    "ccflare_mitm.wire.upstream_side:UpstreamSide._connect",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.connected",
    "ccflare_mitm.wire.course:Course.enter",
    "ccflare_mitm.wire.course:Course.takes",
    "ccflare_mitm.wire.states:Machine.handles",
    "ccflare_mitm.wire.states:Machine.enter",
    "ccflare_mitm.wire.states:Machine.check",
    "ccflare_mitm.wire.attempt:Attempt.connect",
    "ccflare_mitm.wire.attempt:Attempt.open",
    "ccflare_mitm.wire.attempt:Attempt.send",
    "ccflare_core.config.target:UpstreamTarget.by",
    "ccflare_mitm.wire.upstream:UpstreamProof.flaw",
    "ccflare_mitm.wire.attempt.with_credential",
    "ccflare_mitm.host.messages.inject",
    "ccflare_core.exchange.exchanges:Exchanges.begin",
    "ccflare_core.exchange.exchange:Exchange.admit",
    "ccflare_core.exchange.exchange:Exchange.next_step",
    "ccflare_core.accounts.account:Account.credential",
    "ccflare_core.accounts.pool:AccountPool.acquire",
    "ccflare_core.accounts.pool.choose",
    "ccflare_core.exchange.recorder:Recorder.started",
)
CUT_OFF = (  # so early that there is nobody to say why
    "ccflare_mitm.wire.layer.adopt",
    "ccflare_mitm.wire.layer:FailoverLayer.make_stream",
    "ccflare_mitm.wire.hooks:HookRunner.run",
    "ccflare_mitm.host.peers:Http1Server.read_body",
)
AFTER_UPSTREAM = (
    "addon.response",
    "ccflare_mitm.app:App.show",
    "ccflare_mitm.inspector.inspector:Inspector.show",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.hold_head",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.hold_body",
    "ccflare_mitm.wire.upstream_side:UpstreamSide.judge",
    "ccflare_mitm.wire.client_side:ClientSide.deliver",
    "ccflare_mitm.wire.client_side:ClientSide.end_relay",
    "ccflare_mitm.wire.attempt:Attempt.take_head",
    "ccflare_mitm.wire.attempt:Attempt.hold",
    "ccflare_mitm.wire.attempt:Attempt.evidence",
    "ccflare_mitm.wire.attempt:Attempt.close",
    "ccflare_mitm.wire.attempt.read_head",
    "ccflare_mitm.wire.relay:Relay.begin",
    "ccflare_mitm.wire.relay:Relay.chunk",
    "ccflare_mitm.wire.relay:Relay.end",
    "ccflare_core.exchange.exchange:Exchange.judge",
    "ccflare_core.exchange.exchange:Exchange.delivering",
    "ccflare_core.exchange.exchange:Exchange.finish",
    "ccflare_core.anthropic.verdicts.classify",
    "ccflare_core.accounts.pool:AccountPool.report",
    "ccflare_core.accounts.pool:AccountPool.release",
    "ccflare_core.exchange.capture:Capture.add",
    "ccflare_core.exchange.capture:Capture.read",
    "ccflare_core.anthropic.first_content:HeldStream.feed",
    "ccflare_core.exchange.recorder:Recorder.attempted",
    "ccflare_core.exchange.recorder:Recorder.learned",
    "ccflare_core.exchange.recorder:Recorder.finished",
    "ccflare_core.anthropic.pricing:PriceList.cost",
)
AIM = "ccflare_mitm.gate.tunnel_opener:TunnelOpener.aim"
# What gives a lease back cannot do so when it fails itself.
NEVER_GIVEN_BACK = ("ccflare_core.exchange.exchange:Exchange.finish", "ccflare_core.accounts.pool:AccountPool.release")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "saboteur.py").write_text(SABOTEUR)
    (folder / "meddler.py").write_text(MEDDLER)
    (folder / "places").write_text("\n".join(BEFORE_UPSTREAM + AFTER_UPSTREAM + ("addon.error", AIM)))
    (folder / "broken").write_text("")
    return folder


@pytest.fixture(scope="module")
def bench(folder: Path) -> Iterator[Rig]:
    scripts = [word for name in ("saboteur.py", "meddler.py") for word in ("-s", str(folder / name))]
    with FakeUpstream() as upstream, Rig.running(upstream, arguments=scripts, ccflare_drain_seconds=0) as rig:
        yield rig


@pytest.fixture
def rig(bench: Rig, folder: Path) -> Iterator[Rig]:
    bench.renew("a", "b")
    yield bench
    (folder / "broken").write_text("")


def is_whole(rig: Rig) -> bool:
    """Whether a request is served as if nothing had been."""
    reply = rig.ask(session="after the sabotage")
    return reply.status == 200 and reply.events()[-1] == {"type": "message_stop"}


def leases_are_back(rig: Rig) -> bool:
    """Whether no account of this test is in use any more."""
    return not any(account["in_flight"] for account in rig.health().values())


def test_a_server_that_nobody_could_look_at_is_not_connected_to(rig: Rig, folder: Path) -> None:
    (folder / "broken").write_text(AIM)

    reply = rig.ask()

    assert (reply.status, rig.asked) == (502, [])
    assert rig.row()["outcome"] == "upstream_error"


@pytest.mark.parametrize("place", BEFORE_UPSTREAM)
def test_what_fails_before_upstream_keeps_it_from_being_asked(rig: Rig, folder: Path, place: str) -> None:
    (folder / "broken").write_text(place)

    if place in CUT_OFF:
        with pytest.raises((Truncated, ConnectionResetError)):
            rig.ask()
    else:
        reply = rig.ask()
        assert reply.status >= 500
        assert reply.json()["type"] == "error"
        assert reply.header("request-id")
    assert rig.requests == []

    rig.proxy.wait_for_log(f"sabotage of {place}")
    (folder / "broken").write_text("")
    assert is_whole(rig)
    assert eventually(rig.is_idle)


@pytest.mark.parametrize("place", AFTER_UPSTREAM)
def test_what_fails_afterwards_leaves_nobody_hanging(rig: Rig, folder: Path, place: str) -> None:
    (folder / "broken").write_text(place)

    try:
        reply: Reply | None = rig.ask()
    except (Truncated, ConnectionResetError):
        reply = None

    assert reply is None or reply.status >= 500 or reply.events()[-1] == {"type": "message_stop"}
    assert set(rig.asked) <= {"a", "b"}
    rig.proxy.wait_for_log(f"sabotage of {place}")  # which may come after all that the client gets
    (folder / "broken").write_text("")
    assert is_whole(rig)
    if place not in NEVER_GIVEN_BACK:
        assert eventually(lambda: leases_are_back(rig))


def test_a_failing_error_hook_still_closes_the_upstream(rig: Rig, folder: Path) -> None:
    gate = Gate()
    rig.script("a", sse(gate=gate))
    (folder / "broken").write_text("addon.error")
    with rig.client() as client:
        rig.send(client)
        assert client.read_head().status == 200

    (request,) = rig.requests
    rig.upstream.wait_until(lambda: request.aborted)
    assert rig.row()["outcome"] == "client_abort"


def test_on_http2_the_other_requests_go_on(folder: Path) -> None:
    scripts = ["-s", str(folder / "saboteur.py")]
    gate = Gate()
    with FakeUpstream(tls=True, http2=True) as upstream, Rig.running(upstream, arguments=scripts) as rig:
        rig.fresh("a", kind=Kind.API_KEY)
        rig.script("a", sse(["slow"], gate=gate))
        with Http2Client.via_connect(rig.proxy, "localhost", upstream.port) as client:
            slow = client.send_request(*claude_request(3000))
            assert client.read_head(slow).status == 200
            (folder / "broken").write_text("ccflare_core.exchange.exchange:Exchange.next_step")
            reply = client.request(*claude_request(3000))
            (folder / "broken").write_text("")
            gate.open()

            assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
            assert client.read_body(slow).endswith(b'"message_stop"}\n\n')
            assert client.request(*claude_request(3000)).status == 200
    assert rig.asked == ["a", "a"]


# Other addons


@pytest.fixture
def elsewhere() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


def meddled(rig: Rig, header: str, value: object = 1, **options: object) -> Reply:
    return rig.ask(extra=[(header.encode(), str(value).encode())], **options)


def test_a_destination_changed_after_the_gate_gets_nothing(rig: Rig, elsewhere: FakeUpstream) -> None:
    reply = meddled(rig, "x-late-port", elsewhere.port)

    assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
    assert elsewhere.requests == rig.requests == []
    assert rig.row()["outcome"] == "refused"


def test_a_destination_changed_before_the_ticket_gets_no_account(rig: Rig, elsewhere: FakeUpstream) -> None:
    reply = meddled(rig, "x-early-port", elsewhere.port)

    assert reply.status in (200, 403, 500)
    assert not {request.credential for request in elsewhere.requests} & {rig.secret("a"), rig.secret("b")}
    assert rig.requests == []


@pytest.mark.parametrize(("field", "value"), [("host", "localhost"), ("host", "127.0.0.2"), ("scheme", "https")])
def test_an_upstream_by_another_name_gets_nothing(rig: Rig, field: str, value: str) -> None:
    reply = meddled(rig, f"x-late-{field}", value)

    assert (reply.status, rig.requests) == (500, [])
    assert eventually(lambda: leases_are_back(rig))


def test_a_request_that_is_sent_on_before_it_was_read_has_no_ticket(rig: Rig) -> None:
    reply = meddled(rig, "x-stream")

    assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
    assert rig.requests == []


def test_a_path_changed_after_the_gate_gets_no_account(rig: Rig) -> None:
    reply = meddled(rig, "x-late-path", "/v1/code/sessions")

    assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
    assert rig.requests == []


def test_an_answer_of_another_addon_is_the_answer(rig: Rig) -> None:
    reply = meddled(rig, "x-answer")

    assert (reply.status, reply.body, rig.requests) == (299, b"mine", [])
    assert (rig.row()["outcome"], rig.row()["account"]) == ("refused", None)


@pytest.mark.parametrize("header", ["x-kill", "x-kill-late"])
def test_a_killed_flow_ends_and_is_recorded(rig: Rig, header: str) -> None:
    with pytest.raises((Truncated, ConnectionResetError)):
        meddled(rig, header)

    assert rig.row()["outcome"] != "ok"
    assert is_whole(rig)


def test_an_addon_that_raises_does_not_disturb_ours(rig: Rig) -> None:
    assert meddled(rig, "x-raise").status == 200
    assert rig.row()["outcome"] == "ok"


# The script itself


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the program's folder, to be broken."""
    shutil.copytree(ADDON.parent, tmp_path / "addon", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "addon"


def test_edits_and_deletion_of_the_script_leave_the_gate_closed(copy: Path, upstream: FakeUpstream) -> None:
    script, folder = copy / ADDON.name, copy.parent / "proxy"
    database = folder / "home" / "data" / "ccflare.db"
    proxy = Proxy(
        upstream, folder=folder, script=script, ccflare_database=database, ccflare_hold_seconds=0, keep_host_header=None
    )
    proxy.add_api_key("work", "sk-ant-api03-work")
    refused = claude_request(3000, target="http://example.com/")
    with proxy:
        for damage in (Path.touch, _break, _empty, _delete):
            damage(script)
            time.sleep(1.2)  # mitmproxy looks at its scripts once a second
            with RawClient("127.0.0.1", proxy.port) as client:
                assert client.request(*claude_request(3000)).status == 200
                assert client.request(*refused).status == 403

    assert {request.credential for request in upstream.requests} == {"sk-ant-api03-work"}
    assert len(upstream.requests) == 4


def _break(script: Path) -> None:
    script.write_text("this is no Python\n")


def _empty(script: Path) -> None:
    script.write_text("addons = []\n")


def _delete(script: Path) -> None:
    script.unlink()
    shutil.rmtree(script.parent)


def test_the_scripts_option_cannot_take_the_gate_away(rig: Rig, folder: Path) -> None:
    """What the options editor of mitmweb or a command can do."""
    script = folder / "unloader.py"
    script.write_text(
        "from mitmproxy import command, ctx\n\n\n"
        "class Unloader:\n"
        "    def requestheaders(self, flow):\n"
        '        if "x-unload" in flow.request.headers:\n'
        "            ctx.options.scripts = []\n\n\n"
        "addons = [Unloader()]\n"
    )
    with Rig.running(rig.upstream, arguments=["-s", str(script)]) as other:
        other.fresh("a", kind=Kind.API_KEY)
        meddled(other, "x-unload")
        time.sleep(0.2)
        other.ask()

        assert set(other.asked) <= {"a"}
