"""The gate: how a request came in, where it is sent, and which requests are turned away."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.net.server_spec import ServerSpec
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context

from ccflare_core.clients.credentials import TAKEN
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome, Ticket
from ccflare_core.http.headers import HEAD_BYTES
from ccflare_core.http.origins import Origin, is_loopback
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.ingress import address_of, ingress_of, is_foreign_tunnel
from exchange_kit import Bench
from flow_kit import BODY, asked, client
from guard_kit import SECRET, a_gate, a_key, an_authenticator

UPSTREAM = Origin("https", "api.anthropic.com", 443)
REVERSE = "reverse:https://api.anthropic.com"


def gate_of(bench: Bench) -> Gate:
    return a_gate(bench)


def entered(flow: http.HTTPFlow, bench: Bench | None = None, **options: Any) -> Exchange | None:
    """The exchange of a flow that went through both of the gate's hooks."""
    gate = gate_of(bench or Bench(**options))
    gate.enter(flow)
    gate.issue_ticket(flow)
    return gate.find(flow)


def let_in(flow: http.HTTPFlow, **options: Any) -> Exchange:
    exchange = entered(flow, **options)
    assert exchange is not None
    return exchange


def refusal(flow: http.HTTPFlow) -> tuple[int, str]:
    """The status and the message that a flow was refused with."""
    assert flow.response is not None
    return flow.response.status_code, json.loads(flow.response.content or b"")["error"]["message"]


def target(flow: http.HTTPFlow) -> tuple[str, str, int]:
    return flow.request.scheme, flow.request.host, flow.request.port


# --- the doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "door"),
    [
        (asked(), "base-url"),
        (asked(address=("http", "localhost", 8080)), "base-url"),
        (asked(address=UPSTREAM, tls=True), "https-proxy"),
        (asked(address=UPSTREAM, mode=REVERSE), "reverse"),
        (asked(address=UPSTREAM, mode=REVERSE, tls=True), "reverse"),
    ],
)
def test_every_door_leads_to_the_upstream_with_a_lease(flow: http.HTTPFlow, door: str) -> None:
    exchange = let_in(flow)

    assert ingress_of(flow) == exchange.opening.door == door
    assert (target(flow), flow.response) == (UPSTREAM, None)
    assert exchange.ticket is Ticket.LEASE


@pytest.mark.parametrize("forwarding", [True, False])
def test_a_reverse_proxy_is_no_door_for_other_names(forwarding: bool) -> None:
    flow = asked(address=UPSTREAM, mode=REVERSE)
    gate = gate_of(Bench(forward_other_hosts=forwarding))
    flow.request.host_header = "evil.example"
    gate.names.note(flow.request)
    flow.request.host_header = UPSTREAM[1]  # mitmproxy does this before the hook

    gate.enter(flow)

    status, message = refusal(flow)
    assert status == 403
    assert message.startswith("This proxy serves api.anthropic.com only, not evil.example:80;")


