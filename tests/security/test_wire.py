"""What goes over the wire, byte by byte: nothing is smuggled, nothing leaks in either direction, nothing grows."""

import contextlib
import json
import re
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.errors
import pytest

from ccflare_core.accounts.account import Kind
from ccflare_core.anthropic.answers import error, exhausted
from ccflare_core.http.headers import HEAD_FIELDS
from fake_upstream import Answer, FakeUpstream, Gate, Header, Request, Wait, bad_request, cut_midway, message_json, sse
from harness import Http2Client, RawClient, Reply, Truncated, claude_request, connections, eventually, via_connect
from rig import Rig

BODY = b'{"model":"claude-haiku-4-5","messages":[]}'


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    """A proxy with short deadlines, so that what waits for more is over soon."""
    options = {"ccflare_client_body_idle_seconds": 2, "ccflare_open_loopback": True}
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig:
        yield rig
        assert "Traceback" not in rig.proxy.log()


@pytest.fixture
def rig(bench: Rig) -> Rig:
    bench.renew("a", "b")
    return bench


@pytest.fixture
def client(rig: Rig) -> Iterator[RawClient]:
    with rig.client() as client:
        yield client


def assert_strict(request: Request) -> None:
    """The upstream got one request that can be read in one way only."""
    names = Counter(name.lower() for name, _ in request.headers)
    assert names[b"host"] == 1
    assert names[b"content-length"] + names[b"transfer-encoding"] <= 1
    assert names[b"authorization"] + names[b"x-api-key"] == 1
    for name, value in request.headers:
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        assert not re.search(rb"[\r\n\0]", value)


def conclude(client: RawClient) -> Reply | None:
    """The answer; None if the connection is closed without one."""
    with contextlib.suppress(Truncated, ConnectionResetError):
        head = client.read_head()
        return Reply(head.status, head, client.read_body())
    return None


# R60: smuggling. Each is refused, or reaches the upstream as exactly one request.

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
SMUGGLED = b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nx-smuggled: 1\r\nContent-Length: 2\r\n\r\n{}"

REFUSED = {
    "CL.TE": LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE.CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED,
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "two equal lengths": LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": b"Content-Length: -2\r\n\r\n{}",
    "a length with a blank": b"Content-Length: 4 2\r\n\r\n{}",
    "a length in hex": b"Content-Length: 0x2\r\n\r\n{}",
    "a length with a leading zero": b"Content-Length: 02\r\n\r\n{}",
    "a length with an underscore": b"Content-Length: 1_0\r\n\r\n{}",
    "a length of 100 digits": b"Content-Length: 1" + b"0" * 99 + b"\r\n\r\n{}",
    "an empty transfer coding": b"Transfer-Encoding:\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "identity, chunked": b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "deflate in another spelling": b"transfer-encoding: DEFLATE\t,\tCHUNKED\r\n\r\n" + CHUNKED,
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked in quotes": b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKED,
    "chunked with a parameter": b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNKED,
    "a coding folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "a coding with a non-ASCII letter": "Transfer-Encoding: chun\u212aed\r\n\r\n".encode() + CHUNKED,
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n\r\n" + CHUNKED,
    "a control byte in the name": b"Transfer\x0b-Encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY,
    "a folded first field": b" X-A: 1\r\n" + LENGTH + b"\r\n" + BODY,
    "a line without a colon": b"X-A\r\n" + LENGTH + b"\r\n" + BODY,
    "an empty name": b": 1\r\n" + LENGTH + b"\r\n" + BODY,
    "two hosts": b"Host: 127.0.0.1\r\n" + LENGTH + b"\r\n" + BODY,
    "a chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk's size of 40 digits": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}",
    "a chunk's size with a sign": b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size with a blank in front": b"Transfer-Encoding: chunked\r\n\r\n 2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size of the greatest number": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    "a chunk's end of a bare LF": b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
}
FORWARDED = {
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "CHUNKED": b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKED,
    "a tab before chunked": b"Transfer-Encoding:\tchunked\r\n\r\n" + CHUNKED,
    "a vertical tab before chunked": b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "chunk extensions": b"Transfer-Encoding: chunked\r\n\r\n%x;a=b;c\r\n%s\r\n0;d\r\n\r\n" % (len(BODY), BODY),
    "a size with leading zeros": b"Transfer-Encoding: chunked\r\n\r\n000%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a trailer with a credential": (
        b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"Authorization: Bearer of-the-client\r\n\r\n"
    ),
    "a trailer with a length": b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"Content-Length: 9\r\n\r\n",
    "lines that end in a bare LF": LENGTH.replace(b"\r\n", b"\n") + b"X-A: 1\n\n" + BODY,
    "blanks around a length": b"Content-Length:   %d \t\r\n\r\n" % len(BODY) + BODY,
    "a length that Connection names": b"Connection: content-length\r\n" + LENGTH + b"\r\n" + BODY,
    "a name that only looks like it": b"Content_Length: 1\r\nTransfer_Encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY,
}


