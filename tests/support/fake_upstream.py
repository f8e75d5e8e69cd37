"""A scriptable stand-in for api.anthropic.com on 127.0.0.1: HTTP/1.1 and HTTP/2, plain or TLS.

In a test it runs in a thread of its own:

    with FakeUpstream() as upstream:
        upstream.always(limited_5h(reset), credential="sk-ant-oat01-a")
        …
        first, second = upstream.wait_for(2)
        assert (first.credential, second.credential) == ("sk-ant-oat01-a", "sk-ant-oat01-b")

For the demo and the benchmark it is a process that prints its port: `python tests/fake_upstream.py --port 0`.

From top to bottom: what was asked (Request), what is answered (steps, Answer), ready-made answers, the OAuth
side (Logins), who gets which answer (Script), how an answer is played (Exchange, Http1, Http2), certificates,
the server, the process.
"""

import argparse
import asyncio
import base64
import contextlib
import datetime
import hashlib
import ipaddress
import itertools
import json
import re
import secrets
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import Enum
from functools import cache, cached_property
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import parse_qs, parse_qsl, urlsplit

import brotli
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError, StreamClosedError

import zstd_kit

Header = tuple[bytes, bytes]

# -------------------------------------------------------------------------------------------- what was asked


@dataclass(slots=True, eq=False)
class Request:
    """One request as it came in; `aborted` and `finished` are filled in while it is answered."""

    method: str
    target: str
    headers: tuple[Header, ...] = field(repr=False)
    body: bytes = field(repr=False)
    authority: str
    credential: str
    connection: int
    protocol: str
    at: float = field(default_factory=time.monotonic)
    id: str = ""  # the `request-id` of the answer
    finished: bool = False  # the whole answer was handed over
    aborted: bool = False  # the client went away before that

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The target's query, the last value of each name."""
        return dict(parse_qsl(urlsplit(self.target).query))

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)


_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")


def _credential(headers: Iterable[Header]) -> str:
    """The bearer token or API key among the headers, "" if there is none."""
    for name, value in headers:
        if len(name) in (9, 13) and name.lower() in _CREDENTIAL_HEADERS:
            text = value.decode("latin-1")
            return text[7:] if text[:7].lower() == "bearer " else text
    return ""


# ------------------------------------------------------------------------------------------ what is answered


class Wait(NamedTuple):
    """Do nothing for a while. Successive waits keep their pace: each counts from the one before."""

    seconds: float


class Cut(NamedTuple):
    """End the connection here: a FIN, a RST with `reset`, or on HTTP/2 with `stream` only a RST_STREAM."""

    reset: bool = False
    stream: bool = False


class Gate:
    """Holds an answer at one point until the test opens it; `reached` is set when the answer got there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._is_open = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        return self._is_open

    def open(self) -> None:
        """Let everything held here go on, now and later."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def passes(self, resume: Callable[[], None]) -> bool:
        """Whether the way is free; if not, `resume` is called once it is, from the opener's thread."""
        with self._lock:
            is_free = self._is_open
            if not is_free:
                self._waiting.append(resume)
        self.reached.set()
        return is_free


# A callable makes its bytes at the moment they are sent.
Step = bytes | Wait | Gate | Cut | Callable[[], bytes]


@dataclass(frozen=True)
class Answer:
    """A scripted answer: what happens before the head, the head, and the body's chunks, a write for each.

    Without a content-length the body is chunked (HTTP/1.1). With `raw` there is no head and no framing: the
    chunks are the bytes on the wire. `close` ends the connection after the answer, without having said so.
    """

    status: int = 200
    headers: tuple[Header, ...] = ()
    chunks: tuple[Step, ...] = ()
    before: tuple[Step, ...] = ()
    close: bool = False
    raw: bool = False

    @cached_property
    def is_chunked(self) -> bool:
        """Whether HTTP/1.1 needs chunked framing for it."""
        has_body = self.status >= 200 and self.status not in (204, 304)
        return has_body and not self.raw and self.header(b"content-length") is None

    @cached_property
    def is_whole(self) -> bool:
        """Whether it is a head and one known body, which go out in one write."""
        return (
            not (self.before or self.close or self.raw or self.is_chunked)
            and len(self.chunks) <= 1
            and all(type(chunk) is bytes for chunk in self.chunks)
        )

    @cached_property
    def head(self) -> bytes:
        """The HTTP/1.1 head without its `request-id` line and its end."""
        lines = [
            b"HTTP/1.1 %d %s" % (self.status, _reason(self.status)),
            b"Date: " + formatdate(usegmt=True).encode(),
        ]
        lines += [name + b": " + value for name, value in self.headers if name.lower() != b"request-id"]
        if self.is_chunked:
            lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n"

    @cached_property
    def frames(self) -> tuple[Step, ...]:
        """The chunks as HTTP/1.1 carries them."""
        return tuple(_frame(chunk) for chunk in self.chunks) if self.is_chunked else self.chunks

    @cached_property
    def request_id(self) -> str:
        """The `request-id` it was given, "" if each request gets a new one."""
        return (self.header(b"request-id") or b"").decode()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def _reason(status: int) -> bytes:
    with contextlib.suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b""  # 529 has no name


def _frame(step: Step) -> Step:
    if isinstance(step, bytes):
        return b"%x\r\n%s\r\n" % (len(step), step) if step else b""
    if callable(step):
        return lambda: b"%x\r\n%s\r\n" % (len(data := step()), data)
    return step


# ---------------------------------------------------------------------------------------- rate-limit headers


def _headers(**values: object) -> tuple[Header, ...]:
    """Headers out of keyword arguments: `_` becomes `-`, None leaves one out."""
    return tuple(
        (name.replace("_", "-").encode(), str(value).encode()) for name, value in values.items() if value is not None
    )


def unified(**values: object) -> tuple[Header, ...]:
    """`anthropic-ratelimit-unified-*` headers, spelt `status`, `_5h_status`, `_7d_oi_reset` …"""
    return tuple(
        (b"anthropic-ratelimit-unified-" + name.lstrip(b"-").replace(b"7d-oi", b"7d_oi"), value)
        for name, value in _headers(**values)
    )


