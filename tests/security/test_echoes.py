"""An upstream that quotes the credential it was sent, wherever it can. Then all that a client, a log, the database, a
page or a dump shows is searched for it.

Each quotation meets an account of its own with the same secret; whatever the account then rests for is shown to the
next client.
"""

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import hpack
import pytest
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

import zstd_kit
from ccflare_mitm.host.messages import UNSEARCHABLE
from fake_upstream import Answer, FakeUpstream, Wait, bad_request, error, error_event, message_json, sse, sse_answer
from harness import Http2Client, RawClient, Reply, claude_request, eventually, via_base_url
from rig import Rig
from web_kit import WebSocket, pages

SECRET = "sk-ant-oat01-ECHOED-Access-0123456789abcdef"
PLAIN = SECRET.encode()
BLANKED = "[redacted]".ljust(len(SECRET), "*")
SAID = {"type": "error", "error": {"type": "invalid_request_error", "message": f"what is {SECRET}?"}}
BODY = json.dumps(SAID).encode()
JSON = (b"Content-Type", b"application/json")

FORMS = (
    PLAIN,
    PLAIN.lower(),
    PLAIN.hex().encode(),
    *(base64.b64encode(b"x" * n + PLAIN)[4:-4] for n in range(3)),
)


def mentions(artefact: bytes) -> int:
    """How often the secret is in there: as it is, in small letters, in hexadecimal digits, in base64."""
    return sum(artefact.count(form) for form in FORMS)


def raw(*parts: bytes, close: bool = True) -> Answer:
    """These bytes, whatever they mean, and the end of the connection."""
    return Answer(chunks=parts, raw=True, close=close)


def whole(body: bytes, *fields: tuple[bytes, bytes], status: int = 400) -> Answer:
    """An answer with a body of a known length."""
    return Answer(status, (JSON, *fields, (b"Content-Length", b"%d" % len(body))), (body,))


def encoded(coding: bytes, body: bytes) -> Answer:
    return whole(body, (b"Content-Encoding", coding))


def chunked(*parts: bytes) -> Answer:
    return Answer(400, (JSON,), parts)


QUOTED = {
    "a location": whole(b"", (b"Location", b"https://a.example/?token=" + PLAIN), status=201),
    "a field": whole(b"{}", (b"X-You-Sent", b"Bearer " + PLAIN), status=200),
    "a field of an error": whole(b"{}", (b"WWW-Authenticate", b'Bearer error="' + PLAIN + b'"'), status=401),
    "a name of a field": whole(b"{}", (b"x-" + PLAIN.lower(), b"1"), status=200),
    "a request id": whole(b"{}", (b"request-id", PLAIN), status=400),
    "a media type": whole(b"{}", (b"Content-Type", b"text/" + PLAIN)),
    "a name of a window": whole(b"{}", (b"anthropic-ratelimit-unified-" + PLAIN.lower() + b"-status", b"rejected")),
    "a claim": whole(
        b"{}",
        (b"anthropic-ratelimit-unified-status", b"rejected"),
        (b"anthropic-ratelimit-unified-representative-claim", PLAIN.lower()),
        status=429,
    ),
    "an error": whole(BODY),
    "an error that is retried": whole(BODY, status=500),
    "an error of a limit": whole(BODY, (b"anthropic-ratelimit-unified-5h-status", b"rejected"), status=429),
    "an error's type": error(400, SECRET, "no"),
    "an error in chunks": chunked(*[BODY[at : at + 7] for at in range(0, len(BODY), 7)]),
    "an error that is no JSON": whole(PLAIN, (b"Content-Type", b"text/html")),
    "a long error": chunked(BODY, *[b" " * 20_000] * 3, b" " * 5500, PLAIN[:9], PLAIN[9:], BODY),
    "an error in gzip": encoded(b"gzip", gzip.compress(BODY)),
    "an error in deflate": encoded(b"deflate", zlib.compress(BODY)),
    "an error in br": encoded(b"br", brotli.compress(BODY)),
    "an error in zstd": encoded(b"zstd", zstd_kit.compress(BODY)),
    "an error in chunks of gzip": Answer(
        400, (JSON, (b"Content-Encoding", b"gzip")), (gzip.compress(BODY)[:20], gzip.compress(BODY)[20:])
    ),
    "an error in an unknown coding": encoded(b"rot13", BODY),
    "an error in gzip that is none": encoded(b"gzip", BODY),
    "an error in gzip with a tail": encoded(b"gzip", gzip.compress(b"{}") + PLAIN),
}
"""What HTTP/1.1 and HTTP/2 both can carry."""