def start(rig: Rig, line: bytes = b"POST /v1/messages HTTP/1.1", host: bytes = b"") -> bytes:
    """The first two lines of a request."""
    return line + b"\r\nHost: " + (host or b"127.0.0.1:%d" % rig.proxy.port) + b"\r\n"


@pytest.mark.parametrize("name", REFUSED)
def test_r60_what_can_be_read_in_two_ways_reaches_nobody(rig: Rig, client: RawClient, name: str) -> None:
    client.send(start(rig) + REFUSED[name])
    reply = conclude(client)

    assert reply is None or 400 <= reply.status < 500
    assert reply is None or reply.json()["type"] == "error"
    assert rig.requests == []
    assert rig.upstream.malformed == []


@pytest.mark.parametrize("name", FORWARDED)
def test_r60_what_is_forwarded_can_be_read_in_one_way_only(rig: Rig, client: RawClient, name: str) -> None:
    client.send(start(rig) + FORWARDED[name])
    reply = conclude(client)

    assert reply is not None
    assert reply.status == 200
    (request,) = rig.requests
    assert request.body == BODY
    assert_strict(request)
    assert rig.upstream.malformed == []


LINES = {
    "a bare CR": b"POST /v1/messages\rX HTTP/1.1",
    "a NUL": b"POST /v1/mess\0ages HTTP/1.1",
    "four words": b"POST /v1/messages /x HTTP/1.1",
    "a method with a colon": b"PO:ST /v1/messages HTTP/1.1",
    "a long method": b"P" * 30 + b" /v1/messages HTTP/1.1",
    "a long target": b"POST /v1/messages?" + b"x" * 20_000 + b" HTTP/1.1",
    "version 1.7": b"POST /v1/messages HTTP/1.7",
    "version 2.0": b"POST /v1/messages HTTP/2.0",
    "version 0.9": b"POST /v1/messages",
    "no target": b"POST  HTTP/1.1",
    "another scheme": b"POST ftp://127.0.0.1/v1/messages HTTP/1.1",
}


@pytest.mark.parametrize("name", LINES)
def test_r60_a_first_line_that_makes_no_sense_reaches_nobody(rig: Rig, client: RawClient, name: str) -> None:
    client.send(start(rig, LINES[name]) + LENGTH + b"\r\n" + BODY)
    reply = conclude(client)

    assert reply is None or 400 <= reply.status < 500
    assert rig.requests == []


def test_r60_the_target_of_a_request_goes_before_its_host(rig: Rig, client: RawClient) -> None:
    line = f"POST {rig.upstream.url}/v1/messages HTTP/1.1".encode()
    client.send(start(rig, line, host=b"evil.example") + LENGTH + b"\r\n" + BODY)
    reply = conclude(client)

    assert reply is not None
    assert reply.status == 200
    assert rig.requests[0].header_values("host") == [f"127.0.0.1:{rig.upstream.port}"]


def test_r60_there_are_not_too_many_fields(rig: Rig, client: RawClient) -> None:
    many: tuple[Header, ...] = tuple((b"X-%d" % number, b"1") for number in range(HEAD_FIELDS + 1))
    reply = client.request("POST", "/v1/messages", many, BODY)

    assert (reply.status, reply.json()["error"]["type"]) == (431, "request_too_large")
    assert rig.requests == []


