"""Requests that no good client sends: passed on or refused, always recorded, and nothing breaks."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fake_upstream import FakeUpstream, Gate, bad_request, sse
from harness import Proxy, RawClient, Truncated, claude_request, eventually, via_base_url

KEY = "sk-ant-api03-one"
LIMIT = 200_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeUpstream, Proxy]]:
    with FakeUpstream() as upstream:
        proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("proxy"), ccflare_body_limit_bytes=LIMIT)
        proxy.add_api_key("one", KEY)
        with proxy:
            yield upstream, proxy
            assert "Traceback" not in proxy.log()
            assert "Addon error" not in proxy.log()


def begin(client: RawClient, proxy: Proxy, agent: str, rest: bytes) -> None:
    """Send a request with this user agent, by which its row can be found."""
    head = f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nUser-Agent: {agent}\r\n"
    client.send(head.encode() + rest)


def row_of(proxy: Proxy, agent: str) -> dict[str, Any]:
    """The row of the one request with this user agent, as soon as it has ended."""
    (row,) = proxy.rows("SELECT * FROM requests WHERE user_agent = ? AND outcome IS NOT NULL", (agent,), until=bool)
    return row


BODIES = {
    "no JSON": b"this is not JSON",
    "cut off": b'{"model": "claude-opus-4-8", "messages": [',
    "nested deeply": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "lists nested deeply": b"[" * 100_000 + b"]" * 100_000,
    "no UTF-8": b'{"model": "\xff\xfe\xfa"}',
    "lone surrogates": b'{"model": "\\ud800", "metadata": {"user_id": "\\udfff"}}',
    "NUL in the model": b'{"model": "a\\u0000b"}',
    "NaN and huge numbers": b'{"model": NaN, "max_tokens": 1e999999, "x": ' + b"9" * 10_000 + b"}",
    "no model": b'{"messages": []}',
    "a model that is no text": b'{"model": {"a": 1}, "stream": "yes", "metadata": []}',
    "a model of 100 kB": b'{"model": "' + b"m" * 100_000 + b'"}',
    "keys twice": b'{"model": "a", "model": "b", "stream": true, "stream": false}',
    "a list": b"[1, 2, 3]",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_reaches_the_upstream_as_it_is(served: tuple[FakeUpstream, Proxy], name: str) -> None:
    upstream, proxy = served
    upstream.answer(bad_request())
    fields = ((b"Content-Type", b"application/json"), (b"User-Agent", f"body {name}".encode()))
    with via_base_url(proxy) as client:
        reply = client.request("POST", "/v1/messages", fields, BODIES[name])

    assert reply.status == 400
    assert upstream.requests[-1].body == BODIES[name]
    assert upstream.requests[-1].credential == KEY
    assert row_of(proxy, f"body {name}")["outcome"] == "upstream_error"


def test_a_compressed_body_is_read_aside_and_sent_as_it_is(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    request = claude_request(30_000, session="zipped", model="claude-haiku-4-5")
    zipped = gzip.compress(request.body)
    with via_base_url(proxy) as client:
        client.send_request("POST", "/v1/messages", ((b"Content-Encoding", b"gzip"),), zipped)
        assert client.read_head().status == 200
    assert upstream.requests[-1].body == zipped
    [row] = proxy.rows("SELECT session_id FROM requests WHERE session_id = 'zipped'", until=bool)
    assert row


@pytest.mark.parametrize("encoding", [b"gzip", b"zstd", b"br", b"rot13"])
def test_a_body_that_only_claims_to_be_compressed(served: tuple[FakeUpstream, Proxy], encoding: bytes) -> None:
    upstream, proxy = served
    upstream.answer(bad_request())
    with via_base_url(proxy) as client:
        reply = client.request("POST", "/v1/messages", ((b"Content-Encoding", encoding),), b"plainly not")
    assert reply.status == 400
    assert upstream.requests[-1].body == b"plainly not"


def test_a_content_type_that_nobody_knows(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    with via_base_url(proxy) as client:
        reply = client.request("POST", "/v1/messages", ((b"Content-Type", b"application/x-\xff;;;="),), b"{}")
    assert reply.status == 200


def test_a_body_over_the_limit_is_refused_before_it_is_sent(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        begin(client, proxy, "far too large", b"Content-Length: 900000000\r\n\r\n{")
        head = client.read_head()
        body = json.loads(client.read_body())
    assert head.status == 413
    assert body["error"]["type"] == "request_too_large"
    assert len(upstream.requests) == asked
    told = f"The request body is larger than the {LIMIT} bytes that ccflare_body_limit_bytes allows."
    assert row_of(proxy, "far too large")["error_message"] == told


def test_a_large_body_for_another_host_is_refused_as_such(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    with via_base_url(proxy) as client:
        client.send(b"POST /v1/messages HTTP/1.1\r\nHost: example.com\r\nContent-Length: 900000000\r\n\r\n{")
        assert client.read_head().status == 403


def test_a_chunked_body_over_the_limit_is_refused_on_the_way(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        client.send(f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n".encode())
        client.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMIT // 50_000 + 1):
            client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        head = client.read_head()
    assert head.status == 413
    assert len(upstream.requests) == asked


def test_a_flood_of_header_fields(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    flood = tuple((b"X-%d" % number, b"y" * 1000) for number in range(100))
    with via_base_url(proxy) as client:
        reply = client.request("POST", "/v1/messages", ((b"User-Agent", b"flood"), *flood), b"{}")
    assert reply.status == 431
    assert reply.json()["type"] == "error"
    assert len(upstream.requests) == asked
    assert "header fields are larger" in row_of(proxy, "flood")["error_message"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: +2\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length : 2\r\n",
    ],
)
def test_two_ways_to_read_a_length_are_none(served: tuple[FakeUpstream, Proxy], head: bytes) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        client.send(f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n".encode() + head + b"\r\n{}")
        answer = client.read_head()
        body = json.loads(client.read_body())
    assert answer.status == 400
    assert answer.header("content-type") == "application/json"
    assert body["type"] == "error"
    assert len(upstream.requests) == asked


def test_what_mitmproxy_refuses_is_recorded_as_refused(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    with via_base_url(proxy) as client:
        begin(client, proxy, "two lengths", b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert client.read_head().status == 400
    assert "smuggling" in row_of(proxy, "two lengths")["error_message"]


def test_a_body_that_unpacks_to_very_much(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    zipped = gzip.compress(b'{"model":"claude-haiku-4-5","messages":"' + bytes(64 << 20) + b'"}')
    with via_base_url(proxy) as client:
        reply = client.request("POST", "/v1/messages", ((b"Content-Encoding", b"gzip"),), zipped)
    assert (reply.status, upstream.requests[-1].body) == (200, zipped)


def test_of_many_credentials_none_is_left_but_the_accounts(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    names = (b"Authorization", b"x-api-key", b"authorization", b"X-API-KEY", b"Proxy-Authorization")
    fields = (*((name, b"Bearer of-the-client") for name in names), (b"Connection", b"x-api-key"))
    with via_base_url(proxy) as client:
        assert client.request("POST", "/v1/messages", fields, b"{}").status == 200
    sent = {name.lower(): value for name, value in upstream.requests[-1].headers}
    assert sent[b"x-api-key"] == KEY.encode()
    assert not sent.keys() & {b"authorization", b"proxy-authorization"}
    assert len(upstream.requests[-1].header_values("x-api-key")) == 1


FIELDS = {"folded": b"X-A: b\r\n folded", "NUL": b"X-A: a\0b", "CR": b"X-A: a\rx-api-key: mine"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_may_be_two_to_somebody_else(served: tuple[FakeUpstream, Proxy], name: str) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        begin(client, proxy, f"field {name}", FIELDS[name] + b"\r\nContent-Length: 2\r\n\r\n{}")
        assert client.read_head().status == 400
        assert json.loads(client.read_body())["error"]["type"] == "invalid_request_error"
    assert len(upstream.requests) == asked
    row = row_of(proxy, f"field {name}")
    assert (row["outcome"], row["status_code"]) == ("refused", 400)
    assert "line break" in row["error_message"]


CHUNKS = {"negative": b"-1\r\n", "no number": b"zz\r\n", "0x": b"0x2\r\n{}\r\n", "too long": b"2\r\n{}XX0\r\n\r\n"}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_make_no_sense_are_cut_off(served: tuple[FakeUpstream, Proxy], name: str) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        begin(client, proxy, f"chunk {name}", b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[name])
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_head()
    assert len(upstream.requests) == asked
    assert row_of(proxy, f"chunk {name}")["outcome"] == "refused"


def test_a_head_that_grows_too_long_is_not_waited_for(served: tuple[FakeUpstream, Proxy]) -> None:
    _, proxy = served
    start = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nX-A: ".encode()
    with via_base_url(proxy) as client:
        client.send(start + b"y" * ((1 << 20) + 1 - len(start)))
        assert client.read_head().status == 431
        assert json.loads(client.read_body())["type"] == "error"
        with pytest.raises((Truncated, ConnectionResetError)):  # it is closed
            client.read_head()


@pytest.mark.parametrize(
    "start",
    [b"POST /v1/messages HTTP/1.1\r\nX-A: ", b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x="],
    ids=["head", "chunk"],
)
def test_what_has_no_end_is_cut_off(served: tuple[FakeUpstream, Proxy], start: bytes) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    with via_base_url(proxy) as client:
        client.send(start.replace(b"\r\n", f"\r\nHost: 127.0.0.1:{proxy.port}\r\nUser-Agent: endless\r\n".encode(), 1))
        with pytest.raises(ConnectionError):
            client.send(b"y" * (64 << 20))
    assert len(upstream.requests) == asked
    assert eventually(lambda: "that are no request" in proxy.log())
    if b"chunked" in start:
        assert row_of(proxy, "endless")["outcome"] == "refused"


def test_what_is_sent_ahead_is_bounded_too(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    gate = Gate()
    upstream.answer(sse(gate=gate))
    with via_base_url(proxy) as client:
        client.send_request(*claude_request(3000, session="ahead"))
        assert client.read_head().status == 200
        with pytest.raises(ConnectionError):
            client.send(b"y" * (64 << 20))
    upstream.wait_until(lambda: upstream.requests[-1].aborted)
    rows = proxy.rows("SELECT * FROM requests WHERE session_id = 'ahead' AND outcome IS NOT NULL", until=bool)
    assert rows[0]["outcome"] == "client_abort"


def test_what_follows_a_request_is_read_as_one(served: tuple[FakeUpstream, Proxy]) -> None:
    upstream, proxy = served
    asked = len(upstream.requests)
    method, target, headers, body = claude_request(3000)
    smuggled = b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    with via_base_url(proxy) as client:
        client.send_request(method, target, (*headers, (b"Content-Length", b"%d" % len(body))), body + smuggled)
        assert client.read_head().status == 200
        assert client.read_body()
        assert client.read_head().status == 400
    assert len(upstream.requests) == asked + 1