PASSED_ON = {
    "a text": sse(["the key is ", SECRET]),
    "a model": message_json(model=f"claude-{SECRET}"),
    "a tier": message_json(service_tier=SECRET),
    "an error first in a stream": sse_answer(error_event(SECRET, SECRET)),
    "an error in a stream": sse_answer(*sse(1).chunks[:4], error_event(SECRET.lower(), SECRET)),
    "an error's type in other letters": error(400, SECRET.lower(), SECRET.upper()),
}
"""Bodies that are not searched for it, or have it in other letters: they go on, but nothing that is made of them."""
SHOW_BODIES = {"what clients got", "flows"}
LEFT_OUT = ("an error in an unknown coding", "an error in gzip that is none", "an error in gzip with a tail")

HTTP1 = {
    "no HTTP": raw(PLAIN + b"\r\n\r\n"),
    "a status that is none": raw(b"HTTP/1.1 " + PLAIN + b"\r\n\r\n"),
    "a version": raw(b"HTTP/" + PLAIN + b" 200 OK\r\n\r\n"),
    "a phrase": raw(b"HTTP/1.1 400 " + PLAIN + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "a phrase of a good answer": raw(b"HTTP/1.1 200 " + PLAIN + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "a line that is no field": raw(b"HTTP/1.1 200 OK\r\n" + PLAIN + b"\r\n\r\n"),
    "a length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + PLAIN + b"\r\n\r\n{}"),
    "a transfer coding": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + PLAIN + b"\r\n\r\n{}"),
    "a head that is cut": raw(b"HTTP/1.1 200 OK\r\nX-A: " + PLAIN),
    "an early hint": raw(
        b"HTTP/1.1 103 " + PLAIN + b"\r\nLink: " + PLAIN + b"\r\n\r\n", b"HTTP/1.1 " + PLAIN + b"\r\n\r\n"
    ),
    "the size of a chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + PLAIN + b"\r\n"),
    "the size of a later chunk": raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n: \r\n",
        PLAIN + b"\r\n",
    ),
    "the size of an error's chunk": raw(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n" + PLAIN + b"\r\n"),
    "a trailer": raw(
        b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: " + PLAIN + b"\r\n\r\n"
    ),
    "a switch": raw(b"HTTP/1.1 101 " + PLAIN + b"\r\nUpgrade: " + PLAIN + b"\r\nConnection: upgrade\r\n\r\n"),
    "what nobody asked for": raw(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}", PLAIN, close=False),
    "an error up to the end": raw(b"HTTP/1.0 400 No\r\n\r\n", BODY),
    "an error coded for its transfer": raw(
        b"HTTP/1.1 400 No\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(gzip.compress(BODY)),
        gzip.compress(BODY) + b"\r\n0\r\n\r\n",
    ),
    "an error with two codings": raw(
        b"HTTP/1.1 400 No\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        % len(gzip.compress(BODY)),
        gzip.compress(BODY),
    ),
    "an error that comes late": Answer(400, (JSON,), (BODY[:50], Wait(6), BODY[50:])),
    "an error in gzip that comes late": Answer(
        400, (JSON, (b"Content-Encoding", b"gzip")), (gzip.compress(BODY)[:30], Wait(6), gzip.compress(BODY)[30:])
    ),
}


def frames(*made: Frame) -> Answer:
    return raw(b"".join(frame.serialize() for frame in made))


def fields(*names: tuple[bytes, bytes], end: bool = False) -> HeadersFrame:
    """A head that is written as it is, on the first stream."""
    block = hpack.Encoder().encode(list(names))
    return HeadersFrame(1, block, flags=["END_HEADERS", *(["END_STREAM"] if end else [])])


HTTP2 = {
    "a goodbye": frames(GoAwayFrame(0, error_code=11, additional_data=PLAIN)),
    "a goodbye in the middle": frames(
        fields((b":status", b"400")), DataFrame(1, BODY), GoAwayFrame(0, error_code=2, additional_data=PLAIN)
    ),
    "a reset": frames(fields((b":status", b"200"), (b"x-a", PLAIN)), RstStreamFrame(1, error_code=7)),
    "a field in capitals": frames(fields((b":status", b"200"), (PLAIN, b"1"), end=True)),
    "a status that is none": frames(fields((b":status", PLAIN), end=True)),
    "an unknown pseudo-field": frames(fields((b":status", b"200"), (b":" + PLAIN.lower(), PLAIN), end=True)),
    "a length": frames(fields((b":status", b"200"), (b"content-length", PLAIN), end=True)),
    "a trailer": frames(
        fields((b":status", b"400"), (b"content-type", b"application/json")),
        DataFrame(1, b"{}"),
        fields((b"x-a", PLAIN), end=True),
    ),
    "a trailer of a stream": frames(
        fields((b":status", b"200"), (b"content-type", b"text/event-stream")),
        DataFrame(1, b"".join(step for step in sse(1).chunks if isinstance(step, bytes))),
        fields((b"x-a", PLAIN), end=True),
    ),
    "no HTTP/2": raw(PLAIN * 3),
}


class Bench:
    """A proxy with everything on that shows or stores traffic, by one door."""

    def __init__(self, rig: Rig, connect: Callable[[], RawClient | Http2Client]) -> None:
        self.rig = rig
        self._connect = connect
        self._seen = bytearray()
        self._known: dict[str, int] = {}

    def quote(self, answer: Answer) -> Reply | None:
        """Ask, then let another client ask, and look at the health page. The first answer, if there was one."""
        self.rig.fresh("a", access_token=SECRET)
        self.rig.upstream.always(answer, credential=SECRET)
        reply = self.ask()
        self.rig.rows()
        self.ask()
        self.rig.rows(2)
        with via_base_url(self.rig.proxy) as client:
            self._seen += client.request("GET", "/ccflare/health").body
        assert self.rig.asked
        return reply

    def ask(self) -> Reply | None:
        """What a client on a new connection gets, whole or not."""
        with self._connect() as client:
            try:
                reply = client.request(*claude_request(3000, session=self.rig.session))
            except Exception as problem:
                self._seen += repr(problem).encode()
                return None
        self._seen += repr((reply.head.reason, reply.head.headers)).encode() + reply.body
        return reply

    def news(self, folder: Path) -> dict[str, int]:
        """Where the secret is that it was not before: in what clients and pages got, and in every file."""
        places = {"what clients got": bytes(self._seen)}
        places |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert {"proxy.log", "home/data/ccflare.db"} <= places.keys()
        found = {place: count for place, data in places.items() if (count := mentions(data))}
        news = {place: count for place, count in found.items() if count > self._known.get(place, 0)}
        self._known |= news
        return news


LOUD: dict[str, Any] = {"ccflare_log_level": "debug", "flow_detail": 4, "ccflare_retry_attempts": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Bench]:
    """HTTP/1.1 on both sides, by the base URL."""
    with FakeUpstream() as upstream:
        dumps = ["-vvv", "-w", str(folder / "flows")]
        with Rig.running(upstream, folder=folder, arguments=dumps, **LOUD) as rig:
            yield Bench(rig, lambda: via_base_url(rig.proxy))


@pytest.mark.parametrize("name", [*QUOTED, *HTTP1])
def test_a_quotation_over_http1(plain: Bench, folder: Path, name: str) -> None:
    plain.quote((QUOTED | HTTP1)[name])

    assert plain.news(folder) == {}


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_quotation_in_a_body_that_passes_is_in_nothing_else(plain: Bench, folder: Path, name: str) -> None:
    plain.quote(PASSED_ON[name])

    assert plain.news(folder).keys() == SHOW_BODIES


@pytest.fixture(scope="module")
def http2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http2")


@pytest.fixture(scope="module")
def http2(http2_folder: Path) -> Iterator[Bench]:
    """HTTP/2 on both sides, through a tunnel."""
    with FakeUpstream(tls=True, http2=True) as upstream:
        dumps = ["-vvv", "-w", str(http2_folder / "flows")]
        with Rig.running(upstream, folder=http2_folder, arguments=dumps, **LOUD) as rig:
            yield Bench(rig, lambda: Http2Client.via_connect(rig.proxy, "localhost", upstream.port))


@pytest.mark.parametrize("name", [*QUOTED, *HTTP2])
def test_a_quotation_over_http2(http2: Bench, http2_folder: Path, name: str) -> None:
    http2.quote((QUOTED | HTTP2)[name])

    assert http2.news(http2_folder) == {}


# What the client of an error gets


@pytest.mark.parametrize("bench", ["plain", "http2"])
@pytest.mark.parametrize("name", ["an error", "an error in chunks", "an error that is no JSON", "a long error"])
def test_an_error_goes_on_with_the_secret_blanked_in_its_length(
    request: pytest.FixtureRequest, bench: str, name: str
) -> None:
    reply = request.getfixturevalue(bench).quote(QUOTED[name])

    sent = b"".join(chunk for chunk in QUOTED[name].chunks if isinstance(chunk, bytes))
    assert (reply.status, reply.body) == (400, sent.replace(PLAIN, BLANKED.encode()))
    assert len(reply.body) == len(sent)


@pytest.mark.parametrize("bench", ["plain", "http2"])
@pytest.mark.parametrize("name", [name for name in QUOTED if name.startswith("an error in ")])
def test_an_encoded_error_goes_on_decoded_or_is_left_out(request: pytest.FixtureRequest, bench: str, name: str) -> None:
    reply = request.getfixturevalue(bench).quote(QUOTED[name])

    assert (reply.status, reply.header("content-type")) == (400, "application/json")
    if name in ("an error in chunks", *LEFT_OUT):
        assert (reply.json()["error"]["message"] == UNSEARCHABLE) is (name in LEFT_OUT)
    else:
        assert reply.json()["error"]["message"] == f"what is {BLANKED}?"
    assert reply.header("content-encoding") is None


def test_an_encoded_error_without_the_secret_stays_byte_for_byte(plain: Bench) -> None:
    body = gzip.compress(b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}')

    reply = plain.quote(encoded(b"gzip", body))

    assert reply is not None
    assert (reply.body, reply.header("content-encoding")) == (body, "gzip")


def test_an_error_that_comes_late_is_searched_all_the_same(plain: Bench) -> None:
    reply = plain.quote(HTTP1["an error that comes late"])
    encoded_reply = plain.quote(HTTP1["an error in gzip that comes late"])

    assert reply is not None
    assert reply.json()["error"]["message"] == f"what is {BLANKED}?"
    assert encoded_reply is not None
    assert encoded_reply.json()["error"]["message"] == UNSEARCHABLE


def test_a_head_goes_on_with_the_secret_blanked_and_the_rest_of_it(plain: Bench) -> None:
    location = plain.quote(QUOTED["a location"])
    phrase = plain.quote(HTTP1["a phrase"])

    assert location is not None
    assert location.header("location") == f"https://a.example/?token={BLANKED}"
    assert phrase is not None
    assert (phrase.status, phrase.head.reason) == (400, BLANKED)


# What is told of it


def test_the_record_tells_the_kind_of_an_error_and_the_sealed_body_its_words(plain: Bench) -> None:
    plain.rig.fresh("a", access_token=SECRET)
    plain.rig.upstream.always(bad_request("max_tokens: Field required"), credential=SECRET)
    plain.ask()

    row = plain.rig.row()
    with plain.rig.stored() as store:
        body = store.body(row["id"], "response")

    assert row["error_message"] == "invalid_request_error"
    assert body is not None
    assert json.loads(body.content)["error"]["message"] == "max_tokens: Field required"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no HTTP", "the answer is no HTTP"),
        ("a head that is cut", "the connection was closed in the middle of the head"),
    ],
)
def test_a_502_and_the_next_clients_503_tell_the_kind_of_failure(plain: Bench, name: str, told: str) -> None:
    plain.rig.fresh("a", access_token=SECRET)
    plain.rig.upstream.always(HTTP1[name], credential=SECRET)
    first, second = plain.ask(), plain.ask()
    reason = plain.rig.health()["a"]["reason"]  # at once: it rests for no more than five seconds

    rows = plain.rig.rows(2)
    attempts = plain.rig.proxy.rows("SELECT reason FROM attempts WHERE request_id = ?", (rows[0]["id"],))
    assert first is not None
    assert first.json()["error"]["message"] == f"The upstream could not be used: {told}."
    assert rows[0]["error_message"] == first.json()["error"]["message"]
    assert attempts == [{"reason": told}]
    assert [rest.reason for rest in plain.rig.rests("a")] == [told]
    assert reason.endswith(f": {told}")
    assert second is not None
    assert second.status == 503
    assert told in second.json()["error"]["message"]


def test_mitmwebs_frames_and_pages_show_no_quotation(tmp_path: Path) -> None:
    names = ("no HTTP", "a phrase", "an error in chunks", "an error in gzip", "a location", "the size of a chunk")
    with (
        FakeUpstream() as upstream,
        Rig.running(upstream, folder=tmp_path, program="mitmweb", ccflare_retry_attempts=0) as rig,
    ):
        bench, frames = Bench(rig, lambda: via_base_url(rig.proxy)), WebSocket(rig.proxy)
        for name in names:
            bench.quote((QUOTED | HTTP1)[name])
        eventually(lambda: frames.take().count(b"flows/update") >= len(names))
        frames.close()
        shown = pages(rig.proxy)
        ids = [flow["id"] for flow in json.loads(shown["/flows"])]
        shown |= pages(rig.proxy, *(f"/flows/{id}/response/content.data" for id in ids))

    assert len(ids) >= 2 * len(names)
    assert mentions(frames.read) == 0
    assert {path for path, body in shown.items() if mentions(body)} == set()
    assert bench.news(tmp_path) == {}
