"""The fake upstream does what its script says, so that a test of ours that fails means us."""

import base64
import hashlib
import socket
import ssl
import subprocess
import sys
import time
import zlib
from pathlib import Path
from urllib.parse import urlencode

import brotli
import pytest

import zstd_kit
from fake_upstream import (
    MESSAGES,
    TOKEN,
    Answer,
    FakeUpstream,
    Gate,
    bare_429,
    cut_after,
    cut_midway,
    encoded,
    failure,
    garbage,
    limit_after,
    limited_5h,
    limited_only_windows,
    message_json,
    model_bucket,
    out_of_credits,
    overloaded,
    reset_before_head,
    short_throttle,
    sse,
    sse_answer,
    sse_error_first,
    sse_error_midway,
    stall_before_head,
    stall_midway,
)
from harness import Http2Client, RawClient, Reply, Truncated, claude_request, trusting

BEARER = (b"Authorization", b"Bearer sk-ant-oat01-a")
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")


def ask(upstream: FakeUpstream, **options: object) -> Reply:
    """What a fresh connection gets for a Claude Code request."""
    with RawClient("127.0.0.1", upstream.port) as client:
        return client.request(*claude_request(3000, **options))  # type: ignore[arg-type]


def deltas(reply: Reply) -> list[str]:
    return [event["delta"]["text"] for event in reply.events() if event["type"] == "content_block_delta"]


def test_streams_a_whole_message_by_itself(upstream: FakeUpstream) -> None:
    reply = ask(upstream, model="claude-haiku-4-5-20251001")

    kinds = [event["type"] for event in reply.events()]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert reply.events()[0]["message"]["model"] == "claude-haiku-4-5-20251001"
    assert reply.header("anthropic-ratelimit-requests-remaining") == "3999"


def test_answers_without_stream_count_tokens_and_unknown_paths(upstream: FakeUpstream) -> None:
    with RawClient("127.0.0.1", upstream.port) as client:
        whole = client.request(*claude_request(3000, stream=False))
        counted = client.request("POST", "/v1/messages/count_tokens", (), b"{}")
        lost = client.request("GET", "/nowhere")
        head = client.request("HEAD", "/")

    assert whole.json()["usage"]["output_tokens"] == 10
    assert counted.json() == {"input_tokens": 2095}
    assert (lost.status, lost.json()["request_id"]) == (404, lost.header("request-id"))
    assert (head.status, head.body) == (200, b"")
    assert upstream.connections == 1


def test_logs_each_request_as_it_came(upstream: FakeUpstream) -> None:
    request = claude_request(100_000, credential=BEARER)
    with RawClient("127.0.0.1", upstream.port) as client:
        reply = client.request(*request)

    (logged,) = upstream.wait_for(1)
    assert (logged.method, logged.path, logged.credential) == ("POST", MESSAGES, "sk-ant-oat01-a")
    assert logged.body == request.body
    assert logged.headers[-len(request.headers) :] == request.headers
    assert logged.id == reply.header("request-id")
    assert (logged.finished, logged.aborted) == (True, False)


def test_scripts_by_credential_and_path_queue_before_standing(upstream: FakeUpstream) -> None:
    upstream.answer(overloaded(), failure(502, html=True), credential="sk-ant-oat01-a")
    upstream.always(limited_5h(time.time() + 60), path=MESSAGES)
    upstream.always(lambda request: None if b"Say hello" in request.body else bare_429(), credential="b")

    statuses = [ask(upstream, credential=BEARER).status for _ in range(3)]
    others = [ask(upstream, credential=(b"x-api-key", b"b")).status]

    assert (statuses, others) == ([529, 502, 429], [429])


def test_the_limits_are_told_apart_by_their_headers(upstream: FakeUpstream) -> None:
    reset = time.time() + 7835
    upstream.answer(limited_5h(reset, retry_after=7835), limited_only_windows(reset), bare_429())
    upstream.answer(model_bucket(reset, "seven_day_overage_included"), out_of_credits(), short_throttle(3))

    spent, windows, bare, bucket, credits, throttle = (ask(upstream).head for _ in range(6))

    name = "anthropic-ratelimit-unified-"
    assert spent.header(name + "5h-reset") == spent.header(name + "reset") == str(int(reset))
    assert spent.header("retry-after") == "7835"
    assert (windows.header(name + "status"), windows.header(name + "5h-status")) == (None, "rejected")
    assert not [key for key, _ in bare.headers if b"ratelimit" in key or b"retry-after" in key]
    assert (bucket.header(name + "7d_oi-status"), bucket.header(name + "7d-status")) == (
        "rejected",
        "allowed",
    )
    assert credits.header(name + "overage-disabled-reason") == "out_of_credits"
    assert (throttle.header(name + "status"), throttle.header("retry-after")) == ("allowed", "3")


