"""Messages between the two worlds: mitmproxy's requests and responses, and what the core knows of them."""

import json
from typing import Any, NamedTuple

from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.net.http.url import hostport

from ccflare_core.accounts.account import Credential, inject
from ccflare_core.anthropic.answers import Answer, error
from ccflare_core.anthropic.routes import BATCHES, FILES, Route, classify
from ccflare_core.clients.credentials import without_taken
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.http.content_coding import Decoder
from ccflare_core.http.headers import Header, toward_upstream
from ccflare_core.secrets.echo import Echo

HTTP10, HTTP11 = b"HTTP/1.0", b"HTTP/1.1"
COLLECTED_BYTES = 1024 * 1024
"""Up to this size a complete answer is cheaper to collect first than to stream."""


class Head(NamedTuple):
    """What an answer's head says of its body."""

    content_type: str
    content_encoding: str
    transfer_encoding: str
    length: int | None

    @property
    def is_event_stream(self) -> bool:
        return "text/event-stream" in self.content_type

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is passed on as it comes."""
        return self.is_event_stream or self.length is None or self.length > COLLECTED_BYTES


NO_HEAD = Head("", "", "", None)

_WANTED = frozenset({b"content-type", b"content-encoding", b"transfer-encoding", b"content-length"})


_OF_FRAMING = frozenset({b"transfer-encoding", b"content-length"})
_OF_BODY = _OF_FRAMING | {b"content-encoding"}

UNSEARCHABLE = "The upstream's error cannot be searched for the credential that it was sent; it is left out."


def read_head(response: http.Response) -> Head:
    """The head in one pass: a look-up in mitmproxy's headers costs a walk through all of them, each time."""
    found: dict[bytes, str] = {}
    for name, value in response.headers.fields:
        lower = name.lower()
        if lower in _WANTED:
            found.setdefault(lower, value.decode("latin-1").lower())
    length = found.get(b"content-length", "")
    return Head(
        content_type=found.get(b"content-type", ""),
        content_encoding=found.get(b"content-encoding", ""),
        transfer_encoding=found.get(b"transfer-encoding", ""),
        length=int(length) if length.isdecimal() else None,
    )


def method_of(request: http.Request) -> str:
    """The method as it was sent. mitmproxy's own attribute is in capitals, whatever goes upstream."""
    return request.data.method.decode("latin-1")


def by_name(headers: http.Headers) -> dict[str, str]:
    """Fields by name in lower case, as `Headers.get` gives them: for who asks for a dozen."""
    found: dict[str, str] = {}
    for name, value in headers.fields:
        key, text = name.lower().decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def route_of(request: http.Request, *, stateful: bool = False) -> Route:
    """Which way this request goes, as it is now; see `classify`."""
    return classify(method_of(request), request.path, stateful=stateful)


def is_file_upload(request: http.Request) -> bool:
    """Whether a request for the upstream's API brings a file."""
    return request.data.method == b"POST" and request.path.partition("?")[0] == FILES


def is_batch_upload(request: http.Request) -> bool:
    """Whether a request for the upstream's API makes a batch."""
    return request.data.method == b"POST" and request.path.partition("?")[0] == BATCHES


def is_streamed_upload(request: http.Request) -> bool:
    """Whether its body goes up as it comes: a file that is large, or may be, as nobody says how large it is."""
    if not is_file_upload(request):
        return False
    size = http1.expected_http_body_size(request)
    return size is None or size > COLLECTED_BYTES


def with_credential(
    request: http.Request, fields: tuple[Header, ...], credential: Credential | None, target: UpstreamTarget
) -> http.Request:
    """A copy of `request` to send, its header `fields` with an account's credential in place of the client's.

    With one it says the target's Host, whatever it said before. The target's prefix comes before the path of what goes
    there.

    The body stays aside, and so do fields that were meant for us, or that tell of the client. A request of HTTP/1.0
    goes on in the version that we speak ourselves (RFC 9112, 2.3).
    """
    data = request.data
    fields = toward_upstream(fields, leased=credential is not None)
    authority = data.authority
    if credential is None:
        fields = without_taken(fields)
        if data.http_version == HTTP10 and not request.host_header:
            fields = _with_host(fields, hostport(request.scheme, data.host, data.port).encode())
    else:
        fields = _with_host(inject(fields, credential), target.authority.encode())
        authority = b""  # a head of HTTP/1 would have an absolute target by it
    if request.is_http2 and "content-length" not in data.headers:
        # HTTP/2 needs none, but an HTTP/1 upstream would take a body without one for the next request.
        if data.content:
            fields = (*fields, (b"content-length", b"%d" % len(data.content)))
        elif request.stream:
            fields = (*fields, (b"transfer-encoding", b"chunked"))
    return http.Request(
        host=data.host,
        port=data.port,
        method=data.method,
        scheme=data.scheme,
        authority=authority,
        path=_path_at(request, target),
        http_version=HTTP11 if data.http_version == HTTP10 else data.http_version,
        headers=http.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=data.timestamp_start,
        timestamp_end=data.timestamp_end,
    )