@pytest.mark.parametrize(
    "header",
    [
        (b"Origin", b"https://evil.example"),
        (b"Origin", b"null"),
        (b"Origin", b"https://[broken"),
        (b"Origin", b"https://localhost.evil.example"),
        (b"Sec-Fetch-Site", b"cross-site"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
def test_a_page_of_another_site_gets_no_account(header: tuple[bytes, bytes], method: str) -> None:
    flow = asked(method=method, headers=(header,))
    entered(flow)
    assert refusal(flow)[0] == 403


@pytest.mark.parametrize("origin", [b"http://localhost:3000", b"http://127.0.0.1", b"http://[::1]:8080"])
def test_a_page_of_this_machine_does(origin: bytes) -> None:
    assert let_in(asked(headers=((b"Origin", origin), (b"Sec-Fetch-Site", b"same-site")))).ticket is Ticket.LEASE


def test_a_page_may_use_its_own_credential_on_other_paths() -> None:
    flow = asked("/api/oauth/profile", address=UPSTREAM, tls=True, headers=((b"Origin", b"https://claude.ai"),))
    assert let_in(flow).ticket is Ticket.PASS


@pytest.mark.parametrize("port", [443, 80])
def test_the_upstreams_name_in_a_plain_request_is_the_upstream(port: int) -> None:
    flow = asked(address=("http", "API.anthropic.com", port))

    assert let_in(flow).ticket is Ticket.LEASE
    assert target(flow) == UPSTREAM


@pytest.mark.parametrize(
    "address",
    [
        ("http", "example.com", 80),
        ("http", "example.com", 8080),  # a name that DNS rebinding has pointed at us
        ("http", "127.0.0.1", 6379),  # another service of this machine
        ("http", "api.anthropic.com", 8080),
        ("http", "api.anthropic.com.evil.example", 80),
        ("https", "example.com", 443),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/ccflare/health", "/other", "/v1/../x"])
def test_other_hosts_are_refused(address: tuple[str, str, int], path: str) -> None:
    flow = asked(path, address=address)

    exchange = let_in(flow)

    status, message = refusal(flow)
    assert status == 403
    assert message.startswith(f"This proxy serves api.anthropic.com only, not {address[1]}:{address[2]};")
    assert (exchange.outcome, exchange.ticket) == (Outcome.REFUSED, Ticket.NONE)


def test_other_hosts_are_served_without_an_account_if_that_is_wanted() -> None:
    flow = asked(address=("http", "example.com", 80))

    exchange = let_in(flow, forward_other_hosts=True)

    assert exchange.ticket is Ticket.PASS
    assert target(flow) == ("http", "example.com", 80)


def test_with_remote_clients_allowed_our_port_can_be_called_by_any_name() -> None:
    assert let_in(asked(address=("http", "proxy.lan", 8080)), allowed_hosts="proxy.lan").ticket is Ticket.LEASE
    assert let_in(asked(address=("http", "proxy.lan", 8081)), allowed_hosts="proxy.lan").outcome is Outcome.REFUSED


# --- the paths --------------------------------------------------------------------------------------------------------


def test_the_facts_are_read_and_the_bytes_left_alone() -> None:
    flow = asked(body=BODY, headers=((b"X-Claude-Code-Session-Id", b"session-9"),), peer="::1")

    exchange = let_in(flow)

    assert (exchange.facts.model, exchange.facts.session_id) == ("claude-opus-4-8", "session-9")
    assert (exchange.facts.stream, exchange.facts.client) == (True, "::1")
    assert exchange.request_body == flow.request.raw_content == BODY
    assert flow.request.headers["authorization"] == "Bearer the-clients-own"


def test_the_body_stays_encoded_as_it_came() -> None:
    exchange = let_in(asked(body=b"\x1f\x8bnot really", headers=((b"content-encoding", b"gzip"),)))

    assert (exchange.request_body, exchange.request_encoding) == (b"\x1f\x8bnot really", "gzip")


def test_the_row_says_who_asked_for_what_within_bounds_and_without_the_query() -> None:
    flow = asked("/v1/files/" + "x" * 400 + "?secret=1", "M" * 30, headers=((b"user-agent", b"u" * 300),))

    opening = let_in(flow).opening

    assert opening.method == "M" * 20
    assert opening.path == "/v1/files/" + "x" * 290
    assert (opening.user_agent, opening.client) == ("u" * 200, "127.0.0.1")


@pytest.mark.parametrize("path", ["/api/oauth/profile", "/v1/code/sessions", "/v1/mcp_servers", "/"])
def test_other_paths_of_the_upstream_pass_with_the_clients_credential(path: str) -> None:
    flow = asked(path)

    exchange = let_in(flow)

    assert (exchange.ticket, exchange.metered, target(flow)) == (Ticket.PASS, False, UPSTREAM)


@pytest.mark.parametrize("path", ["/v1/files/../messages", "/v1/files/%2e%2e/x", "/v1/files%2fx", "/v1/messages%00"])
def test_a_path_with_two_meanings_is_refused(path: str) -> None:
    flow = asked(path)

    assert let_in(flow).outcome is Outcome.REFUSED
    assert refusal(flow) == (400, "The request's path has dot segments or encoded separators.")


@pytest.mark.parametrize("has_account", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "allow", "message"),
    [
        ("TRACE", "/v1/messages", "POST", "/v1/messages takes POST only, not TRACE."),
        ("PUT", "/v1/messages?beta=true", "POST", "/v1/messages takes POST only, not PUT."),
        ("post", "/v1/messages", "POST", "/v1/messages takes POST only, not post."),
        ("PATCH", "/v1/files/file_1", "GET, DELETE", "/v1/files/{id} takes GET, DELETE only, not PATCH."),
        ("OPTIONS", "/v1/models", "GET", "/v1/models takes GET only, not OPTIONS."),
    ],
)
def test_a_method_that_the_api_does_not_have_is_refused(
    method: str, path: str, allow: str, message: str, has_account: bool
) -> None:
    flow = asked(path, method)

    exchange = let_in(flow, passthrough="auto" if has_account else "always")

    assert (exchange.outcome, exchange.ticket) == (Outcome.REFUSED, Ticket.NONE)
    assert refusal(flow) == (405, message)
    assert flow.response is not None
    assert flow.response.headers["allow"] == allow


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "get"])
@pytest.mark.parametrize("path", ["/", "/api/oauth/profile", "/v1/code/sessions"])
def test_an_odd_method_is_refused_on_every_other_path_too(method: str, path: str) -> None:
    flow = asked(path, method)

    assert let_in(flow).outcome is Outcome.REFUSED
    assert refusal(flow)[0] == 405
    assert flow.response is not None
    assert flow.response.headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("path", ["/v1/messages/", "/V1/messages", "/v1/%256dessages", "/v1/messages;x?beta=true"])
def test_another_spelling_of_a_path_that_gets_an_account_is_refused(path: str) -> None:
    flow = asked(path)

    assert let_in(flow).ticket is Ticket.NONE
    assert refusal(flow) == (400, "This is another spelling of /v1/messages: send it exactly so.")


def test_a_method_that_another_addon_has_changed_gets_no_account() -> None:
    gate, flow = gate_of(Bench()), asked()
    gate.enter(flow)
    flow.request.method = "TRACE"

    gate.issue_ticket(flow)

    exchange = gate.find(flow)
    assert exchange is not None
    assert exchange.ticket is not Ticket.LEASE


@pytest.mark.parametrize(("too_many", "status"), [(0, None), (1, 431)])
def test_a_flood_of_header_fields_is_refused(too_many: int, status: int | None) -> None:
    flow = asked(headers=((b"x", b""),))
    used = sum(len(name) + len(value) for name, value in flow.request.headers.fields)
    flow.request.headers["x"] = "y" * (HEAD_BYTES - used + too_many)

    assert let_in(flow).status == status
    assert (flow.response and flow.response.status_code) == status


@pytest.mark.parametrize(("path", "method"), [("/", "HEAD"), ("/api/hello", "HEAD")])
def test_a_preconnect_is_answered_at_once_and_leaves_no_row(path: str, method: str) -> None:
    bench, flow = Bench(), asked(path, method)

    assert entered(flow, bench) is None
    assert flow.response is not None
    assert (flow.response.status_code, flow.response.content) == (200, b"")
    assert bench.notes.started_ones == []


def test_our_own_pages_are_answered_here() -> None:
    flow = asked("/ccflare/health?x", "GET")

    assert entered(flow) is None
    assert flow.response is not None
    assert flow.response.json()["status"] == "ok"


# --- what a client key limits ---------------------------------------------------------------------------------------


def with_key(flow: http.HTTPFlow, bench: Bench | None = None, **fields: Any) -> Exchange:
    """The exchange of a request that presents a client key with these limits."""
    flow.request.headers["x-api-key"] = SECRET
    gate = a_gate(bench or Bench(), an_authenticator(a_key(**fields)))
    gate.enter(flow)
    gate.issue_ticket(flow)
    exchange = gate.find(flow)
    assert exchange is not None
    return exchange


def test_the_exchange_knows_its_client_key() -> None:
    flow = asked()
    exchange = with_key(flow)

    assert (exchange.opening.client_key, exchange.opening.key) == ("ck_laptop", a_key())
    assert exchange.opening.has_credential  # the client's own, beside the key
    assert flow.request.headers["x-api-key"] == TAKEN.decode()


@pytest.mark.parametrize(
    ("method", "path", "body", "outcome"),
    [
        ("POST", "/v1/messages", BODY, Outcome.REFUSED),
        ("POST", "/v1/complete", BODY, Outcome.REFUSED),
        ("POST", "/v1/messages", b'{"model":"claude-haiku-4-5"}', None),
        ("POST", "/v1/messages", b'{"model":"claude-haiku-4-5","model":"claude-opus-4-8"}', Outcome.REFUSED),
        ("POST", "/v1/messages/count_tokens", b"{}", Outcome.REFUSED),
        ("GET", "/v1/models", b"", None),
        ("POST", "/v1/files", b"bytes", None),
    ],
)
def test_a_key_may_be_for_some_models_only(method: str, path: str, body: bytes, outcome: Outcome | None) -> None:
    flow = asked(path, method, body=body)

    assert with_key(flow, models=("claude-haiku-*",)).outcome == outcome
    if outcome:
        assert refusal(flow) == (403, "This client key may not use this model. It may use claude-haiku-*.")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/v1/messages", 405), ("PATCH", "/v1/messages", 405), ("POST", "/v1/messages/batches/", 400)],
)
def test_no_method_or_spelling_gets_past_a_keys_models(method: str, path: str, status: int) -> None:
    flow = asked(path, method)

    assert with_key(flow, models=("claude-haiku-*",)).ticket is Ticket.NONE
    assert refusal(flow)[0] == status


@pytest.mark.parametrize(("host", "status"), [("proxy.lan", 403), ("127.0.0.1", 200), ("panel.example", 200)])
def test_our_own_pages_are_not_served_under_a_strangers_name(host: str, status: int) -> None:
    flow = asked("/ccflare/health", "GET", ("http", host, 8080))
    entered(flow, allow_remote=True, allowed_origins="http://panel.example:8080")
    assert flow.response is not None
    assert flow.response.status_code == status


def test_r13_one_open_request_too_many_is_told_when_to_come_again() -> None:
    bench = Bench(max_requests=1)
    assert let_in(asked(), max_requests=1).ticket is Ticket.LEASE
    bench.begin()

    flow = asked()
    entered(flow, bench)

    assert refusal(flow) == (503, "Too many requests are open at the moment.")
    assert flow.response is not None
    assert flow.response.headers["retry-after"] == "1"


def test_whose_a_forwarded_request_is() -> None:
    options: dict[str, Any] = {"trusted_proxies": "127.0.0.1", "allow_ips": "127.0.0.0/8"}
    exchange = let_in(asked(headers=((b"X-Forwarded-For", b"127.0.0.7"),)), **options)
    assert (exchange.opening.client, exchange.facts.client) == ("127.0.0.7", "127.0.0.7")

    flow = asked(headers=((b"X-Forwarded-For", b"198.51.100.7"),))
    assert entered(flow, **options) is None
    assert refusal(flow)[0] == 403


def test_an_answer_is_shared_with_the_page_that_may_read_it_and_upstreams_word_does_not_count() -> None:
    flow = asked(headers=((b"Origin", b"https://panel.example"),))
    flow.response = http.Response.make(200, b"", {"Access-Control-Allow-Origin": "*"})

    gate_of(Bench(allowed_origins="https://panel.example")).share(flow)

    assert flow.response.headers.get_all("access-control-allow-origin") == ["https://panel.example"]


def test_a_client_keys_limits_end_with_its_exchanges() -> None:
    bench = Bench()
    gate = a_gate(bench, an_authenticator(a_key(concurrency=1)))

    def ask() -> http.HTTPFlow:
        flow = asked(headers=((b"x-api-key", SECRET.encode()),))
        gate.enter(flow)
        return flow

    first = gate.find(ask())
    assert refusal(ask()) == (429, "The client key laptop has 1 requests open, which is all it may.")
    assert first is not None
    first.finish(Outcome.CLIENT_ABORT)
    assert ask().response is None


# --- what fails closed ------------------------------------------------------------------------------------------------


def test_a_flow_that_the_gate_never_saw_is_not_admitted() -> None:
    gate, flow = gate_of(Bench()), asked()

    gate.issue_ticket(flow)

    assert gate.find(flow) is None


def test_an_error_while_deciding_leaves_no_way_upstream() -> None:
    class Broken(Gate):
        def _reject(self, *_: object, **__: object) -> None:
            raise RuntimeError("broken")

    bench, flow = Bench(), asked("/v1/../x")
    gate = a_gate(bench, kind=Broken)

    with pytest.raises(RuntimeError, match="broken"):
        gate.enter(flow)

    gate.issue_ticket(flow)
    assert gate.find(flow) is None
    assert [e.outcome for e in bench.notes.finished_ones] == [Outcome.REFUSED]


def test_a_request_that_is_not_decided_on_yet_has_no_ticket() -> None:
    gate, flow = gate_of(Bench()), asked()

    gate.enter(flow)

    exchange = gate.find(flow)
    assert exchange is not None
    assert exchange.ticket is Ticket.NONE


@pytest.mark.parametrize("field", ["host", "port", "scheme"])
def test_what_another_addon_has_sent_elsewhere_gets_no_account(field: str) -> None:
    gate, flow = gate_of(Bench()), asked()
    gate.enter(flow)
    setattr(flow.request, field, {"host": "evil.example", "port": 444, "scheme": "http"}[field])

    gate.issue_ticket(flow)

    exchange = gate.find(flow)
    assert exchange is not None
    assert exchange.ticket is Ticket.PASS


def test_what_another_addon_has_answered_gets_no_ticket() -> None:
    gate, flow = gate_of(Bench()), asked()
    gate.enter(flow)
    flow.response = http.Response.make(418)

    gate.issue_ticket(flow)

    exchange = gate.find(flow)
    assert exchange is not None
    assert exchange.ticket is Ticket.NONE


def test_a_client_without_an_address_is_nobody() -> None:
    flow = asked()
    flow.client_conn.peername = None  # type: ignore[assignment]

    assert address_of(flow) == ""


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=30))
def test_no_bytes_of_a_client_raise(path: bytes, value: bytes, body: bytes) -> None:
    flow = asked(body=body, headers=((b"x-claude-code-session-id", value), (b"content-encoding", value)))
    flow.request.data.path = b"/" + path

    exchange = entered(flow)

    assert exchange is None or exchange.ticket is not Ticket.NONE or exchange.outcome is Outcome.REFUSED