def test_a_gate_holds_the_stream_between_two_chunks(upstream: FakeUpstream) -> None:
    gate = Gate()
    upstream.answer(sse(["one", "two"], gate=gate))
    with RawClient("127.0.0.1", upstream.port) as client:
        client.send_request(*claude_request(3000))
        client.read_head()
        before = [client.read_event() for _ in range(4)]
        assert gate.reached.wait(60)
        assert client.is_silent(0.05)
        gate.open()
        after = client.read_event()

    assert before[-1]
    assert after
    assert (before[-1]["delta"]["text"], after["delta"]["text"]) == ("one", "two")


def test_a_client_that_leaves_is_seen(upstream: FakeUpstream) -> None:
    upstream.answer(sse(gate=Gate()), sse(gate=Gate()))
    for leave in (RawClient.close, RawClient.reset):
        client = RawClient("127.0.0.1", upstream.port)
        client.send_request(*claude_request(3000))
        client.read_head()
        leave(client)

    upstream.wait_until(lambda: [request.aborted for request in upstream.requests] == [True, True])
    upstream.wait_until(lambda: upstream.open_connections == 0)


@pytest.mark.parametrize("answer", [cut_midway(), cut_after(message_json(), 100)])
def test_a_cut_ends_the_body_early(upstream: FakeUpstream, answer: Answer) -> None:
    upstream.answer(answer)

    with pytest.raises(Truncated):
        ask(upstream)


@pytest.mark.parametrize("answer", [reset_before_head(), cut_midway(reset=True)])
def test_a_reset_is_a_reset(upstream: FakeUpstream, answer: Answer) -> None:
    upstream.answer(answer)

    with pytest.raises(ConnectionResetError):
        ask(upstream)


def test_errors_inside_of_a_stream(upstream: FakeUpstream) -> None:
    upstream.answer(sse_error_first("rate_limit_error"), sse_error_midway(after=2))

    first, midway = ask(upstream), ask(upstream)

    assert (first.status, first.events()[0]["error"]["type"]) == (200, "rate_limit_error")
    assert len(deltas(midway)) == 2
    assert midway.events()[-1]["error"]["type"] == "overloaded_error"


def test_stalls_last(upstream: FakeUpstream) -> None:
    upstream.answer(stall_before_head(0.1), stall_midway(0.1), sse(10, delay=0.01))
    started = time.monotonic()

    assert [len(deltas(ask(upstream))) for _ in range(3)] == [5, 3, 10]
    assert time.monotonic() - started > 0.3


def test_garbage_is_no_http(upstream: FakeUpstream) -> None:
    upstream.answer(garbage(b"\x00\x01 nonsense"))
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100) == b"\x00\x01 nonsense"
        assert sock.recv(100) == b""


def test_encodings_can_be_read_at_once(upstream: FakeUpstream) -> None:
    decoders = {
        "gzip": zlib.decompressobj(31).decompress,
        "deflate": zlib.decompressobj().decompress,
        "br": brotli.Decompressor().process,
        "zstd": zstd_kit.decompressor(),
    }
    for encoding, decode in decoders.items():
        upstream.answer(encoded(sse(["one"]), encoding))
        with RawClient("127.0.0.1", upstream.port) as client:
            client.send_request(*claude_request(3000))
            assert client.read_head().header("content-encoding") == encoding
            assert b"message_start" in decode(client.read_chunk())
            assert b"message_stop" in b"".join(decode(chunk) for chunk in iter(client.read_chunk, b""))


def test_a_slow_reader_gets_every_byte(upstream: FakeUpstream) -> None:
    upstream.answer(sse_answer(*[b"x" * 100_000] * 100))
    with RawClient("127.0.0.1", upstream.port) as client:
        client.send_request(*claude_request(3000))
        client.read_head()
        time.sleep(0.2)
        assert len(client.read_body()) == 10_000_000


def test_reads_chunked_and_pipelined_requests_and_refuses_nonsense(upstream: FakeUpstream) -> None:
    with RawClient("127.0.0.1", upstream.port) as client:
        chunked = b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        client.send(chunked + b"GET /v1/models HTTP/1.1\r\n\r\n" + b"nonsense\r\n\r\n")
        statuses = []
        for _ in range(3):
            statuses.append(client.read_head().status)
            client.read_body()

    assert statuses == [200, 200, 400]
    assert upstream.requests[0].body == b"{}"


def test_limits_after_so_many(upstream: FakeUpstream) -> None:
    upstream.always(limit_after(2, time.time() + 60), credential="sk-ant-oat01-a")

    assert [ask(upstream, credential=BEARER).status for _ in range(4)] == [200, 200, 429, 429]


# ---- TLS and HTTP/2


def test_http2_streams_side_by_side(tls_upstream: FakeUpstream) -> None:
    gate = Gate()
    tls_upstream.answer(sse(["held"], gate=gate, gate_at=0), sse(["quick"]))
    with Http2Client.to(tls_upstream) as client:
        held = client.send_request(*claude_request(100_000))
        quick = client.request(*claude_request(3000))
        assert client.read_head(held).status == 200
        gate.open()
        body = client.read_body(held)

    assert deltas(quick) == ["quick"]
    assert b"held" in body
    assert [request.protocol for request in tls_upstream.requests] == ["HTTP/2", "HTTP/2"]