def passing_trailers(trailers: http.Headers | None) -> http.Headers | None:
    """What of a request's trailers goes on with the client's own credential: no field that was meant for us."""
    fields = toward_upstream(trailers.fields, leased=False) if trailers else ()
    return http.Headers(fields) if fields else None


def _path_at(request: http.Request, target: UpstreamTarget) -> bytes:
    path = request.data.path
    is_there = (request.scheme, (request.host, request.port)) == (target.scheme, target.address)
    return target.prefix.encode() + path if is_there and path.startswith(b"/") else path


def _with_host(fields: tuple[Header, ...], host: bytes) -> tuple[Header, ...]:
    """These fields with one Host, in its place if there was one, else first."""
    places = [place for place, (name, _) in enumerate(fields) if name.lower() == b"host"]
    if not places:
        return ((b"Host", host), *fields)
    at = places[0]
    after = [field for field in fields[at + 1 :] if field[0].lower() != b"host"] if places[1:] else fields[at + 1 :]
    return (*fields[:at], (fields[at][0], host), *after)


def make_response(answer: Answer) -> http.Response:
    """One of our own answers as mitmproxy's response; HTTP/2 leaves out that it comes in chunks."""
    chunked = ((b"transfer-encoding", b"chunked"),) if answer.pieces is not None else ()
    return http.Response.make(answer.status, answer.body, http.Headers((*answer.headers, *chunked)))


def screen_head(response: http.Response, echo: Echo) -> None:
    """Blank the credential in an answer's head: its fields, and the phrase behind its status."""
    response.headers.fields = echo.in_fields(response.headers.fields)
    response.data.reason = echo.in_line(response.data.reason)


def screen_error(
    response: http.Response, held: list[bytes], echo: Echo, *, is_whole: bool, request_id: str
) -> list[bytes] | None:
    """What goes on of an error's body; None if it can be searched as it passes, `held` itself if it has no secret.

    A body in a content coding can be searched only when it is whole. One that holds the secret goes on without its
    coding; one that cannot be searched is left out, and words of ours stand in its place. The head tells of it.
    """
    coding = _codings(response)
    body = b"".join(held)
    if coding in ("", "identity"):
        return None
    if is_whole and not body:
        return held
    found = echo.in_encoded(body, coding) if is_whole else None
    if found is body:
        return held
    if found is not None:
        _put_body(response, found)
        return [found]
    left_out = error(response.status_code, UNSEARCHABLE, request_id=request_id).body
    _put_body(response, left_out)
    response.headers["content-type"] = "application/json"
    return [left_out]


def put_whole(response: http.Response, body: bytes) -> None:
    """Make this its body, in the coding that its head tells of, with its length in place of chunks."""
    fields = [field for field in response.headers.fields if field[0].lower() not in _OF_FRAMING]
    response.headers.fields = (*fields, (b"content-length", b"%d" % len(body)))
    response.raw_content = body


def _codings(response: http.Response) -> str:
    """All codings of a body, but for the framing by chunks; several are one that nobody knows."""
    fields = response.headers.fields
    said = [value for name, value in fields if name.lower() in (b"content-encoding", b"transfer-encoding")]
    tokens = [token.strip().lower() for token in b",".join(said).decode("latin-1").split(",")]
    return ", ".join(token for token in tokens if token not in ("", "chunked", "identity"))


def _put_body(response: http.Response, body: bytes) -> None:
    fields = [field for field in response.headers.fields if field[0].lower() not in _OF_BODY]
    response.headers.fields = (*fields, (b"content-length", b"%d" % len(body)))


def parse_error(body: bytes, encoding: str, limit: int) -> dict[str, Any] | None:
    """The JSON of an error's body, if it is any; `limit` bounds what it decompresses to."""
    try:
        parsed = json.loads(Decoder(encoding, limit).feed(body))
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