def test_r60_a_client_that_asks_first_is_told_to_go_on(rig: Rig, client: RawClient) -> None:
    client.send(start(rig) + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n")
    assert client.detach().recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)

    assert client.read_head().status == 200
    assert rig.requests[0].body == BODY
    assert rig.requests[0].header("expect") is None


# R46: what goes no further than to us

LOCAL: tuple[Header, ...] = (
    (b"Connection", b"close, X-Named, Keep-Alive"),
    (b"X-Named", b"1"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Authorization", b"Basic c2VjcmV0"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"X-CCFlare-Anything", b"1"),
)
OF_THE_CLIENT: tuple[Header, ...] = (
    (b"Cookie", b"session=secret"),
    (b"Forwarded", b"for=10.9.8.7"),
    (b"X-Forwarded-For", b"10.9.8.7"),
    (b"X-Forwarded-Host", b"internal.example"),
    (b"X-Real-IP", b"10.9.8.7"),
    (b"Via", b"1.1 internal.example"),
    (b"TE", b"trailers"),
    (b"Trailer", b"X-Sum"),
    (b"Upgrade", b"h2c"),
    (b"anthropic-workspace-id", b"wrkspc_011CZkZaBF1tNoB5wlCeusgy"),
    (b"anthropic-user-profile-id", b"uprof_011CZkZaBF1tNoB5wlCeusgy"),
)


@pytest.fixture(scope="module")
def key(bench: Rig) -> Header:
    """What it takes to be served when something stands in between, as Forwarded and Via tell."""
    key = (b"Authorization", b"Bearer " + bench.proxy.add_client_key("remote").encode())

    def status() -> int:
        with bench.client() as client:
            return client.request("GET", "/v1/models", (key, (b"Via", b"1.1 x"))).status

    eventually(status, lambda status: status == 200)
    return key


def test_r46_an_account_is_told_nothing_of_the_client(rig: Rig, client: RawClient, key: Header) -> None:
    genuine = claude_request(3000, session=rig.session, credential=key)
    fields = (*genuine.headers, *LOCAL, *OF_THE_CLIENT)
    assert client.request(genuine.method, genuine.target, fields, genuine.body).status == 200

    sent = {name.lower() for name, _ in rig.requests[0].headers}
    assert sent & {name.lower() for name, _ in (*LOCAL, *OF_THE_CLIENT)} == {b"connection"}
    assert rig.requests[0].header_values("connection") == ["keep-alive", "keep-alive"]
    assert_strict(rig.requests[0])


def test_r46_with_its_own_credential_a_client_may_say_what_it_likes(rig: Rig, client: RawClient, key: Header) -> None:
    client.request("GET", "/api/oauth/profile", (key, *LOCAL, *OF_THE_CLIENT))

    sent = {name.lower() for name, _ in rig.upstream.requests[-1].headers}
    assert not sent & {b"x-named", b"keep-alive", b"proxy-authorization", b"x-ccflare-anything", b"upgrade"}
    assert sent >= {b"cookie", b"via", b"x-forwarded-for", b"anthropic-workspace-id", b"anthropic-user-profile-id"}


OF_THE_ACCOUNT: tuple[Header, ...] = (
    (b"Set-Cookie", b"__cf_bm=secret"),
    (b"anthropic-organization-id", b"3f1c1f0e-0000-4000-8000-00000000cafe"),
    (b"anthropic-workspace-id", b"wrkspc_011CZkZaBF1tNoB5wlCeusgy"),
    (b"Alt-Svc", b'h3=":443"'),
    (b"Upgrade", b"h2c"),
)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_r46_the_client_is_told_nothing_of_the_account(rig: Rig, client: RawClient, stream: bool) -> None:
    whole = sse() if stream else message_json()
    rig.script("a", Answer(200, (*whole.headers, *LOCAL, *OF_THE_ACCOUNT, (b"X-Kept", b"1")), whole.chunks))
    reply = client.request(*claude_request(3000, session=rig.session, stream=stream))

    told = {name.lower() for name, _ in reply.head.headers}
    assert told & {name.lower() for name, _ in (*LOCAL, *OF_THE_ACCOUNT)} == {b"connection"}
    assert told >= {b"x-kept", b"request-id", b"anthropic-ratelimit-unified-status"}


# R27: values of ours

CONTROL = "".join(map(chr, [*range(0x21), 0x7F, 0x85, 0x2028]))


def test_r27_no_value_of_ours_can_begin_another_line() -> None:
    for answer in (
        error(503, f"no {CONTROL}", request_id="req_1", retry_after=1, detail=CONTROL),
        exhausted([(CONTROL, CONTROL, None)], 1.5, now=0.0, request_id="req_1"),
    ):
        assert not [field for field in answer.headers for part in field if re.search(rb"[\x00-\x1f\x7f]", part)]
        assert json.loads(answer.body)["type"] == "error"


@pytest.mark.parametrize("bad", ["\r\nx-injected: 1", "\n", "\0", " ", "\u00e9"])
def test_r27_a_secret_that_is_no_value_is_never_sent(bench: Rig, bad: str) -> None:
    bench.fresh("a", kind=Kind.API_KEY, api_key=f"sk-ant-api03-x{bad}y")
    reply = bench.ask()

    assert reply.status == 503
    assert bench.requests == []


# R66: what an upstream answers

BYTES = json.dumps({"type": "message"}).encode()


def raw(*lines: bytes, body: bytes = BYTES, status: bytes = b"200 OK") -> Answer:
    """An answer of just these bytes."""
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Type: application/json", *lines])
    return Answer(chunks=(head + b"\r\n\r\n" + body,), raw=True)


LENGTH_OF_BYTES = b"Content-Length: %d" % len(BYTES)
UNFIT = {
    "TE and CL": raw(b"Transfer-Encoding: chunked", LENGTH_OF_BYTES, body=b"0\r\n\r\n"),
    "two lengths": raw(LENGTH_OF_BYTES, b"Content-Length: 1"),
    "a length with a sign": raw(b"Content-Length: +2"),
    "an unknown coding": raw(b"Transfer-Encoding: xchunked"),
    "a bare CR in a value": raw(LENGTH_OF_BYTES, b"X-A: a\rX-B: b"),
    "a folded field": raw(LENGTH_OF_BYTES, b"X-A: a\r\n b"),
    "a NUL in a value": raw(LENGTH_OF_BYTES, b"X-A: a\0b"),
    "a blank before the colon": raw(LENGTH_OF_BYTES, b"X-A : b"),
    "too many fields": raw(LENGTH_OF_BYTES, *[b"X-A: 1"] * HEAD_FIELDS),
    "a large head": raw(LENGTH_OF_BYTES, b"X-A: " + b"y" * 70_000),
    "a head without an end": Answer(chunks=(b"HTTP/1.1 200 OK\r\nX-A: " + b"y" * 200_000, Wait(30)), raw=True),
    "a switch that nobody asked for": raw(b"Upgrade: h2c", b"Connection: upgrade", status=b"101 Switching", body=b""),
    "no HTTP": Answer(chunks=(b"SSH-2.0-OpenSSH_9.9\r\n\r\n",), raw=True),
}


@pytest.mark.parametrize("name", UNFIT)
def test_r66_an_answer_that_is_none_is_a_failure_and_never_seen(rig: Rig, client: RawClient, name: str) -> None:
    rig.script("a", UNFIT[name], UNFIT[name])
    reply = client.request(*claude_request(3000, session=rig.session, stream=False))

    assert reply.status == 200  # of the other account
    assert rig.asked == ["a", "a", "b"]
    assert rig.row()["outcome"] == "ok"
    assert rig.kinds() == ["upstream_failure", "upstream_failure", "ok"]


def test_r66_if_all_answers_are_none_the_client_gets_a_502(rig: Rig, client: RawClient) -> None:
    for name in "ab":
        rig.script(name, always=UNFIT["TE and CL"])
    reply = client.request(*claude_request(3000, session=rig.session, stream=False))

    assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
    row = rig.row()
    assert (row["outcome"], row["status_code"]) == ("upstream_error", 502)
    assert "read in two ways" in row["error_message"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_r66_what_comes_before_the_answer_is_not_the_answer(rig: Rig, client: RawClient, stream: bool) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3000
    whole = sse() if stream else message_json()
    rig.script("a", Answer(whole.status, whole.headers, whole.chunks, before=(*interim, Wait(0.05))))
    for _ in range(2):
        reply = client.request(*claude_request(3000, session=rig.session, stream=stream))
        assert reply.status == 200
        assert reply.body == b"".join(chunk for chunk in whole.chunks if isinstance(chunk, bytes)) or _

    assert [row["outcome"] for row in rig.rows(2)] == ["ok", "ok"]
    assert rig.requests[0].connection == rig.requests[1].connection


def test_r66_trailers_of_an_answer_are_left_out(rig: Rig, client: RawClient) -> None:
    chunk = b"%x\r\n%s\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n" % (len(BYTES), BYTES)
    rig.script("a", raw(b"Transfer-Encoding: chunked", body=chunk))
    reply = client.request(*claude_request(3000, session=rig.session, stream=False))

    assert (reply.status, reply.body) == (200, BYTES)
    assert rig.row()["outcome"] == "ok"
    assert rig.ask().status == 200


# R64: how it ended


def test_r64_every_request_has_one_outcome_whatever_its_end(rig: Rig) -> None:
    began = int(time.time() * 1000)
    gate = Gate()
    rig.script("a", sse(), sse(gate=gate), message_json(), bad_request(), cut_midway())
    assert rig.ask().status == 200  # whole
    with rig.client() as leaving:
        rig.send(leaving)
        assert gate.reached.wait(60)
    with rig.client() as refused:
        refused.send(start(rig) + REFUSED["CL.TE"])
        assert refused.read_head().status == 400
    with rig.client() as slow:
        slow.send(start(rig) + LENGTH + b"\r\n{")
        assert slow.read_head().status == 408
    assert rig.ask(stream=False).status == 200
    assert rig.ask().status == 400
    with pytest.raises((Truncated, ConnectionError)):
        rig.ask()  # cut by the upstream, for which the account rests

    sql = "SELECT outcome FROM requests WHERE timestamp >= ? AND outcome IS NOT NULL ORDER BY timestamp"
    rows = rig.proxy.rows(sql, (began,), until=lambda rows: len(rows) >= 7)
    assert [row["outcome"] for row in rows] == [
        *("ok", "client_abort", "refused", "refused", "ok", "upstream_error", "truncated")
    ]
    eventually(rig.is_idle)


# R13: how many there may be


def test_r13_there_are_not_too_many_clients() -> None:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_client_connections=5) as rig:
        rig.fresh("a")
        eventually(lambda: connections(rig.proxy.port) == 0)  # those that have looked at its health
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(rig.client()) for _ in range(5)]
            assert [client.request(*claude_request(3000)).status for client in clients] == [200] * 5
            for _ in range(3):
                with rig.client() as excess, pytest.raises((Truncated, ConnectionError)):
                    excess.request(*claude_request(3000))
            assert clients[0].request(*claude_request(3000)).status == 200
            rig.proxy.wait_for_log("client connections were refused")
        eventually(lambda: connections(rig.proxy.port) == 0)
        assert rig.ask().status == 200


