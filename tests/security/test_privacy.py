"""What SECURITY.md promises of what is kept and of who can read it. Each name starts with the requirement."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.config.settings import Settings
from ccflare_core.exchange.records import Payload
from ccflare_core.secrets import redact
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from ccflare_core.transcripts import redaction
from ccflare_core.transcripts.redaction import without_secrets
from database_kit import open_store, start_python, started
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
        ({"ccflare_record": "full", "ccflare_record_paths": "/v1/files*=off, /v1/messages=metadata"}, False),
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
    if kept:
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
        + event({"type": "completion", "completion": "PLANTED-01234567"}),
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
        (KEY.encode() * (redaction.MOST_BYTES // len(KEY) + 1), "", ""),
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

    monkeypatch.setattr(redact, "_private_keys", fail)
    kept = without_secrets(payload(KEY.encode()))
    assert (kept.withheld, kept.body) == (True, b"")


# -- R52: files


OPEN = {
    "home/data/ccflare.key": "the key file",
    "confdir/config.yaml": "a configuration with a password",
}


def test_r52_secrets_that_others_can_read_stop_the_start(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path)) as proxy:
        proxy.add_api_key("one", "sk-ant-api03-one")
        (tmp_path / "confdir" / "config.yaml").write_text("web_password: hunter2\n")
        for name in OPEN:
            (tmp_path / name).chmod(0o644)
        with pytest.raises(RuntimeError) as refusal:
            proxy.start()
    for name, what in OPEN.items():
        path = tmp_path / name
        assert f"ccflare: {path}: {what} is open to other users: run `chmod 600 {path}`" in str(refusal.value)
    assert "listening" not in proxy.log()
    assert "Traceback" not in proxy.log()


def test_r52_the_database_is_taken_back_from_others_and_an_open_folder_is_told(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path)) as proxy:
        proxy.add_api_key("one", "sk-ant-api03-one")
        proxy.database.chmod(0o644)
        proxy.database.parent.chmod(0o755)
        proxy.start()
        assert proxy.database.stat().st_mode & 0o777 == 0o600
        assert "other users can look into this folder: run `chmod 700" in proxy.log()
        assert "the database is open" not in proxy.log()


# -- R53, R59: memory


def test_r53_all_answers_together_keep_no_more_than_the_budget(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"}, ccflare_capture_budget_bytes=500)
    with via_base_url(proxy) as client:
        reply = client.request(*claude_request(3000, session="big"))
    assert b"message_stop" in reply.body
    [row] = proxy.rows("SELECT size, truncated FROM payloads WHERE part = 'response'", until=bool)
    assert (row["size"], row["truncated"]) == (len(reply.body), 1)
    [usage] = proxy.rows("SELECT outcome, output_tokens FROM requests", until=lambda rows: rows[0]["outcome"])
    assert usage["outcome"] == "ok"
    assert usage["output_tokens"]


def test_r59_with_too_much_memory_in_use_traffic_goes_on_without_bodies(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"}, ccflare_memory_soft_limit_bytes=1024)
    proxy.wait_for_log("no bodies are recorded until it is less")
    with via_base_url(proxy) as client:
        assert client.request(*claude_request(3000)).status == 200
    proxy.stop()
    assert [row["outcome"] for row in proxy.rows("SELECT outcome FROM requests")] == ["ok"]
    assert proxy.rows("SELECT * FROM payloads") == []


# -- R25, R26: the process

_LOOK = """
import ctypes, os, pathlib, sys
from ccflare_core.process import hide_memory
if os.geteuid() == 0:
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process begins
if sys.argv[1] == "hidden":
    hide_memory()
parent = os.getpid()
if os.fork() == 0:
    try:
        print("seen", len(pathlib.Path(f"/proc/{parent}/environ").read_bytes()) > 0)
    except PermissionError:
        print("refused")
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("how", "outcome"), [("hidden", "refused\n"), ("open", "seen True\n")])
def test_r26_another_process_of_the_same_user_cannot_look_inside(how: str, outcome: str) -> None:
    child = start_python(_LOOK, how)
    assert child.communicate(timeout=60)[0] == outcome


def test_r26_the_proxy_leaves_no_core_dump(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream)
    limits = Path(f"/proc/{proxy.pid}/limits").read_text().splitlines()
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]
