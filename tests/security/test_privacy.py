"""What SECURITY.md promises of what is kept and of who can read it. Each name starts with the requirement."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core import privacy, redact
from ccflare_core.key_sources import KeyFile
from ccflare_core.privacy import without_secrets
from ccflare_core.records import Payload
from ccflare_core.settings import Settings
from ccflare_core.store import Store
from database_kit import open_store, started
from fake_upstream import Answer, FakeUpstream, encoded, event, message_json, sse
from harness import Proxy, StartProxy, claude_request, via_base_url

KEY = "sk-ant-api03-PLANTED-in-a-prompt-0123456789"
SECRETS = (KEY, "ghp_PLANTEDPLANTEDPLANTED012345", "xoxb-PLANTED-0123456789", "AKIAPLANTEDPLANTED12")


def payload(body: bytes, *, encoding: str = "", kind: str = "application/json", redact: bool = True) -> Payload:
    return Payload("req_1", "response", kind, encoding, body, len(body), False, redact=redact)


def streamed(*texts: str, kind: str = "text_delta", field: str = "text", index: int = 0) -> bytes:
    """A stream that says these, in events of a block of this kind."""
    deltas = (
        event({"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}) for text in texts
    )
    return b"".join(deltas)


def texts_in(stream: bytes, field: str = "text") -> str:
    """What a client would make of it."""
    lines = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
    return "".join(line["delta"][field] for line in lines if line["type"] == "content_block_delta")


def wire(answer: Answer) -> bytes:
    return b"".join(chunk for chunk in answer.chunks if isinstance(chunk, bytes))


# -- R47: what is kept


def test_r47_bodies_with_their_secrets_are_kept_only_if_asked_for() -> None:
    assert Settings.build({}).record == "redacted"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, True),
        ({"ccflare_record": "full"}, True),
        ({"ccflare_record": "full", "ccflare_record_paths": "/v1/messages=metadata"}, False),
        ({"ccflare_record": "off", "ccflare_record_paths": "/v1/files*=off, /v1/m*=redacted"}, True),
    ],
)
def test_r47_modes_in_general_and_by_path(
    upstream: FakeUpstream, start_proxy: StartProxy, options: dict[str, str], kept: bool
) -> None:
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"}, **options)
    request = claude_request(3000, session="one", stream=False)
    asked = request._replace(body=request.body.replace(b'"content"', f'"{KEY}":"{KEY}","content"'.encode(), 1))
    upstream.answer(message_json(f"your key is {KEY}"))
    with via_base_url(proxy) as client:
        reply = client.request(*asked)
    assert KEY.encode() in upstream.requests[-1].body  # what passes by is never changed
    assert KEY.encode() in reply.body
    proxy.stop()

    bodies = stored(proxy)
    assert sorted(bodies) == (["request", "response"] if kept else [])
    if options.get("ccflare_record") == "full":
        assert bodies == ({"request": asked.body, "response": reply.body} if kept else {})
    elif kept:
        assert bodies["request"] == asked.body.replace(KEY.encode(), b"[redacted:anthropic-key]")
        assert bodies["response"] == reply.body.replace(KEY.encode(), b"[redacted:anthropic-key]")
        counts = proxy.rows("SELECT part, redactions, withheld FROM payloads ORDER BY part")
        assert [tuple(row.values()) for row in counts] == [("request", 2, 0), ("response", 1, 0)]


def stored(proxy: Proxy) -> dict[str, bytes]:
    """The bodies in a proxy's database, by part."""
    [[request_id]] = [row.values() for row in proxy.rows("SELECT id FROM requests")]
    with contextlib.closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
        return {part: body.content for part in ("request", "response") if (body := store.body(request_id, part))}


# -- R48: sealed


