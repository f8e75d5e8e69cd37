"""Blanks the secrets in a recorded body, for the mode `redacted`. Pure, but slow: for the writer's thread.

A request that goes on from an earlier one of its session is searched only where it differs (see stretches.py).

It fails closed: of a body that cannot be decoded, is too long or raises anything, only its size is kept.
"""

from dataclasses import replace

from ccflare_core.exchange.records import Payload
from ccflare_core.http.content_coding import Decoder
from ccflare_core.secrets import redact
from ccflare_core.secrets.redact import Redacted, Span
from ccflare_core.transcripts import stream_text
from ccflare_core.transcripts.changes import runs
from ccflare_core.transcripts.conversations import Conversations
from ccflare_core.transcripts.stretches import Searched, search

_LEAST = 8192
"""Of a shorter body the whole search takes no longer than to remember it."""
MOST_BYTES = 32 * 1024 * 1024
"""How long a body may be, decoded, to be searched. That takes 10 to 20 ms for each MB."""


def without_secrets(payload: Payload, earlier: Conversations[Searched] | None = None) -> Payload:
    """The payload to store, with the number of `redactions`; as it was if it is not to be looked at.

    A body without secrets stays as it was on the wire. One with some is stored decoded. One that cannot be
    searched is `withheld`. Never raises.
    """
    if not payload.redact:
        return payload
    try:
        plain = _decoded(payload)
        found = _redacted(plain, payload, earlier)
    except Exception:  # whatever it was, the body has not been searched
        return replace(payload, redact=False, withheld=True, body=b"", content_encoding="", truncated=True)
    if not found.secrets:
        return payload.searched(0, payload.body, payload.content_encoding)
    return payload.searched(found.secrets, found.data, "")


def _decoded(payload: Payload) -> bytes:
    if len(payload.body) > MOST_BYTES:
        raise redact.TooMuch
    if not payload.content_encoding:
        return payload.body
    decoder = Decoder(payload.content_encoding, MOST_BYTES)
    plain = decoder.feed(payload.body)
    if decoder.trouble:
        raise ValueError(decoder.trouble)
    return plain


def _redacted(plain: bytes, payload: Payload, earlier: Conversations[Searched] | None) -> Redacted:
    if "event-stream" in payload.content_type:
        return _redacted_stream(plain)
    session = payload.session_id
    if earlier is None or payload.part != "request" or not session or len(plain) < _LEAST:
        return redact.redact(plain)
    last = earlier.closest(session, plain)
    searched = search(plain, last, runs(last.body, plain) if last else ())
    earlier.keep(session, searched)
    return redact.blank(plain, searched.spans)


def _redacted_stream(stream: bytes) -> Redacted:
    """Also without secrets that the events have between them."""
    spans = redact.find(stream)
    for pieces in stream_text.pieces(stream):
        joined = b"".join(stream[begin:end] for begin, end in pieces)
        for span in redact.find(joined):
            spans += _spread(span, pieces)
    return redact.blank(stream, spans)


def _spread(span: Span, pieces: stream_text.Pieces) -> list[Span]:
    """A span of the joined pieces as spans of the stream; the label goes to the first."""
    found: list[Span] = []
    offset = 0
    for begin, end in pieces:
        low, high = max(span.start - offset, 0), min(span.end - offset, end - begin)
        if low < high:
            found.append(Span(begin + low, begin + high, "" if found else span.label))
        offset += end - begin
    return found
