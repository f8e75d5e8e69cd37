"""Clients of HTTP/1.0: no chunks, no interim answers, and a connection that goes on only where they ask for it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from mitmproxy import http

from ccflare_core.config.target import UpstreamTarget
from ccflare_core.http.origins import Origin
from ccflare_core.http.pins import Pins
from ccflare_mitm.host.messages import with_credential
from fake_upstream import FakeUpstream, Header, bad_request, message_json, sse
from harness import RawClient, claude_request
from rig import Rig

KEEP: Header = (b"Connection", b"keep-alive")


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


class Old(NamedTuple):
    """An answer as a client of HTTP/1.0 gets it: all bytes up to the connection's end, or as many as it was told."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


def send(client: RawClient, method: str, target: str, headers: Sequence[Header] = (), body: bytes = b"") -> None:
    fields = [(b"Host", client.authority.encode()), *headers, *([(b"Content-Length", b"%d" % len(body))] * bool(body))]
    lines = b"".join(b"%s: %s\r\n" % field for field in fields)
    client.send(b"%s %s HTTP/1.0\r\n%s\r\n%s" % (method.encode(), target.encode(), lines, body))


def read(client: RawClient) -> Old:
    """All that comes until the connection ends."""
    sock = client.detach()
    head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    return parse(head, body)


def parse(head: bytes, body: bytes) -> Old:
    line, *lines = head.split(b"\r\n")
    fields = [each.partition(b": ") for each in lines]
    return Old(int(line.split(b" ")[1]), {name.lower(): value for name, _, value in fields}, body)


def claude(rig: Rig, *, stream: bool, keep: bool = False) -> tuple[str, str, list[Header], bytes]:
    """What Claude Code sends, without its Connection."""
    method, target, headers, body = claude_request(3000, session=rig.session, stream=stream)
    kept = [field for field in headers if field[0] != b"Connection"]
    return method, target, [*kept, *([KEEP] * keep)], body


@pytest.mark.parametrize("keep", [False, True], ids=["close", "asks to keep"])
def test_a_stream_for_http10_has_no_chunks_and_ends_with_its_connection(rig: Rig, keep: bool) -> None:
    rig.script("a", answer := sse(3))

    with rig.client() as client:
        send(client, *claude(rig, stream=True, keep=keep))
        old = read(client)

    assert (old.status, old.fields[b"connection"]) == (200, b"close")
    assert not old.fields.keys() & {b"transfer-encoding", b"content-length"}
    assert old.body == b"".join(chunk for chunk in answer.chunks if isinstance(chunk, bytes))
    assert rig.row()["outcome"] == "ok"


def test_a_whole_answer_for_http10_has_its_length(rig: Rig) -> None:
    rig.script("a", message_json())

    with rig.client() as client:
        send(client, *claude(rig, stream=False))
        old = read(client)

    assert (old.status, old.fields[b"connection"]) == (200, b"close")
    assert int(old.fields[b"content-length"]) == len(old.body)


def test_an_http10_connection_goes_on_where_it_is_asked_to(rig: Rig) -> None:
    rig.script("a", message_json(), message_json(), message_json())

    with rig.client() as client:
        for _ in range(2):
            send(client, *claude(rig, stream=False, keep=True))
            head = client.read_head()
            assert (head.status, head.header("connection")) == (200, "keep-alive")
            client._left = int(head.header("content-length") or 0)
            client.read_body()
        send(client, *claude(rig, stream=False))
        assert read(client).fields[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/ccflare/health", 200), ("HEAD", "/", 200), ("GET", "/ccflare/nothing", 404), ("POST", "/v1/x", 200)],
)
def test_answers_of_our_own_end_for_http10(rig: Rig, method: str, target: str, status: int) -> None:
    with rig.client() as client:
        send(client, method, target, body=b"{}" if method == "POST" else b"")
        old = read(client)

    assert b"transfer-encoding" not in old.fields
    assert old.fields[b"connection"] == b"close"
    if method != "POST":
        assert old.status == status


def test_an_upstreams_error_for_http10_has_its_length(rig: Rig) -> None:
    rig.script("a", bad_request())

    with rig.client() as client:
        send(client, *claude(rig, stream=True))
        old = read(client)

    assert old.status == 400
    assert int(old.fields[b"content-length"]) == len(old.body)


def test_http10_gets_no_interim_answer(rig: Rig) -> None:
    rig.script("a", message_json())

    method, target, headers, body = claude(rig, stream=False)
    with rig.client() as client:
        send(client, method, target, [*headers, (b"Expect", b"100-continue")], body)

        assert read(client).status == 200


def test_a_request_of_http10_goes_on_in_our_own_version(rig: Rig) -> None:
    old = http.Request.make("POST", "http://localhost/v1/messages", b"{}")
    old.http_version = "HTTP/1.0"
    target = UpstreamTarget.of(Origin("http", "localhost", 80), Pins.parse(""), None)

    sent = with_credential(old, old.headers.fields, None, target)

    assert (sent.http_version, sent.headers["host"]) == ("HTTP/1.1", "localhost")


def test_a_client_of_http11_gets_chunks_as_before(rig: Rig) -> None:
    rig.script("a", sse(1))

    with rig.client() as client:
        rig.send(client)
        assert client.read_head().header("transfer-encoding") == "chunked"
        assert client.read_body().endswith(b'{"type":"message_stop"}\n\n')