# R86, R13: HTTP/2


@pytest.fixture(scope="module")
def secure() -> Iterator[Rig]:
    with FakeUpstream(tls=True) as upstream, Rig.running(upstream) as rig:
        rig.fresh("a", "b")
        yield rig
        assert "Traceback" not in rig.proxy.log()


class Frames(NamedTuple):
    """A connection on which frames are sent as they are."""

    socket: socket.socket

    def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def end(self) -> int | None:
        """The code of the GOAWAY with which the other side ends the connection; None if it just closes it."""
        data = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while piece := self.socket.recv(65536):
                data += piece
        while len(data) >= 9:
            size, kind = int.from_bytes(data[:3]), data[3]
            if kind == 7:
                return int.from_bytes(data[13:17])
            data = data[9 + size :]
        return None


@pytest.fixture
def frames(secure: Rig) -> Iterator[Frames]:
    client = via_connect(secure.proxy, "localhost", secure.upstream.port, alpn="h2")
    with client.detach() as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        connection = Frames(sock)
        connection.send(4)
        yield connection


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block that never uses a table."""
    return b"".join(b"\x00%c%s%c%s" % (len(name), name, len(value), value) for name, value in fields)


REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/v1/messages"),
    (b":authority", b"localhost"),
)
FLOODS: dict[str, Any] = {
    "pings": lambda frames, number: frames.send(6, payload=b"12345678"),
    "settings": lambda frames, number: frames.send(4),
    "priorities": lambda frames, number: frames.send(2, 0, 1, b"\0\0\0\0\x10"),
    "unknown frames": lambda frames, number: frames.send(200, 0, 1, b"x"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_r13_a_flood_of_frames_for_nothing_ends_the_connection(frames: Frames, name: str) -> None:
    with contextlib.suppress(ConnectionError):
        for number in range(400):
            FLOODS[name](frames, number)

    assert frames.end() in (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None)


def test_r13_a_client_that_resets_all_it_asks_for_is_cut_off(secure: Rig, frames: Frames) -> None:
    secure.script("a", always=sse(gate=Gate()))
    with contextlib.suppress(ConnectionError):
        for number in range(400):
            frames.send(1, 0x5, 2 * number + 1, block(*REQUEST))
            frames.send(3, 0, 2 * number + 1, struct.pack(">I", 8))

    assert frames.end() in (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None)
    assert eventually(secure.is_idle)
    secure.fresh("a", "b")


def test_r13_no_account_is_blamed_for_a_client_that_breaks_its_streams_and_leaves(secure: Rig, frames: Frames) -> None:
    """More of them than mitmproxy connects for at once, so that some still wait when the client is gone."""
    secure.fresh("a")
    secure.script("a", always=sse(gate=Gate()))
    with contextlib.suppress(ConnectionError):
        for number in range(60):
            frames.send(1, 0x4, 2 * number + 1, block(*REQUEST))
            frames.send(0, 0x1, 2 * number + 1, BODY)
            frames.send(8, 0, 2 * number + 1, struct.pack(">I", 2**31 - 1))
    frames.socket.close()

    assert eventually(secure.is_idle)
    assert secure.rests("a") == []
    secure.fresh("a", "b")


@pytest.mark.parametrize("name", ["continuations", "streams", "a large head"])
def test_r13_what_the_protocol_bounds_is_bounded(secure: Rig, frames: Frames, name: str) -> None:
    with contextlib.suppress(ConnectionError):
        if name == "continuations":
            frames.send(1, 0x1, 1, block(*REQUEST))
            for _ in range(500):
                frames.send(9, 0, 1, block((b"x-a", b"y" * 100)))
        elif name == "streams":
            for number in range(150):
                frames.send(1, 0x4, 2 * number + 1, block(*REQUEST))
        else:
            frames.send(1, 0x5, 1, block(*REQUEST, *[(b"x-a", b"y" * 120)] * 100))
            for _ in range(9):
                frames.send(9, 0x0, 1, block(*[(b"x-a", b"y" * 120)] * 100))
            frames.send(9, 0x4, 1, b"")

    frames.end()  # it ends: nothing waits for more
    assert eventually(secure.is_idle)


H2_HEADS = {
    "a line break in the path": [*REQUEST[:2], (b":path", b"/v1/messages HTTP/1.1\r\nX-A: 1"), REQUEST[3]],
    "a blank in the path": [*REQUEST[:2], (b":path", b"/v1/messages HTTP/1.1"), REQUEST[3]],
    "a line break in the method": [(b":method", b"POST / HTTP/1.1\r\nX: 1"), *REQUEST[1:]],
    "a blank in the method": [(b":method", b"GET /x"), *REQUEST[1:]],
    "a line break in a value": [*REQUEST, (b"x-a", b"1\r\nx-b: 2")],
    "a line break in a name": [*REQUEST, (b"x-a\r\nx-b", b"1")],
    "a colon in a name": [*REQUEST, (b"x-a: 1", b"1")],
    "a capital in a name": [*REQUEST, (b"X-A", b"1")],
    "the path twice": [*REQUEST, (b":path", b"/v1/files")],
    "a pseudo-header behind a field": [*REQUEST[:3], (b"x-a", b"1"), REQUEST[3]],
    "an unknown pseudo-header": [*REQUEST, (b":x", b"1")],
    "a coding": [*REQUEST, (b"transfer-encoding", b"chunked")],
    "a connection": [*REQUEST, (b"connection", b"x-a")],
    "two lengths": [*REQUEST, (b"content-length", b"2"), (b"content-length", b"3")],
    "a length that is none": [*REQUEST, (b"content-length", b"x")],
    "another host": [*REQUEST, (b"host", b"evil.example")],
    "another authority": [*REQUEST[:3], (b":authority", b"evil.example")],
    "no method": list(REQUEST[1:]),
    "a CONNECT": [(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:22")],
}


@pytest.mark.parametrize("name", H2_HEADS)
def test_r60_an_http2_head_that_would_be_two_over_http1_reaches_nobody(secure: Rig, frames: Frames, name: str) -> None:
    seen = len(secure.upstream.requests)
    frames.send(1, 0x5, 1, block(*H2_HEADS[name]))
    frames.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        frames.end()

    assert [request.header("host") for request in secure.upstream.requests[seen:]] in (
        [],
        [f"localhost:{secure.upstream.port}"],
    )
    assert secure.upstream.malformed == []
    for request in secure.upstream.requests[seen:]:
        assert_strict(request)


def test_r60_an_http2_body_has_the_length_that_was_said(secure: Rig, frames: Frames) -> None:
    seen = len(secure.upstream.requests)
    frames.send(1, 0x4, 1, block(*REQUEST, (b"content-length", b"2")))
    frames.send(0, 0x1, 1, b"{}" + SMUGGLED)

    frames.end()
    assert secure.upstream.requests[seen:] == []


SHORT_BODIES: dict[str, list[tuple[int, int, bytes]]] = {
    "a head that is the end": [(1, 0x5, block(*REQUEST, (b"content-length", b"42")))],
    "trailers alone": [(1, 0x4, block(*REQUEST, (b"content-length", b"42"))), (1, 0x5, block((b"x-a", b"1")))],
    "trailers too early": [
        (1, 0x4, block(*REQUEST, (b"content-length", b"42"))),
        (0, 0x0, b"{}"),
        (1, 0x5, block((b"x-a", b"1"))),
    ],
    "a model list with a body": [
        (
            1,
            0x5,
            block((b":method", b"GET"), REQUEST[1], (b":path", b"/v1/models"), REQUEST[3], (b"content-length", b"5")),
        )
    ],
}


@pytest.mark.parametrize("name", SHORT_BODIES)
def test_r60_an_http2_body_that_ends_too_early_reaches_nobody(secure: Rig, frames: Frames, name: str) -> None:
    """h2 compares lengths at DATA frames alone, and an account would be blamed for waiting."""
    seen = len(secure.upstream.requests)
    for kind, flags, payload in SHORT_BODIES[name]:
        frames.send(kind, flags, 1, payload)

    assert frames.end() == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert secure.upstream.requests[seen:] == []
    assert eventually(secure.is_idle)
    assert secure.ask().status == 200


def test_r60_an_http2_file_that_ends_too_early_is_given_up(secure: Rig, frames: Frames) -> None:
    head = block(
        (b":method", b"POST"), REQUEST[1], (b":path", b"/v1/files"), REQUEST[3], (b"content-length", b"2000000")
    )
    frames.send(1, 0x4, 1, head)
    frames.send(0, 0x0, 1, b"x" * 1000)
    frames.send(1, 0x5, 1, block((b"x-a", b"1")))

    assert frames.end() == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert eventually(secure.is_idle)
    assert secure.ask().status == 200


def test_r60_http2_trailers_reach_no_account(secure: Rig, frames: Frames) -> None:
    seen = len(secure.upstream.requests)
    frames.send(1, 0x4, 1, block(*REQUEST))
    frames.send(0, 0, 1, BODY)
    frames.send(1, 0x5, 1, block((b"authorization", b"Bearer of-the-client")))

    secure.upstream.wait_until(lambda: len(secure.upstream.requests) > seen)
    assert_strict(secure.upstream.requests[-1])


def test_r86_errors_of_mitmproxys_own_are_json_over_http2_too(secure: Rig) -> None:
    with Http2Client.via_connect(secure.proxy, "localhost", secure.upstream.port) as client:
        reply = client.request("POST", "/v1/messages", ((b"x(y", b"1"),))

    assert reply.status == 400
    assert reply.header("content-type") == "application/json"
    assert reply.header("server") is None
    assert reply.json()["type"] == "error"
