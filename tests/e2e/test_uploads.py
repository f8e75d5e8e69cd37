"""Large files go up as they come, large batches by the disk; neither costs memory to speak of."""

import contextlib
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fake_upstream import Header
from harness import Proxy, RawClient, eventually, via_base_url
from rig import Rig
from sink import GOOD, Sink

MIB = 1024**2
IS_LONG = bool(os.environ.get("CCFLARE_LONG_TESTS"))
SIZE, MOST_MEMORY = (300 * MIB, 60 * MIB) if IS_LONG else (48 * MIB, 24 * MIB)
"""What a file of that size may cost, above what the process had before."""
PIECE = bytes(range(256)) * 256
BOUNDARY: tuple[Header, ...] = (
    (b"content-type", b"multipart/form-data; boundary=x"),
    (b"anthropic-beta", b"files-api-2025-04-14"),
    (b"anthropic-version", b"2023-06-01"),
)


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with contextlib.closing(Sink()) as sink:
        yield sink


@pytest.fixture(scope="module")
def bench(sink: Sink) -> Iterator[Rig]:
    limits = {"ccflare_upload_limit_bytes": max(SIZE, 64 * MIB), "ccflare_body_limit_bytes": MIB}
    with Rig.running(sink.url, ccflare_debuggable=True, **limits) as rig:  # else root alone may reset its peak
        yield rig


@pytest.fixture
def rig(bench: Rig, sink: Sink) -> Iterator[Rig]:
    bench.fresh("a", "b")
    sink.requests.clear()
    yield bench
    sink.early = None
    sink.answers.clear()
    sink.gate.set()


def begin(client: RawClient, size: int | None, extra: Sequence[Header] = ()) -> None:
    """Send the head of a file's upload; without a size it comes in chunks."""
    length = (b"content-length", b"%d" % size) if size is not None else (b"transfer-encoding", b"chunked")
    client.send_request("POST", "/v1/files", (*BOUNDARY, length, *extra))


def pieces(size: int) -> Iterator[bytes]:
    for at in range(0, size, len(PIECE)):
        yield PIECE[: size - at]


def send(client: RawClient, size: int, *, chunked: bool = False) -> None:
    """Send a whole file."""
    begin(client, None if chunked else size)
    for piece in pieces(size):
        client.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        client.send(b"0\r\n\r\n")


def digest(size: int) -> str:
    hashed = hashlib.sha256()
    for piece in pieces(size):
        hashed.update(piece)
    return hashed.hexdigest()


def memory(rig: Rig, name: str) -> int:
    """A figure of the proxy's memory from the kernel, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{rig.proxy.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def attempts(rig: Rig) -> list[str]:
    """What is noted of the attempts of this test's request."""
    sql = (
        "SELECT reason FROM attempts a JOIN requests r ON r.id = a.request_id WHERE r.outcome IS NOT NULL "
        "AND a.account_name IN (?, ?) ORDER BY a.id"
    )
    return [row["reason"] for row in rig.proxy.rows(sql, (rig.name("a"), rig.name("b")), until=bool)]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_file_goes_up_as_it_comes(rig: Rig, sink: Sink, chunked: bool) -> None:
    with rig.client() as client:
        send(client, 3 * MIB, chunked=chunked)
        assert client.read_head().status == 200
        client.read_body()

    (arrived,) = sink.requests
    assert (arrived.is_whole, arrived.size, arrived.digest) == (True, 3 * MIB, digest(3 * MIB))
    assert arrived.header(b"authorization") == f"Bearer {rig.secret('a')}".encode()
    assert all("streamed: for one account, once" in reason for reason in attempts(rig))


