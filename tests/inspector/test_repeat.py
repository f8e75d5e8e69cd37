"""What a replay puts on the wire: the request as it came, without what was hidden, for a connection of its own."""

import asyncio
import zlib

import pytest
from mitmproxy import http
from mitmproxy.test import tutils

from ccflare_core.secrets.redact import HIDDEN
from ccflare_mitm.host.replays import Ends, Replay, Replays
from ccflare_mitm.inspector.repeat import Place, Seen, Sender, head_of, take_answer
from harness import Port

BODY = b'{"model": "m"}'
FIELDS = (
    (b"Host", b"api.anthropic.com"),
    (b"Authorization", HIDDEN),
    (b"x-API-key", HIDDEN),
    (b"Anthropic-Beta", b"one,two"),
    (b"content-encoding", b"zstd"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"keep-alive"),
)
REPLAY = Replay("req_1", None)


def request() -> http.Request:
    asked = tutils.treq(method=b"POST", path=b"/v1/messages?beta=true", content=BODY)
    asked.headers.fields = FIELDS
    return asked


@pytest.mark.parametrize(("host", "named"), [("127.0.0.1", b"127.0.0.1:8080"), ("::1", b"[::1]:8080")])
def test_the_head_is_as_it_came_without_credentials(host: str, named: bytes) -> None:
    assert head_of(request(), host, 8080) == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\n"
        b"Host: " + named + b"\r\nAnthropic-Beta: one,two\r\ncontent-encoding: zstd\r\n"
        b"Connection: keep-alive\r\ncontent-length: 14\r\n\r\n"
    )


def test_what_a_head_says_of_itself_stands_where_it_stood() -> None:
    asked = request()
    asked.headers.fields = ((b"Content-Length", b"99"), (b"accept", b"*/*"), (b"HOST", b"x"))
    assert head_of(asked, "h", 1).splitlines()[1:] == [
        b"Content-Length: 14",
        b"accept: */*",
        b"HOST: h:1",
        b"",
    ]


def test_requests_are_told_apart_by_each_of_their_parts() -> None:
    seen = Seen.of(request(), BODY)
    assert Seen.of(request(), BODY) == seen
    assert Seen.of(request(), BODY[:-1] + b" ") != seen
    for name, value in (("method", "PUT"), ("path", "/v1/messages")):
        edited = request()
        setattr(edited, name, value)
        assert Seen.of(edited, BODY) != seen


def test_a_body_is_told_from_another_one_of_its_checksum() -> None:
    """Whoever edits in mitmweb could else have words of their own sent by the key of the client that had asked."""
    first, other = b"plumless", b"buckeroo"
    assert zlib.crc32(first) == zlib.crc32(other)
    assert Seen.of(request(), first) != Seen.of(request(), other)


async def test_a_replay_is_expected_at_the_port_that_it_comes_from_and_only_there() -> None:
    seen: list[tuple[tuple[str, int], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        peer = writer.get_extra_info("peername")[:2]
        assert replays._expected == {Ends(peer, (host, port)): REPLAY}
        seen.append((peer, head + await reader.readexactly(len(BODY))))
        writer.close()

    replays = Replays()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        await Sender(replays, lambda: Place(host, port, False)).send(request(), REPLAY)

    assert seen[0][1].endswith(b"\r\n\r\n" + BODY)
    assert replays._expected == {}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"no answer at all\r\n\r\n",
    ],
)
async def test_an_answer_is_read_to_its_end_on_a_connection_that_stays(answer: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer)
    await asyncio.wait_for(take_answer(reader), 30)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"])
async def test_an_answer_that_breaks_off_is_over(answer: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer)
    reader.feed_eof()
    await asyncio.wait_for(take_answer(reader), 30)


async def test_a_port_where_nobody_listens_is_an_error() -> None:
    port = Port()
    with pytest.raises(OSError):
        await Sender(Replays(), lambda: Place("127.0.0.1", port.number, False)).send(request(), REPLAY)
    port.release()
