"""What SECURITY.md promises of stored bodies. Each name starts with the requirement that it proves."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bodies_kit import content, contents, conversation, is_sound, record, turns
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from database_kit import open_store
from fake_upstream import FakeUpstream, sse
from harness import StartProxy, claude_request, via_base_url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path)
    yield store
    store.close()


@pytest.fixture
def other(path: Path, store: Store) -> Iterator[Store]:
    """What another process has open."""
    other = open_store(path)
    yield other
    other.close()


def raw(path: Path) -> bytes:
    """All bytes of the database and of its log."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_r48_no_part_of_a_body_and_no_hash_of_it_is_in_the_files(path: Path, store: Store) -> None:
    bodies = list(turns(8, files=(4,)))
    record(store, bodies)
    assert store.transcripts.delete_payloads(["s-1/0"])
    store.transcripts.collect_garbage()
    files = raw(path)
    for text in (text for _, text in store.transcripts.blocks()):
        assert text[:40] not in files
        assert not any(hashlib.new(name, text).digest()[:8] in files for name in ("sha256", "sha1", "md5", "blake2b"))


def test_r48_no_block_can_be_found_by_its_content(path: Path, store: Store) -> None:
    bodies = conversation(2)
    record(store, bodies)
    addresses = {bytes(row[0]) for row in store.query("SELECT address FROM blocks")}
    contents = [text for _, text in store.transcripts.blocks()]
    guesses = {hashlib.new(name, text).digest()[:16] for name in ("sha256", "blake2b", "md5") for text in contents}
    assert not addresses & guesses
    with contextlib.closing(open_store(path.with_name("other.db"))) as elsewhere:
        record(elsewhere, bodies)
        assert not addresses & {bytes(row[0]) for row in elsewhere.query("SELECT address FROM blocks")}


def test_r48_blocks_that_changed_places_give_no_body(store: Store) -> None:
    record(store, conversation(1))
    first, second, *_ = store.query("SELECT id, address, body FROM blocks ORDER BY id")
    store.query("UPDATE blocks SET address = ?, body = ? WHERE id = ?", (second[1], second[2], first[0]))
    with pytest.raises(VaultError, match="not come out as it was recorded"):
        store.body("s-1/0", "request")
    store.query("UPDATE blocks SET address = ? WHERE id = ?", (first[1], first[0]))
    with pytest.raises(VaultError, match="does not open"):
        store.body("s-1/0", "request")


def test_r48_rotation_renews_every_block_and_address_and_the_old_key_can_go(store: Store, other: Store) -> None:
    bodies = conversation(12)
    record(store, bodies[:6])
    addresses = {bytes(row[0]) for row in store.query("SELECT address FROM blocks")}
    assert other.keys
    old = other.keys.all()[0].id
    new = other.keys.rotate()
    record(store, bodies[6:9], first=6)  # between the two the session's content is stored again
    with pytest.raises(StoreError, match="this key is still needed"):
        other.keys.retire(old)
    drain(other.resealing().rewrap())
    other.keys.retire(old)
    assert set(store.value_counts()) == {new}
    assert not addresses & {bytes(row[0]) for row in store.query("SELECT address FROM blocks")}
    record(store, bodies[9:], first=9)
    assert contents(store, 12) == bodies
    assert is_sound(store)


def test_r48_a_block_that_was_freed_leaves_no_trace(path: Path, store: Store) -> None:
    record(store, conversation(3))
    sealed = [bytes(row[0]) for row in store.query("SELECT body FROM blocks")]
    store.scrub()
    assert all(each[-40:] in raw(path) for each in sealed if len(each) < 1000)
    store.transcripts.delete_payloads([f"s-1/{n}" for n in range(3)])
    store.transcripts.collect_garbage()
    store.scrub()
    assert not any(each[-40:] in raw(path) for each in sealed)


def test_r54_a_conversation_through_the_proxy_is_kept_exactly_though_it_is_killed(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    upstream.always(sse(3))
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"})
    bodies = conversation(16)

    def ask(some: list[bytes]) -> None:
        method, target, headers, _ = claude_request(session="long")
        with via_base_url(proxy) as client:
            for body in some:
                assert client.request(method, target, headers, body).status == 200

    ask(bodies[:8])
    kept = "SELECT request_id FROM payloads WHERE part = 'request' ORDER BY request_id"
    proxy.rows(kept, until=lambda rows: len(rows) >= 4)
    proxy.kill()
    proxy.start()
    ask(bodies[8:])
    proxy.wait_for_log("POST")
    assert proxy.stop() == 0
    keys = [row["request_id"] for row in proxy.rows(kept)]
    with contextlib.closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
        found = [content(store, key) for key in keys]
        assert found == [*bodies[: len(found) - 8], *bodies[8:]]
        assert sum(len(text) for _, text in store.transcripts.blocks()) < 1.1 * len(bodies[-1])
        assert is_sound(store)