# --- tunnels and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "mode", "foreign"),
    [
        (("api.anthropic.com", 443), "regular", False),
        (("API.Anthropic.com", 443), "regular", False),
        (("api.anthropic.com", 8443), "regular", True),
        (("example.com", 443), "regular", True),
        (None, "regular", False),
        (("example.com", 443), REVERSE, False),
    ],
)
def test_only_the_upstreams_own_tunnel_is_opened(address: ServerSpec | None, mode: str, foreign: bool) -> None:
    context = Context(client(mode=mode), Options())
    context.server = Server(address=address)  # type: ignore[arg-type]

    assert is_foreign_tunnel(context, UPSTREAM) is foreign


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"])
def test_names_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.2", "localhost.example", "mylocalhost", "127.0.0.1.a"]
)
def test_names_that_others_decide_on(host: str) -> None:
    assert not is_loopback(host)


# --- what is known of a conversation ----------------------------------------------------------------------------------


def test_what_a_conversation_names_is_found_in_whichever_of_its_turns_it_stands() -> None:
    bench = Bench()
    gate = gate_of(bench)
    said = b'{"model":"claude-opus-4-8","messages":[' + b'{"role":"user","content":"lorem ipsum"},' * 500
    ends = (b"null]}", b'null],"speed":"fast"}', b"null]}", b'null],"container":"container_1"}', b"3]}")

    modes, named = [], []
    for end in ends:
        flow = asked(body=said + end, headers=((b"x-claude-code-session-id", b"s-1"),))
        gate.enter(flow)
        gate.issue_ticket(flow)
        exchange = gate.find(flow)
        assert exchange is not None
        modes.append(exchange.facts.mode)
        named.append([each.text for each in exchange._named.ids])

    assert modes == ["", "fast", "", "", ""]
    assert named == [[], [], [], ["container_1"], []]