def test_r48_a_body_is_sealed_and_never_without_its_row_saying_so(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        store.write([started("req_1"), payload(b"PLANTED words that are no secret")])
        [[form, body]] = store.query("SELECT format, body FROM payloads")
    assert form.endswith("sealed/1")
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert body in raw
    assert b"PLANTED" not in raw


# -- R49: redaction


@pytest.mark.parametrize("coding", ["", "gzip", "br", "zstd", "deflate"])
def test_r49_in_every_content_coding(coding: str) -> None:
    answer = message_json(f"{KEY} and nothing else")
    body = wire(encoded(answer, coding) if coding else answer)

    kept = without_secrets(payload(body, encoding=coding))

    assert (kept.redactions, kept.content_encoding, kept.size) == (1, "", len(body))
    assert json.loads(kept.body)["content"][0]["text"] == "[redacted:anthropic-key] and nothing else"


@pytest.mark.parametrize("coding", ["", "gzip", "br", "zstd"])
def test_r49_what_has_no_secret_stays_byte_for_byte(coding: str) -> None:
    answer = sse(["nothing ", "to ", "hide"])
    body = wire(encoded(answer, coding) if coding else answer)

    kept = without_secrets(payload(body, encoding=coding, kind="text/event-stream"))

    assert (kept.body, kept.content_encoding, kept.redactions, kept.withheld) == (body, coding, 0, False)


@given(st.data())
def test_r49_a_secret_in_pieces_is_not_kept_in_pieces(data: st.DataObject) -> None:
    """An upstream's chunks are cut anywhere, and its events too; the first are joined long before this."""
    secret = data.draw(st.sampled_from(SECRETS))
    said = f"{data.draw(st.text(max_size=20))} {secret} {data.draw(st.text(max_size=20))}"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(said) - 1), max_size=len(said))))
    parts = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    kind, field = data.draw(st.sampled_from([("text_delta", "text"), ("thinking_delta", "thinking")]))
    stream = streamed("other ", index=1) + streamed(*parts, kind=kind, field=field) + streamed("words", index=1)

    kept = without_secrets(payload(stream, kind="text/event-stream; charset=utf-8"))

    own = b"".join(part + b"\n\n" for part in kept.body.split(b"\n\n") if b'"index":0' in part)
    assert secret not in texts_in(own, field)
    assert texts_in(own, field).count("[redacted:") == 1
    assert kept.redactions == 1
    assert kept.body.count(b"\n\n") == stream.count(b"\n\n")


@pytest.mark.parametrize("size", [1, 3, 7])
def test_r49_the_input_of_a_tool_too(size: int) -> None:
    """Its JSON comes in pieces within JSON strings."""
    said = json.dumps({"command": "deploy", "db_password": 'PLANTED "quoted"', "n": 1})
    parts = [said[at : at + size] for at in range(0, len(said), size)]
    stream = streamed(*parts, kind="input_json_delta", field="partial_json")

    kept = without_secrets(payload(stream, kind="text/event-stream"))

    found = texts_in(kept.body, "partial_json")
    assert json.loads(found) == {"command": "deploy", "db_password": "[redacted:secret]", "n": 1}


@pytest.mark.parametrize(
    "stream",
    [
        streamed("a sk-ant-", "PLANTED-0123456789 b").replace(b'":', b'" : '),
        b"".join(
            b'data: {"delta":{"text":"%s","type":"text_delta"},"index":0,"type":"content_block_delta"}\r\n\r\n' % part
            for part in (b"a sk-ant-", b"PLANTED-0123456789 b")
        ),
        event({"type": "completion", "completion": " sk-ant-"})
        + event({"type": "completion", "completion": "PLANTED-01"}),
        streamed("a sk-ant-", "PLANTED-0123456789 b")[:-12],
    ],
    ids=["spaces", "order", "completions", "cut"],
)
def test_r49_events_that_are_written_otherwise(stream: bytes) -> None:
    kept = without_secrets(payload(stream, kind="text/event-stream"))
    assert (kept.redactions, kept.withheld) == (1, False)
    assert b"PLANTED" not in kept.body


@pytest.mark.parametrize(
    ("body", "coding", "kind"),
    [
        (b"not gzip " + KEY.encode(), "gzip", ""),
        (KEY.encode(), "gzip, br", ""),
        (KEY.encode() * (privacy.MOST_BYTES // len(KEY) + 1), "", ""),
        (b'"token":1,' * (redact.MOST_CANDIDATES + 1) + KEY.encode(), "", ""),
        (b'data: {"type":"content_block_delta",\ndata: "text":"x"}' + b'\n"content_block_delta"', "", "event-stream"),
    ],
    ids=["damaged", "unknown coding", "too long", "too much", "unreadable events"],
)
def test_r49_what_cannot_be_searched_is_not_kept(body: bytes, coding: str, kind: str, tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        store.write([started("req_1"), payload(body, encoding=coding, kind=kind)])
        [row] = store.query("SELECT withheld, truncated, size, redactions, content_encoding FROM payloads")
        assert store.body("req_1", "response") is None
    assert tuple(row) == (1, 1, len(body), None, "")


def test_r49_an_error_in_the_search_withholds(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Iterator[None]:
        raise RuntimeError

    monkeypatch.setattr(redact, "_aws_keys", fail)
    kept = without_secrets(payload(KEY.encode()))
    assert (kept.withheld, kept.body) == (True, b"")