def allowed_headers(
    utilization_5h: float = 0.21,
    utilization_7d: float = 0.34,
    *,
    status: str = "allowed",
    status_5h: str = "allowed",
    status_7d: str = "allowed",
    reset_5h: float | None = None,
    reset_7d: float | None = None,
    claim: str = "five_hour",
    overage: str = "rejected",
) -> tuple[Header, ...]:
    """The whole unified set of a 200 to an OAuth account; resets in epoch seconds, a while ahead if None."""
    reset_5h = int(reset_5h or time.time() + 3 * 3600)
    reset_7d = int(reset_7d or time.time() + 4 * 86400)
    return unified(
        status=status,
        _5h_status=status_5h,
        _5h_reset=reset_5h,
        _5h_utilization=utilization_5h,
        _7d_status=status_7d,
        _7d_reset=reset_7d,
        _7d_utilization=utilization_7d,
        representative_claim=claim,
        fallback_percentage=0.5,
        reset=reset_5h if claim == "five_hour" else reset_7d,
        overage_status=overage,
        overage_disabled_reason="org_level_disabled" if overage == "rejected" else None,
    )


def rejected_headers(reset: float, *, overage: str = "rejected") -> tuple[Header, ...]:
    """The unified set with the 5-hour window spent, for a 200 that overage serves."""
    return allowed_headers(1.01, status="rejected", status_5h="rejected", reset_5h=reset, overage=overage)


def api_key_headers(requests: int = 3999, tokens: int = 399_000) -> tuple[Header, ...]:
    """What an API key is told: what is `remaining` of its requests and tokens a minute."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    reset = soon.strftime("%Y-%m-%dT%H:%M:%SZ")
    left = {"requests": requests, "tokens": tokens, "input-tokens": tokens, "output-tokens": tokens}
    return tuple(
        (f"anthropic-ratelimit-{name}-{part}".encode(), str(value).encode())
        for name, remaining in left.items()
        for part, value in (("limit", max(4000, remaining)), ("remaining", remaining), ("reset", reset))
    )


# --------------------------------------------------------------------------------------------- ready answers

_ids = itertools.count(1)
_STANDING: tuple[Header, ...] = (
    (b"Connection", b"keep-alive"),
    (b"Server", b"cloudflare"),
    (b"via", b"1.1 google"),
    (b"cf-cache-status", b"DYNAMIC"),
    (b"X-Robots-Tag", b"none"),
    (b"anthropic-organization-id", b"3f1c1f0e-0000-4000-8000-00000000cafe"),
)


def _new_id(prefix: str) -> str:
    return f"{prefix}_011CU{next(_ids):019d}"


def json_answer(content: object, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    """Any JSON, with a content-length."""
    return _whole(json.dumps(content, separators=(",", ":")).encode(), b"application/json", status, headers)


def _whole(body: bytes, content_type: bytes, status: int, headers: tuple[Header, ...]) -> Answer:
    own = ((b"Content-Type", content_type), (b"Content-Length", b"%d" % len(body)))
    return Answer(status, (*own, *_STANDING, *headers), (body,))


def usage(
    input_tokens: int = 12,
    output_tokens: int = 10,
    *,
    cache_read: int = 0,
    cache_5m: int = 0,
    cache_1h: int = 0,
    **more: object,
) -> dict[str, object]:
    """A message's `usage` object; `more` is put in as it is."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": cache_5m + cache_1h,
        "cache_read_input_tokens": cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": cache_5m, "ephemeral_1h_input_tokens": cache_1h},
        "output_tokens": output_tokens,
        "service_tier": "standard",
        **more,
    }


def _message(model: str, content: list[object], stop: str | None, used: Mapping[str, object]) -> dict[str, object]:
    return {
        "model": model,
        "id": _new_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": used,
    }


def event(content: Mapping[str, object]) -> bytes:
    """One server-sent event, named after its `type`."""
    return b"event: %s\ndata: %s\n\n" % (
        str(content["type"]).encode(),
        json.dumps(content, separators=(",", ":")).encode(),
    )


def _delta(text: str) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def stamp() -> bytes:
    """A delta whose text is `@<monotonic ns>@`: when it was sent, by a clock that other processes share."""
    return _delta(f"@{time.monotonic_ns()}@")


def sse(
    events: int | Sequence[str] = 5,
    *,
    model: str = "claude-opus-4-8",
    input_tokens: int = 12,
    output_tokens: int = 10,
    delay: float = 0.0,
    gate: Gate | None = None,
    gate_at: int = 1,
    headers: tuple[Header, ...] | None = None,
    stamped: bool = False,
    **counts: Any,
) -> Answer:
    """A streamed message of so many (or just these) text deltas, `delay` seconds before each.

    `gate` holds it when `gate_at` deltas were sent; 0 is after message_start, before any content. `counts` go
    to usage().
    """
    texts = [f"word {n} " for n in range(events)] if isinstance(events, int) else list(events)
    made = usage(input_tokens, 1, **counts)
    start = event({"type": "message_start", "message": _message(model, [], None, made)})
    block = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    steps: list[Step] = [start, *([gate] if gate and gate_at == 0 else []), block, event({"type": "ping"})]
    for number, text in enumerate(texts, 1):
        steps += [Wait(delay)] if delay else []
        steps.append(stamp if stamped else _delta(text))
        steps += [gate] if gate and gate_at == number else []
    steps.append(event({"type": "content_block_stop", "index": 0}))
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    steps.append(event({"type": "message_delta", "delta": end, "usage": {**made, "output_tokens": output_tokens}}))
    steps.append(event({"type": "message_stop"}))
    return sse_answer(*steps, headers=headers)


def sse_tool(name: str, asked: Mapping[str, object], *, model: str = "claude-opus-4-8") -> Answer:
    """A streamed message that asks for one call of a tool."""
    used = usage()
    block = {"type": "tool_use", "id": _new_id("toolu"), "name": name, "input": {}}
    part = {"type": "input_json_delta", "partial_json": json.dumps(asked)}
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    return sse_answer(
        event({"type": "message_start", "message": _message(model, [], None, used)}),
        event({"type": "content_block_start", "index": 0, "content_block": block}),
        event({"type": "content_block_delta", "index": 0, "delta": part}),
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": end, "usage": used}),
        event({"type": "message_stop"}),
    )