def test_http2_flow_control_cuts_and_aborts(tls_upstream: FakeUpstream) -> None:
    big = sse_answer(*[b"x" * 100_000] * 20)
    tls_upstream.answer(big, cut_midway(stream=True), sse(gate=Gate()), message_json())
    with Http2Client.to(tls_upstream) as client:
        assert len(client.request(*claude_request(3000)).body) == 2_000_000
        with pytest.raises(Truncated):
            client.request(*claude_request(3000))
        left = client.send_request(*claude_request(3000))
        client.read_head(left)
        client.reset_stream(left)
        assert client.request(*claude_request(3000)).status == 200

    assert tls_upstream.requests[2].aborted
    assert tls_upstream.connections == 1


def test_http1_over_tls(tls_upstream: FakeUpstream) -> None:
    context = trusting(tls_upstream.ca_file)
    with RawClient("localhost", tls_upstream.port, tls=context) as client:
        assert client.request(*claude_request(3000)).status == 200


@pytest.mark.parametrize("wrong", [{"expired": True}, {"hosts": ("example.com",)}])
def test_certificates_to_be_refused(wrong: dict[str, object]) -> None:
    with FakeUpstream(tls=True, **wrong) as upstream:  # type: ignore[arg-type]
        with pytest.raises(ssl.SSLCertVerificationError):
            RawClient("localhost", upstream.port, tls=trusting(upstream.ca_file))
        assert upstream.requests == []


# ---- OAuth


def post_token(upstream: FakeUpstream, **fields: str) -> Reply:
    with RawClient("127.0.0.1", upstream.port) as client:
        return client.request("POST", TOKEN, (FORM,), urlencode(fields).encode())


def refresh(upstream: FakeUpstream, token: str) -> Reply:
    return post_token(upstream, grant_type="refresh_token", refresh_token=token)


def test_refresh_tokens_rotate_and_reuse_kills_the_family(upstream: FakeUpstream) -> None:
    _, first = upstream.logins.new_login()
    _, other = upstream.logins.new_login()

    second = refresh(upstream, first).json()["refresh_token"]
    reused = refresh(upstream, first)
    after = refresh(upstream, second)

    assert (reused.status, reused.json()["error"]) == (400, "invalid_grant")
    assert (after.status, after.json()["error"]) == (400, "invalid_grant")
    assert refresh(upstream, other).status == 200


def test_the_token_endpoint_misbehaves_on_demand(upstream: FakeUpstream) -> None:
    _, token = upstream.logins.new_login()
    upstream.logins.gives_refresh_token = False
    upstream.logins.expires_in = "soon"
    upstream.answer(failure(503, html=True), path=TOKEN)

    down, given, again = (refresh(upstream, token) for _ in range(3))

    assert (down.status, given.json()["expires_in"]) == (503, "soon")
    assert "refresh_token" not in given.json()
    assert again.status == 200


def test_a_login_by_code_checks_the_verifier(upstream: FakeUpstream) -> None:
    verifier, same = "v" * 43, {"client_id": "c", "redirect_uri": "https://x/callback", "state": "s"}
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    asked = {**same, "response_type": "code", "code_challenge": challenge, "code_challenge_method": "S256"}

    def log_in(proof: str) -> Reply:
        with RawClient("127.0.0.1", upstream.port) as client:
            pasted = client.request("GET", f"/oauth/authorize?{urlencode(asked)}").body.decode()
        code, _, state = pasted.partition("#")
        assert state == "s"
        return post_token(upstream, grant_type="authorization_code", code=code, code_verifier=proof, **same)

    assert log_in("wrong").json()["error"] == "invalid_grant"
    granted = log_in(verifier).json()
    assert refresh(upstream, granted["refresh_token"]).status == 200


def test_side_calls(upstream: FakeUpstream) -> None:
    with RawClient("127.0.0.1", upstream.port) as client:
        key = client.request("POST", "/api/oauth/claude_cli/create_api_key", (BEARER,))
        usage = client.request("GET", "/api/oauth/usage", (BEARER,))

    assert key.json()["raw_key"].startswith("sk-ant-api03-")
    assert usage.json()["five_hour"]["utilization"] == 21.0


# ---- as a process


def test_serves_as_a_process(tmp_path: Path) -> None:
    script = Path(__file__).parent / "support" / "fake_upstream"
    command = [sys.executable, str(script), "--stop-with-stdin", "--limit", "sk-ant-oat01-a=1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            with RawClient("127.0.0.1", int(process.stdout.readline())) as client:
                request = claude_request(3000, credential=BEARER, target="/v1/messages?fake_events=7&fake_stamped=1")
                served, limited = client.request(*request), client.request(*request)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()

    assert (len(deltas(served)), limited.status) == (7, 429)
    assert 0 < int(deltas(served)[-1].strip("@")) <= time.monotonic_ns()