def test_the_upstream_gets_a_file_before_the_client_has_sent_it(rig: Rig, sink: Sink) -> None:
    with rig.client() as client:
        begin(client, 2 * MIB)
        client.send(PIECE)
        eventually(lambda: [each.size for each in sink.requests], lambda sizes: sizes == [len(PIECE)])
        for _ in range(2 * MIB // len(PIECE) - 1):
            client.send(PIECE)
        assert client.read_head().status == 200


def test_what_was_not_kept_of_a_file_is_recorded(rig: Rig) -> None:
    with rig.client() as client:
        send(client, 2 * MIB)
        client.read_head()
        client.read_body()

    sql = (
        "SELECT size, truncated FROM payloads p JOIN requests r ON r.id = p.request_id "
        "WHERE part = 'request' AND account_name = ?"
    )
    assert rig.proxy.rows(sql, (rig.name("a"),), until=bool) == [{"size": 2 * MIB, "truncated": 1}]


def test_a_file_is_for_one_account_once(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})] * 2

    with rig.client() as client:
        send(client, 2 * MIB)
        head = client.read_head()
        told = client.read_body().decode()

    assert head.status in (503, 529)
    assert len(sink.requests) == 1
    assert "verloaded" in told


def test_a_file_that_an_account_may_not_take_is_to_be_sent_again_and_goes_to_another(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [(401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid"}})]

    with rig.client() as client:
        send(client, 2 * MIB)
        head = client.read_head()
        assert (head.status, head.header("retry-after")) == (503, "1")
        assert "send it again" in client.read_body().decode()
        send(client, 2 * MIB)
        assert client.read_head().status == 200

    used = [each.header(b"authorization") for each in sink.requests]
    assert used == [f"Bearer {rig.secret(name)}".encode() for name in "ab"]


def test_an_early_answer_is_read_by_a_client_that_sends_on(rig: Rig, sink: Sink) -> None:
    sink.early = 100_000
    sink.answers[:] = [(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "no such"}})]

    with rig.client() as client:
        send(client, 8 * MIB)
        assert client.read_head().status == 400
        assert "no such" in client.read_body().decode()
    sink.early = None
    with rig.client() as client:
        send(client, 2 * MIB)
        assert client.read_head().status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_file_above_the_limit_is_refused(rig: Rig, sink: Sink, chunked: bool) -> None:
    limit = max(SIZE, 64 * MIB)
    with rig.client() as client:
        begin(client, None if chunked else limit + 1)
        if chunked:
            sent = 0
            with contextlib.suppress(OSError):
                for piece in pieces(limit + len(PIECE)):
                    client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                    sent += len(piece)
        head = client.read_head()
        assert head.status == 413
        assert f"larger than the {limit} bytes that ccflare_upload_limit_bytes allows" in client.read_body().decode()
    assert not any(each.is_whole for each in sink.requests)


def test_a_small_file_is_read_first_and_may_move_to_another_account(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [(401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid"}})]

    with rig.client() as client:
        send(client, 10_000)
        assert client.read_head().status == 200

    assert [each.size for each in sink.requests] == [10_000, 10_000]


def test_a_client_that_leaves_ends_the_upload(rig: Rig, sink: Sink) -> None:
    client = rig.client()
    begin(client, 4 * MIB)
    client.send(PIECE)
    eventually(lambda: bool(sink.requests and sink.requests[0].size))
    client.close()

    assert sink.requests[0].ended.wait(60)
    assert not sink.requests[0].is_whole
    eventually(rig.is_idle)


def test_a_file_of_an_account_is_found_there_again(rig: Rig, sink: Sink) -> None:
    with rig.client() as client:
        send(client, 2 * MIB)
        client.read_head()
        client.read_body()
        rig.change("a", priority=99)
        eventually(lambda: list(rig.health()), lambda names: names == ["b", "a"])
        assert client.request("GET", "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w").status == 200

    used = [each.header(b"authorization") for each in sink.requests]
    assert used == [f"Bearer {rig.secret('a')}".encode()] * 2


def test_a_large_file_costs_no_memory_and_goes_no_faster_than_the_upstream_takes_it(rig: Rig, sink: Sink) -> None:
    sink.gate.clear()
    before = memory(rig, "VmRSS")
    Path(f"/proc/{rig.proxy.pid}/clear_refs").write_text("5")  # the peak counts from here on
    with rig.client() as client:
        sending = threading.Thread(target=send, args=(client, SIZE))
        sending.start()
        eventually(lambda: bool(sink.requests))
        sending.join(1.0)
        assert sending.is_alive()  # nobody takes it, so it does not go on
        sink.gate.set()
        assert client.read_head().status == 200
        sending.join()

    assert sink.requests[0].digest == digest(SIZE)
    assert memory(rig, "VmHWM") - before < MOST_MEMORY


# --- batches ----------------------------------------------------------------------------------------------------------

MARK = b"what-the-batch-is-about"
BATCH: tuple[int, dict[str, object]] = (
    200,
    {"id": "msgbatch_013Zva2CMHLNnXjNJJKqJ2EF", "type": "message_batch", "processing_status": "in_progress"},
)


def batch(size: int, *, model: str = "claude-opus-4-8", file_id: str = "") -> Iterator[bytes]:
    """The body of a batch of about so many bytes, a request after the other."""
    yield b'{"requests": ['
    for number in range(max(1, size // 100_000)):
        content = [{"type": "text", "text": f"{MARK.decode()} {number} " + "word " * 19_900}]
        named = (
            [{"type": "document", "source": {"type": "file", "file_id": file_id}}] if number == 3 and file_id else []
        )
        params = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": [*content, *named]}]}
        yield (b"," if number else b"") + json.dumps({"custom_id": str(number), "params": params}).encode()
    yield b"]}"


def send_batch(
    client: RawClient, parts: Sequence[bytes], *, chunked: bool = False, headers: Sequence[Header] = ()
) -> str:
    """Send it; the hash of what was sent."""
    length = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % sum(map(len, parts)))
    fields = (length, (b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), *headers)
    client.send_request("POST", "/v1/messages/batches", fields)
    hashed = hashlib.sha256()
    for part in parts:
        client.send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        hashed.update(part)
    if chunked:
        client.send(b"0\r\n\r\n")
    return hashed.hexdigest()


def spools(rig: Rig) -> list[Path]:
    """The open files of the proxy that have no name any more."""
    found = []
    for link in Path(f"/proc/{rig.proxy.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "(deleted)" in str(link.readlink()):
                found.append(link)
    return found


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_batch_goes_up_whole_and_from_account_to_account(rig: Rig, sink: Sink, chunked: bool) -> None:
    sink.answers[:] = [(401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid"}}), BATCH]

    with rig.client() as client:
        sent = send_batch(client, list(batch(18 * MIB)), chunked=chunked)
        assert client.read_head().status == 200

    assert [(each.is_whole, each.digest) for each in sink.requests] == [(True, sent)] * 2
    used = [each.header(b"authorization") for each in sink.requests]
    assert used == [f"Bearer {rig.secret(name)}".encode() for name in "ab"]


def test_a_batch_on_the_disk_is_sealed_has_no_name_and_is_gone_at_the_end(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [BATCH]
    sink.gate.clear()
    eventually(lambda: not spools(rig))  # nor any of another test's
    before = {path.name for path in rig.proxy.database.parent.iterdir()}

    with rig.client() as client:
        send_batch(client, list(batch(18 * MIB)))
        eventually(lambda: bool(sink.requests))
        (spool,) = spools(rig)
        assert stat.S_IMODE(spool.stat().st_mode) == 0o600
        content = spool.read_bytes()
        assert len(content) > 18 * MIB * 9 // 10
        assert MARK not in content
        assert {path.name for path in rig.proxy.database.parent.iterdir()} == before
        sink.gate.set()
        assert client.read_head().status == 200
    eventually(lambda: spools(rig), until=lambda found: not found)


def test_a_large_batch_goes_to_the_account_whose_file_it_names(rig: Rig, sink: Sink) -> None:
    with rig.client() as client:
        send(client, 2 * MIB)
        assert client.read_head().status == 200
        client.read_body()
        rig.change("a", priority=99)
        eventually(lambda: list(rig.health()), lambda names: names == ["b", "a"])
        sink.answers[:] = [BATCH]
        send_batch(client, list(batch(18 * MIB, file_id=str(GOOD[1]["id"]))))
        assert client.read_head().status == 200

    assert sink.requests[-1].header(b"authorization") == f"Bearer {rig.secret('a')}".encode()


def test_what_was_not_kept_of_a_batch_is_recorded(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [BATCH]
    parts = list(batch(18 * MIB))
    with rig.client() as client:
        send_batch(client, parts)
        assert client.read_head().status == 200
        client.read_body()

    sql = "SELECT size, truncated FROM payloads WHERE part = 'request' ORDER BY rowid DESC LIMIT 1"
    expected = {"size": sum(map(len, parts)), "truncated": 1}
    assert rig.proxy.rows(sql, until=lambda rows: rows == [expected])


def test_a_batch_above_the_limit_is_refused_before_it_is_sent(rig: Rig, sink: Sink) -> None:
    limit = min(max(SIZE, 64 * MIB), 256 * MIB)
    with rig.client() as client:
        client.send_request("POST", "/v1/messages/batches", ((b"content-length", b"%d" % (limit + 1)),))
        assert client.read_head().status == 413
        assert f"larger than the {limit} bytes" in client.read_body().decode()
    assert sink.requests == []


def test_a_large_batch_costs_no_memory(rig: Rig, sink: Sink) -> None:
    sink.answers[:] = [BATCH]
    size = min(SIZE, 250 * MIB)
    parts = list(batch(size))
    before = memory(rig, "VmRSS")
    Path(f"/proc/{rig.proxy.pid}/clear_refs").write_text("5")
    with via_base_url(rig.proxy, timeout=300) as client:  # it is read and packed before anything comes
        sent = send_batch(client, parts)
        assert client.read_head().status == 200

    assert sink.requests[-1].digest == sent
    assert memory(rig, "VmHWM") - before < MOST_MEMORY + 16 * MIB  # up to so much it is in memory before


def test_client_keys_models_and_budgets_hold_for_a_large_batch(sink: Sink) -> None:
    sink.requests.clear()
    with contextlib.closing(Proxy(sink.url, ccflare_hold_seconds=0)) as proxy:
        models = proxy.add_client_key("models", "--models", "claude-haiku-4-5")
        budget = proxy.add_client_key("budget", "--tokens-per-day", "1000000")
        proxy.add_api_key("a", "sk-ant-api03-a")
        proxy.start()
        asked = (
            (models, "claude-opus-4-8", ""),
            (models, "claude-haiku-4-5", ""),
            (models, "claude-haiku-4-5", "file_of_somebody_else"),
            (budget, "claude-opus-4-8", ""),
        )
        statuses = []
        for key, model, file_id in asked:
            sink.answers[:] = [BATCH]
            with via_base_url(proxy) as client:
                parts = list(batch(18 * MIB, model=model, file_id=file_id))
                send_batch(client, parts, headers=[(b"x-api-key", key.encode())])
                statuses.append(client.read_head().status)

    assert statuses == [403, 200, 404, 429]
    assert len(sink.requests) == 1


def test_a_disk_without_room_takes_no_batch(sink: Sink) -> None:
    sink.requests.clear()
    with contextlib.closing(Proxy(sink.url, ccflare_minimum_free_bytes=2**50)) as proxy:
        proxy.add_api_key("a", "sk-ant-api03-a")
        proxy.start()
        with via_base_url(proxy) as client:
            with contextlib.suppress(OSError):
                send_batch(client, list(batch(18 * MIB)))
            assert client.read_head().status == 503
            assert "ccflare_minimum_free_bytes" in client.read_body().decode()
    assert sink.requests == []