def sse_answer(*steps: Step, headers: tuple[Header, ...] | None = None) -> Answer:
    """A 200 event stream of just these steps, with allowed_headers() unless others are given."""
    own = ((b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache"))
    return Answer(200, (*own, *_STANDING, *(allowed_headers() if headers is None else headers)), steps)


def message_json(
    text: str = "Hello.",
    *,
    model: str = "claude-opus-4-8",
    input_tokens: int = 12,
    output_tokens: int = 10,
    headers: tuple[Header, ...] | None = None,
    **counts: Any,
) -> Answer:
    """A message that was not asked to stream."""
    used = usage(input_tokens, output_tokens, **counts)
    content = _message(model, [{"type": "text", "text": text}], "end_turn", used)
    return json_answer(content, headers=allowed_headers() if headers is None else headers)


def count_tokens(tokens: int = 2095) -> Answer:
    """What /v1/messages/count_tokens says."""
    return json_answer({"input_tokens": tokens}, headers=allowed_headers())


def models(*names: str) -> Answer:
    """What /v1/models says."""
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
    return json_answer({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})


def error(status: int, kind: str, message: str, headers: tuple[Header, ...] = ()) -> Answer:
    """An error as the API words it, the same `request-id` in head and body."""
    request_id = _new_id("req")
    content = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return json_answer(content, status, (*headers, (b"request-id", request_id.encode())))


_LIMITED = "This request would exceed your account's rate limit. Please try again later."


def _limited(headers: tuple[Header, ...], message: str = _LIMITED) -> Answer:
    return error(429, "rate_limit_error", message, headers)


def limited_5h(reset: float, retry_after: float | None = None) -> Answer:
    """The 429 of a spent 5-hour window: the headers of a captured one, with this reset (epoch seconds)."""
    left = max(0, reset - time.time()) if retry_after is None else retry_after
    return _limited(
        unified(
            status="rejected",
            reset=int(reset),
            representative_claim="five_hour",
            _5h_status="rejected",
            _5h_reset=int(reset),
            _5h_utilization=1.01,
            _5h_surpassed_threshold=1.0,
            _7d_status="allowed",
            _7d_reset=int(reset) + 488_400,
            _7d_utilization=0.69,
            fallback_percentage=0.5,
            overage_status="rejected",
            overage_disabled_reason="org_level_disabled",
        )
        + _headers(retry_after=int(left), x_should_retry="true")
    )


def limited_only_windows(reset: float) -> Answer:
    """The other 429 seen for a spent window: per-window headers alone, no aggregate, no retry-after."""
    return _limited(unified(_5h_status="rejected", _5h_reset=int(reset), _5h_utilization=1.01))


def model_bucket(reset: float, claim: str = "seven_day_opus") -> Answer:
    """A 429 for one family of models, its windows allowed; `seven_day_overage_included` brings 7d_oi."""
    bucket: dict[str, object] = {}
    if claim == "seven_day_overage_included":
        bucket = {"_7d_oi_status": "rejected", "_7d_oi_utilization": 1.0, "_7d_oi_reset": int(reset)}
    windows = {
        "_5h_status": "allowed",
        "_5h_utilization": 0.2,
        "_7d_status": "allowed",
        "_7d_utilization": 0.7,
    }
    headers = unified(status="rejected", reset=int(reset), representative_claim=claim, **windows, **bucket)
    left = max(0, int(reset - time.time()))
    return _limited(headers + _headers(retry_after=left, x_should_retry="true"))


def out_of_credits() -> Answer:
    """A 429 because paid extra usage has run out; it names no reset."""
    windows = {
        "_5h_status": "allowed",
        "_5h_utilization": 0.1,
        "_7d_status": "allowed",
        "_7d_utilization": 0.1,
    }
    overage = {"overage_status": "rejected", "overage_disabled_reason": "out_of_credits"}
    return _limited(unified(**windows, **overage), "Extra usage is required for long context requests.")


def bare_429() -> Answer:
    """A 429 that says nothing: no window, no retry-after, the message "Error"."""
    return _limited(_headers(x_should_retry="true"), "Error")


def short_throttle(retry_after: int = 5) -> Answer:
    """A 429 for a few seconds while every window is allowed."""
    return _limited(allowed_headers() + _headers(retry_after=retry_after, x_should_retry="true"))


def overloaded() -> Answer:
    """529: too much for Anthropic, whoever asks."""
    return error(529, "overloaded_error", "Overloaded", _headers(x_should_retry="true"))


def failure(status: int = 500, *, html: bool = False, should_retry: bool | None = None) -> Answer:
    """A 5xx, as JSON or as the HTML page of whatever stands in front."""
    headers = _headers(x_should_retry=None if should_retry is None else str(should_retry).lower())
    if html:
        page = b"<html><head><title>%d</title></head><body>%s</body></html>" % (status, _reason(status))
        return _whole(page, b"text/html", status, headers)
    return error(status, "api_error", "Internal server error", headers)


def unauthorized(message: str = "OAuth token has expired. Please obtain a new token.") -> Answer:
    """401: this credential is not accepted."""
    return error(401, "authentication_error", message, _headers(x_should_retry="false"))


def permission_denied() -> Answer:
    """403: this account may not do that."""
    message = "OAuth authentication is currently not allowed for this organization."
    return error(403, "permission_error", message, _headers(x_should_retry="false"))


def bad_request(message: str = "max_tokens: Field required") -> Answer:
    """400: the client's own mistake."""
    return error(400, "invalid_request_error", message, _headers(x_should_retry="false"))


def error_event(kind: str, message: str = "Overloaded") -> bytes:
    """An error inside of an event stream."""
    return event({"type": "error", "error": {"type": kind, "message": message}, "request_id": _new_id("req")})


def sse_error_first(kind: str = "overloaded_error", *, started: bool = False) -> Answer:
    """A 200 whose stream is an error before any content; with `started` after a message_start."""
    start = [sse(0).chunks[0]] if started else []
    return sse_answer(*start, error_event(kind))


def sse_error_midway(kind: str = "overloaded_error", *, after: int = 2) -> Answer:
    """A stream that turns into an error after so many deltas."""
    return sse_answer(*_up_to(sse(after), after), error_event(kind))


def _up_to(answer: Answer, deltas: int) -> tuple[Step, ...]:
    return answer.chunks[: 3 + deltas]  # message_start, content_block_start and ping come first


def cut_midway(*, after: int = 2, reset: bool = False, stream: bool = False) -> Answer:
    """A stream that ends in the air after so many deltas, by a FIN, a RST or (HTTP/2) a RST_STREAM."""
    return sse_answer(*_up_to(sse(after), after), Wait(0.05), Cut(reset, stream))  # let the peer read before a RST


def cut_after(answer: Answer, size: int, *, reset: bool = False) -> Answer:
    """The answer up to that many bytes of its body, then the end; a content-length stays as it was."""
    steps: list[Step] = []
    for chunk in answer.chunks:
        if isinstance(chunk, bytes):
            chunk, size = chunk[:size], size - len(chunk)
        steps.append(chunk)
        if size <= 0:
            break
    return replace(answer, chunks=(*steps, Wait(0.05), Cut(reset)))


def reset_before_head() -> Answer:
    """A RST in the place of an answer."""
    return Answer(before=(Cut(reset=True),))


def close_before_head() -> Answer:
    """The end of the connection in the place of an answer."""
    return Answer(before=(Cut(),))


def stall_before_head(seconds: float, then: Answer | None = None) -> Answer:
    """Silence, and after it an answer (a stream, if none is given)."""
    return replace(then or sse(), before=(Wait(seconds),))


def stall_midway(seconds: float, *, after: int = 1, events: int = 3) -> Answer:
    """A stream with one long silence after so many deltas."""
    whole = sse(events)
    at = 3 + after
    return replace(whole, chunks=(*whole.chunks[:at], Wait(seconds), *whole.chunks[at:]))


def garbage(data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Answer:
    """Bytes that are no HTTP, then the end."""
    return Answer(chunks=(data, Cut()), raw=True)


def huge(size: int = 32 << 20, *, status: int = 200) -> Answer:
    """A JSON answer far larger than anyone expects, in pieces of 64 KiB."""
    piece = b" " * 65536
    return Answer(
        status, ((b"Content-Type", b"application/json"), *_STANDING), (b"{", *[piece] * (size // 65536), b"}")
    )


def encoded(answer: Answer, encoding: str) -> Answer:
    """The same answer in gzip, deflate, br or zstd, each chunk flushed so that it can be read at once."""
    compress, finish = _compressor(encoding)
    chunks = [compress(chunk) if isinstance(chunk, bytes) else chunk for chunk in answer.chunks]
    kept = tuple(header for header in answer.headers if header[0].lower() != b"content-length")
    return replace(answer, headers=(*kept, (b"Content-Encoding", encoding.encode())), chunks=(*chunks, finish()))


def _compressor(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if encoding == "br":
        packer = brotli.Compressor(quality=4)
        return lambda data: packer.process(data) + packer.flush(), packer.finish
    if encoding == "zstd":
        return zstd_kit.compressor()
    squeezer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[encoding])
    return lambda data: squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH), squeezer.flush


# -------------------------------------------------------------------------------------------- the OAuth side


@dataclass(slots=True, eq=False)
class _Family:
    """What began with one login: its live refresh token, and whether reuse of a spent one has killed it."""

    live: str = ""
    dead: bool = False


class Logins:
    """The token endpoint: refresh tokens are single-use, and using a spent one ends the whole login.

    The attributes make it misbehave: `expires_in` is sent as it is, `gives_refresh_token=False` leaves it out
    (the old one then stays valid). To have it down or huge, script it: `answer(failure(503), path=TOKEN)`;
    to have it slow, `always(lambda r: stall_before_head(5, upstream.logins.token(r)), path=TOKEN)`.
    """

    def __init__(self) -> None:
        self.expires_in: object = 28_800
        self.gives_refresh_token = True
        self.refreshes = 0
        self.reuses = 0
        self._families: dict[str, _Family] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._count = itertools.count(1)

    def new_login(self) -> tuple[str, str]:
        """A fresh pair of access token and refresh token."""
        return self._next_pair(_Family())

    def is_live(self, refresh_token: str) -> bool:
        """Whether this refresh token would be taken."""
        family = self._families.get(refresh_token)
        return family is not None and not family.dead and family.live == refresh_token

    def end(self, refresh_token: str) -> None:
        """End the login that this refresh token belongs to, as time or its owner would."""
        self._families[refresh_token].dead = True

    def token(self, request: Request) -> Answer:
        """POST /v1/oauth/token, the grants `refresh_token` and `authorization_code`, JSON or form."""
        try:
            asked = _fields(request)
        except ValueError:
            return _refused("invalid_request", "The request could not be read")
        grants = {"refresh_token": self._refresh, "authorization_code": self._exchange}
        grant = grants.get(asked.get("grant_type", ""))
        return grant(asked) if grant else _refused("unsupported_grant_type", "Unknown grant type")

    def authorize(self, request: Request) -> Answer:
        """GET /oauth/authorize: `code#state`, which the real page shows for a person to copy."""
        asked = request.query
        missing = {"client_id", "redirect_uri", "state", "code_challenge"} - asked.keys()
        if missing or asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            return _refused(
                "invalid_request",
                f"Missing or wrong: {sorted(missing) or 'response type or challenge method'}",
            )
        code = secrets.token_urlsafe(24)
        self._codes[code] = asked
        return _whole(f"{code}#{asked['state']}".encode(), b"text/plain", 200, ())

    def _refresh(self, asked: dict[str, str]) -> Answer:
        self.refreshes += 1
        family = self._families.get(asked.get("refresh_token", ""))
        if family is None:
            return _refused("invalid_grant", "Refresh token not found or invalid")
        family.dead = family.dead or family.live != asked["refresh_token"]
        if family.dead:
            self.reuses += 1
            return _refused("invalid_grant", "Refresh token not found or invalid")
        return self._granted(family)

    def _exchange(self, asked: dict[str, str]) -> Answer:
        promised = self._codes.pop(asked.get("code", ""), None)
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same = ("client_id", "redirect_uri", "state")
        if promised is None or promised["code_challenge"] != challenge:
            return _refused("invalid_grant", "Invalid authorization code or code verifier")
        if any(asked.get(name) != promised[name] for name in same):
            return _refused("invalid_grant", "client_id, redirect_uri or state do not match")
        return self._granted(_Family())

    def _granted(self, family: _Family) -> Answer:
        access, refresh = self._next_pair(family) if self.gives_refresh_token else (self._new_token("oat"), None)
        content = {
            "token_type": "Bearer",
            "access_token": access,
            "expires_in": self.expires_in,
            "refresh_token": refresh,
            "refresh_token_expires_in": 28 * 86_400,
            "scope": "user:inference user:profile user:sessions:claude_code",
            "organization": {"uuid": "3f1c1f0e-0000-4000-8000-00000000cafe", "name": "Example"},
            "account": {"uuid": "3f1c1f0e-0000-4000-8000-00000000beef", "email_address": "owner@example.com"},
        }
        return json_answer({name: value for name, value in content.items() if value is not None})

    def _next_pair(self, family: _Family) -> tuple[str, str]:
        family.live = self._new_token("ort")
        self._families[family.live] = family
        return self._new_token("oat"), family.live

    def _new_token(self, kind: str) -> str:
        return f"sk-ant-{kind}01-{next(self._count):04d}-{secrets.token_urlsafe(60)}"


def _fields(request: Request) -> dict[str, str]:
    """The body's fields, JSON or form; ValueError if it is neither."""
    if "json" not in (request.header("content-type") or ""):
        return {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
    content = request.json()
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return {name: str(value) for name, value in content.items()}


def _refused(code: str, description: str) -> Answer:
    return json_answer({"error": code, "error_description": description}, 400)


def create_api_key(request: Request) -> Answer:
    """POST /api/oauth/claude_cli/create_api_key: a new key for whoever shows a token."""
    if not request.credential:
        return unauthorized("Authentication required")
    return json_answer({"raw_key": f"sk-ant-api03-{secrets.token_urlsafe(60)}"})


def oauth_usage(five_hour: float = 21.0, seven_day: float = 34.0) -> Answer:
    """GET /api/oauth/usage: utilization in per cent, resets in ISO time."""
    now = datetime.datetime.now(datetime.UTC)
    windows = {"five_hour": (five_hour, 3), "seven_day": (seven_day, 96), "seven_day_opus": (0.0, 96)}
    return json_answer(
        {
            name: {"utilization": percent, "resets_at": (now + datetime.timedelta(hours=hours)).isoformat()}
            for name, (percent, hours) in windows.items()
        }
        | {
            "extra_usage": {
                "is_enabled": False,
                "monthly_limit": None,
                "used_credits": None,
                "utilization": None,
            }
        }
    )


# ------------------------------------------------------------------------------------- who gets which answer

MESSAGES = "/v1/messages"
TOKEN = "/v1/oauth/token"

AnswerFunction = Callable[[Request], Answer | None]
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')


class Script:
    """What to answer: queues first, then standing answers, the most specific first; else the usual answer."""

    def __init__(self) -> None:
        self.logins = Logins()
        self._queues: defaultdict[tuple[str | None, str | None], deque[Answer | AnswerFunction]] = defaultdict(deque)
        self._standing: dict[tuple[str | None, str | None], Answer | AnswerFunction] = {}
        self._routes: dict[str, AnswerFunction] = {
            MESSAGES: _default_message,
            "/v1/messages/count_tokens": lambda _: count_tokens(),
            "/v1/models": lambda _: models("claude-opus-4-8", "claude-haiku-4-5-20251001"),
            TOKEN: self.logins.token,
            "/oauth/authorize": self.logins.authorize,
            "/api/oauth/claude_cli/create_api_key": create_api_key,
            "/api/oauth/usage": lambda _: oauth_usage(),
            "/": lambda _: Answer(200, ((b"Content-Length", b"0"),)),
        }

    def answer(self, *answers: Answer | AnswerFunction, credential: str | None = None, path: str | None = None) -> None:
        """Queue answers for the next requests with this credential and (or) path, one each."""
        self._queues[credential, path].extend(answers)

    def always(
        self, answer: Answer | AnswerFunction, *, credential: str | None = None, path: str | None = None
    ) -> None:
        """Answer every such request so, once its queue is empty. A function may return None to pass."""
        self._standing[credential, path] = answer

    def choose(self, request: Request) -> Answer:
        """The answer for this request."""
        if self._queues or self._standing:
            path, credential = request.path, request.credential
            for rule in self._rules(((credential, path), (credential, None), (None, path), (None, None))):
                found = rule if isinstance(rule, Answer) else rule(request)
                if found is not None:
                    return found
        route = self._routes.get(request.path)
        found = route(request) if route else None
        return found or error(404, "not_found_error", "Not found")

    def _rules(
        self, keys: Sequence[tuple[str, str | None] | tuple[None, str | None]]
    ) -> Iterator[Answer | AnswerFunction]:
        for key in keys:
            if queue := self._queues.get(key):
                yield queue.popleft()
        for key in keys:
            if key in self._standing:
                yield self._standing[key]


def limit_after(served: int, reset: float) -> AnswerFunction:
    """A standing rule: that many requests pass, from then on the 5-hour window is spent."""
    left = itertools.chain(itertools.repeat(True, served), itertools.repeat(False))
    return lambda _: None if next(left) else limited_5h(reset)


def _default_message(request: Request) -> Answer:
    """A message of the model that was asked for; `?fake_events=&fake_delay=&fake_stamped=1` shape it."""
    found = _MODEL.search(request.body)
    model = found[1].decode("latin-1") if found else "claude-opus-4-8"
    is_key = request.credential.startswith("sk-ant-api")
    if not _STREAM.search(request.body):
        return _cached_json(model, is_key)
    if "fake_" not in request.target:
        return _cached_sse(model, is_key, 5, 0.0, False)
    shape = request.query
    return _cached_sse(
        model,
        is_key,
        int(shape.get("fake_events", 5)),
        float(shape.get("fake_delay", 0)),
        "fake_stamped" in shape,
    )


def _told(is_key: bool) -> tuple[Header, ...]:
    return api_key_headers() if is_key else allowed_headers()


@cache
def _cached_json(model: str, is_key: bool) -> Answer:
    return message_json(model=model, headers=_told(is_key))


@cache
def _cached_sse(model: str, is_key: bool, events: int, delay: float, stamped: bool) -> Answer:
    return sse(events, model=model, output_tokens=2 * events, delay=delay, stamped=stamped, headers=_told(is_key))


# ----------------------------------------------------------------------------------- how an answer is played


class Channel(Protocol):
    """Where an exchange writes: one HTTP/1.1 connection or one HTTP/2 stream."""

    blocked: bool

    def steps(self, answer: Answer) -> tuple[Step, ...]: ...
    def start(self, request: Request, answer: Answer) -> None: ...
    def write(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def finish(self, answer: Answer) -> None: ...
    def cut(self, cut: Cut) -> None: ...


class _Mark(Enum):
    HEAD = "the head goes out"
    END = "the answer is whole"


class Exchange:
    """One request being answered: plays the steps until one has to wait, and again when that is over."""

    def __init__(self, upstream: "FakeUpstream", channel: Channel, request: Request, answer: Answer) -> None:
        self._upstream = upstream
        self._channel = channel
        self._request = request
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._held = False  # at a wait or a gate: a connection that takes bytes again must not skip it
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        body = () if request.method == "HEAD" else channel.steps(answer)
        head = () if answer.raw else (_Mark.HEAD,)
        self._steps = itertools.chain(answer.before, head, body, (_Mark.END,))

    def play(self) -> None:
        """Go on until something has to be waited for, or the end."""
        if self._over or self._held or self._channel.blocked:
            return
        for step in self._steps:
            if type(step) is bytes:
                self._channel.write(step)
            elif not self._passes(step):
                break
            if self._channel.blocked:
                break
        if not self._over:
            self._channel.flush()

    def abort(self) -> None:
        """The client is gone."""
        if not self._over:
            self._end(aborted=True)

    def _passes(self, step: Step | _Mark) -> bool:
        """Whether the next step may follow at once."""
        match step:
            case _Mark.HEAD:
                self._channel.start(self._request, self._answer)
                return True
            case _Mark.END:
                self._end(aborted=False)
                self._channel.finish(self._answer)
                return False
            case Wait(seconds):
                self._due = (self._due or self._loop.time()) + seconds
                self._held = True
                self._timer = self._loop.call_at(self._due, self._go_on)
                return False
            case Gate():
                self._due = None
                self._channel.flush()
                self._held = not step.passes(self._wake)
                return not self._held
            case Cut():
                self._channel.flush()
                self._end(aborted=False)
                self._channel.cut(step)
                return False
        self._channel.write(step())  # type: ignore[operator]
        return True

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        self._held = False
        self.play()

    def _end(self, *, aborted: bool) -> None:
        self._over = True
        if self._timer:
            self._timer.cancel()
        self._upstream.note_end(self._request, aborted=aborted)


def _reset(transport: asyncio.Transport) -> None:
    """Close with a RST."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Head(NamedTuple):
    method: str
    target: str
    headers: tuple[Header, ...]
    length: int
    chunked: bool
    host: str
    expects: bool


def _parse_head(data: bytes) -> _Head:
    """A request's head; ValueError if it is none."""
    first, *lines = data.split(b"\r\n")
    method, target, version = first.split(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(version)
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
    known = {name.lower(): value for name, value in headers}
    return _Head(
        method.decode("latin-1"),
        target.decode("latin-1"),
        headers,
        int(known.get(b"content-length", 0)),
        b"chunked" in known.get(b"transfer-encoding", b"").lower(),
        known.get(b"host", b"").decode("latin-1"),
        known.get(b"expect", b"").lower() == b"100-continue",
    )


def _unchunk(buffer: bytearray) -> tuple[bytes, int] | None:
    """A chunked body and its length on the wire, None if it is not all there; ValueError if it is none."""
    body, at = bytearray(), 0
    while (end := buffer.find(b"\r\n", at)) >= 0:
        size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
        if len(buffer) < end + size + 4:
            return None
        if size == 0:
            return bytes(body), end + 4
        body += buffer[end + 2 : end + 2 + size]
        at = end + size + 4
    return None


class Http1(asyncio.Protocol):
    """One HTTP/1.1 connection: keep-alive, one answer at a time, pipelined requests wait."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self.blocked = False
        self._upstream = upstream
        self._number = 0
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._held = b""  # the head, until the first bytes of the body go with it
        self._method = ""
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.note_connection(transport)

    def data_received(self, data: bytes) -> None:
        self._upstream.bytes_received += len(data)
        self._buffer += data
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.note_disconnection(self._transport)
        if self._exchange:
            self._exchange.abort()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self._exchange:
            self._exchange.play()

    def steps(self, answer: Answer) -> tuple[Step, ...]:
        return answer.frames

    def start(self, request: Request, answer: Answer) -> None:
        self._held = b"%srequest-id: %s\r\n\r\n" % (answer.head, request.id.encode())

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        if self._held:
            self.write(b"")

    def finish(self, answer: Answer) -> None:
        if answer.is_chunked and self._method != "HEAD":
            self.write(b"0\r\n\r\n")
        self.flush()
        self._exchange = None
        if answer.close or answer.raw:
            self._transport.close()
        else:
            asyncio.get_running_loop().call_soon(self._serve)  # a next request may have come meanwhile

    def cut(self, cut: Cut) -> None:
        self._exchange = None
        if cut.reset:
            _reset(self._transport)
        else:
            self._transport.close()

    def _serve(self) -> None:
        while self._exchange is None and not self._transport.is_closing():
            try:
                request = self._take()
            except ValueError:
                self._upstream.malformed.append(bytes(self._buffer))
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self._transport.close()
                return
            if request is None:
                return
            self._respond(request)

    def _respond(self, request: Request) -> None:
        answer = self._upstream.begin(request)
        if answer.is_whole and request.method != "HEAD":
            self._transport.write(
                b"%srequest-id: %s\r\n\r\n%s" % (answer.head, request.id.encode(), b"".join(answer.chunks))  # type: ignore[arg-type]
            )
            self._upstream.note_end(request, aborted=False)
            return
        self._method = request.method
        self._exchange = Exchange(self._upstream, self, request, answer)
        self._exchange.play()

    def _take(self) -> Request | None:
        """The next whole request, None while there is none; ValueError if it makes no sense."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head.expects:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._take_body(self._head)
        if body is None:
            return None
        head, self._head = self._head, None
        credential = _credential(head.headers)
        return Request(head.method, head.target, head.headers, body, head.host, credential, self._number, "HTTP/1.1")

    def _take_body(self, head: _Head) -> bytes | None:
        if head.chunked:
            found = _unchunk(self._buffer)
        else:
            found = (bytes(self._buffer[: head.length]), head.length) if len(self._buffer) >= head.length else None
        if found is None:
            return None
        body, size = found
        del self._buffer[:size]
        return body


@dataclass(slots=True, eq=False)
class _Http2Stream:
    """One HTTP/2 stream as a channel."""

    connection: "Http2"
    id: int
    headers: tuple[Header, ...] = ()
    body: bytearray = field(default_factory=bytearray)
    exchange: Exchange | None = None
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False
    blocked: bool = False  # never: what the peer's window does not take is kept in `pending`

    def steps(self, answer: Answer) -> tuple[Step, ...]:
        return () if answer.raw else answer.chunks

    def start(self, request: Request, answer: Answer) -> None:
        self.connection.send_head(self.id, request, answer)

    def write(self, data: bytes) -> None:
        self.pending += data
        self.connection.send_pending(self)

    def flush(self) -> None:
        self.connection.flush()

    def finish(self, answer: Answer) -> None:
        self.ended = True
        self.connection.send_pending(self)
        self.connection.flush()
        if answer.close or answer.raw:
            self.connection.cut(self.id, Cut())

    def cut(self, cut: Cut) -> None:
        self.connection.cut(self.id, cut)


class Http2(asyncio.Protocol):
    """One HTTP/2 connection with any number of streams."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self._upstream = upstream
        self._number = 0
        self._transport: asyncio.Transport
        self._streams: dict[int, _Http2Stream] = {}
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.note_connection(transport)
        self._h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._upstream.bytes_received += len(data)
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._upstream.malformed.append(data)
            self.flush()
            self._transport.close()
            return
        for received in events:
            self._handle(received)
        for stream in list(self._streams.values()):
            self.send_pending(stream)  # a window may have opened
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.note_disconnection(self._transport)
        for stream in self._streams.values():
            if stream.exchange:
                stream.exchange.abort()
        self._streams.clear()

    def send_head(self, stream_id: int, request: Request, answer: Answer) -> None:
        hop_by_hop = (b"connection", b"request-id")
        fields = [(name.lower(), value) for name, value in answer.headers if name.lower() not in hop_by_hop]
        status = (b":status", b"%d" % answer.status)
        with contextlib.suppress(ProtocolError):  # the client has reset it
            self._h2.send_headers(stream_id, [status, *fields, (b"request-id", request.id.encode())])

    def send_pending(self, stream: _Http2Stream) -> None:
        """Send what the windows let through, and the end if there is nothing more."""
        try:
            while stream.pending:
                size = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
                if size <= 0:
                    return
                self._h2.send_data(stream.id, bytes(stream.pending[:size]))
                del stream.pending[:size]
            if stream.ended:
                self._streams.pop(stream.id, None)
                self._h2.end_stream(stream.id)
        except (ProtocolError, KeyError):
            self._streams.pop(stream.id, None)

    def cut(self, stream_id: int, cut: Cut) -> None:
        self._streams.pop(stream_id, None)
        if cut.stream:
            with contextlib.suppress(ProtocolError):
                self._h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
            self.flush()
        elif cut.reset:
            _reset(self._transport)
        else:
            self._transport.close()

    def flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    def _handle(self, received: Event) -> None:
        match received:
            case RequestReceived(stream_id=int(stream_id), headers=headers):
                plain = tuple((bytes(name), bytes(value)) for name, value in headers or ())
                self._streams[stream_id] = _Http2Stream(self, stream_id, plain)
            case DataReceived(stream_id=int(stream_id)):
                if stream := self._streams.get(stream_id):
                    stream.body += received.data or b""
                with contextlib.suppress(StreamClosedError):
                    self._h2.acknowledge_received_data(received.flow_controlled_length or 0, stream_id)
            case StreamEnded(stream_id=int(stream_id)):
                if stream := self._streams.get(stream_id):
                    self._respond(stream)
            case StreamReset(stream_id=int(stream_id)):
                if (stream := self._streams.pop(stream_id, None)) and stream.exchange:
                    stream.exchange.abort()
            case ConnectionTerminated():
                self._transport.close()

    def _respond(self, stream: _Http2Stream) -> None:
        pseudo = {name: value.decode("latin-1") for name, value in stream.headers if name.startswith(b":")}
        plain = tuple(header for header in stream.headers if not header[0].startswith(b":"))
        request = Request(
            pseudo.get(b":method", ""),
            pseudo.get(b":path", ""),
            plain,
            bytes(stream.body),
            pseudo.get(b":authority", ""),
            _credential(plain),
            self._number,
            "HTTP/2",
        )
        answer = self._upstream.begin(request)
        if answer.raw:
            self._transport.write(b"".join(step for step in answer.chunks if isinstance(step, bytes)))
        stream.exchange = Exchange(self._upstream, stream, request, answer)
        stream.exchange.play()


class _Negotiated(asyncio.Protocol):
    """A TLS connection until it is known which HTTP was agreed on."""

    def __init__(self, upstream: "FakeUpstream") -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol: asyncio.Protocol = Http2(self._upstream) if agreed == "h2" else Http1(self._upstream)
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


# ---------------------------------------------------------------------------------------------- certificates

HOSTS = (
    "localhost",
    "127.0.0.1",
    "api.anthropic.com",
    "claude.ai",
    "platform.claude.com",
    "console.anthropic.com",
)


class Certificates(NamedTuple):
    """Files in PEM: an authority of our own, and a server's chain and key signed by it."""

    ca_file: Path
    chain_file: Path
    key_file: Path


def make_certificates(folder: Path, hosts: Sequence[str] = HOSTS, *, expired: bool = False) -> Certificates:
    """A new authority and a certificate for these host names and addresses, written into `folder`."""
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("ccflare test authority", ca_key.public_key(), ca_key, None, (), expired=False)
    server = _certificate(hosts[0], key.public_key(), ca_key, authority, hosts, expired=expired)
    files.ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.chain_file.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files.key_file.write_bytes(key.private_bytes(*encoding))
    files.ca_file.chmod(0o644)  # whatever the umask is: a proxy does not trust an authority that others can change
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    hosts: Sequence[str],
    *,
    expired: bool,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    is_ca = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * day)
        .not_valid_after(now - day if expired else now + 7 * day)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_key_usage(is_ca), critical=True)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


# ------------------------------------------------------------------------------------------------ the server


class FakeUpstream(Script):
    """The server, its script and its log. As a context manager it serves from a thread of its own.

    `log=False` keeps no requests (those of a benchmark would fill the memory). With `tls` the one to trust
    is `ca_file`; `hosts` and `expired` make a certificate to be refused. `http2` (needs `tls`) offers h2.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        http2: bool = False,
        port: int = 0,
        hosts: Sequence[str] = HOSTS,
        expired: bool = False,
        folder: Path | None = None,
        log: bool = True,
    ) -> None:
        super().__init__()
        self.connections = 0
        self.bytes_received = 0
        self.malformed: list[bytes] = []
        self.server_names: list[str | None] = []
        """What the TLS of each connection has asked for (SNI)."""
        self._log = log
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._transports: set[asyncio.Transport] = set()
        self._resources = contextlib.ExitStack()
        self._tls: ssl.SSLContext | None = None
        self._certificates: Certificates | None = None
        if tls:
            self._set_up_tls(folder, hosts, expired=expired, http2=http2)
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._socket.getsockname()[1]

    def _set_up_tls(self, folder: Path | None, hosts: Sequence[str], *, expired: bool, http2: bool) -> None:
        if folder is None:
            folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="fake-upstream-")))
        self._certificates = make_certificates(folder, hosts, expired=expired)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self._certificates.chain_file, self._certificates.key_file)
        self._tls.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        self._tls.sni_callback = lambda _, name, __: self.server_names.append(name)

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:port`, or `https://localhost:port` (a name, so that SNI is used)."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The authority that signed its certificate; ValueError without TLS."""
        if self._certificates is None:
            raise ValueError("this upstream speaks plain HTTP")
        return self._certificates.ca_file

    @property
    def chain_file(self) -> Path:
        """Its own certificate; ValueError without TLS."""
        return self.ca_file.with_name("server.pem")

    # -- what tests look at

    @property
    def requests(self) -> list[Request]:
        """Every whole request so far, in the order in which they were complete."""
        with self._changed:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Request]:
        """The requests, as soon as there are that many; TimeoutError if that takes too long."""
        self.wait_until(lambda: len(self._requests) >= count, timeout)
        return self.requests

    def wait_until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Return when the predicate holds, asked again whenever something happened; TimeoutError else."""
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                got = [(request.method, request.target, request.credential) for request in self._requests]
                raise TimeoutError(f"not within {timeout} s; the requests so far: {got}")

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._transports)

    # -- what the protocols tell

    def begin(self, request: Request) -> Answer:
        """Log a request and choose its answer."""
        answer = self.choose(request)
        request.id = answer.request_id or _new_id("req")
        if self._log:
            with self._changed:
                self._requests.append(request)
                self._changed.notify_all()
        return answer

    def note_end(self, request: Request, *, aborted: bool) -> None:
        """An answer has been handed over, or nobody is there to take it."""
        if self._log:
            with self._changed:
                request.aborted, request.finished = aborted, not aborted
                self._changed.notify_all()

    def note_connection(self, transport: asyncio.Transport) -> int:
        """The new connection's number, from 1."""
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not for a socket it did not make
        self._transports.add(transport)
        self.connections += 1
        return self.connections

    def note_disconnection(self, transport: asyncio.Transport) -> None:
        self._transports.discard(transport)
        with self._changed:
            self._changed.notify_all()

    # -- serving

    async def serve(self, until: asyncio.Event, ready: threading.Event | None = None) -> None:
        """Serve until the event is set, then cut whatever is open."""
        factory = (lambda: _Negotiated(self)) if self._tls else (lambda: Http1(self))
        server = await asyncio.get_running_loop().create_server(factory, sock=self._socket, ssl=self._tls)
        if ready:
            ready.set()
        await until.wait()
        server.close()
        for transport in list(self._transports):
            transport.abort()
        await asyncio.sleep(0)  # let connection_lost run

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fake upstream", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise TimeoutError("the fake upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._resources.close()

    def _run(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self.serve(self._stop, ready)

        asyncio.run(main())


# ----------------------------------------------------------------------------------------------- the process


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A simulated api.anthropic.com; prints its port and serves until SIGTERM."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="serve TLS; ca.pem is written there")
    parser.add_argument("--http2", action="store_true", help="offer HTTP/2 too (with --tls)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="CREDENTIAL=N", help="limit it after N requests"
    )
    parser.add_argument("--reset-after", type=float, default=3600, metavar="SECONDS", help="when the limit resets")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input ends")
    return parser.parse_args(argv)


async def _serve(upstream: FakeUpstream, *, stop_with_stdin: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:

        def read() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=read, daemon=True).start()
    print(upstream.port, flush=True)
    await upstream.serve(stop)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve as a process."""
    options = _arguments(argv)
    upstream = FakeUpstream(
        tls=options.tls is not None, http2=options.http2, port=options.port, folder=options.tls, log=False
    )
    reset = time.time() + options.reset_after
    for limit in options.limit:
        credential, _, served = limit.rpartition("=")
        upstream.always(limit_after(int(served), reset), credential=credential)
    asyncio.run(_serve(upstream, stop_with_stdin=options.stop_with_stdin))


if __name__ == "__main__":
    main()
