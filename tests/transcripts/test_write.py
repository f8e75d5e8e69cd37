"""Bodies in blocks: exact, small, freed when nobody needs them, and never half there."""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bodies_kit import ODD, answer, content, contents, conversation, is_sound, record, request, turns
from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.exchange.records import Payload
from ccflare_core.secrets import redact
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from ccflare_core.transcripts.packing import MANIFEST
from ccflare_core.transcripts.read import Body
from database_kit import count, held_lock, open_store, payload, start_python, started
from harness import eventually

TABLES = ("chapters", "blocks", "chapter_blocks", "payloads")


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


@pytest.fixture
def other(location: Location, store: Store) -> Iterator[Store]:
    """What another process has open."""
    other = open_store(location)
    yield other
    other.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.db"


@pytest.fixture
def in_file(path: Path) -> Iterator[Store]:
    """A store of a file."""
    store = open_store(path)
    yield store
    store.close()


def counts(store: Store) -> dict[str, int]:
    return {table: count(store, table) for table in TABLES}


def sweep(store: Store) -> None:
    while store.transcripts.collect_garbage():
        pass


# -- exact


def test_every_turn_comes_back_as_it_was(store: Store) -> None:
    bodies = conversation(30)
    record(store, bodies)
    assert contents(store, 30) == bodies
    assert {row[0] for row in store.query("SELECT DISTINCT format FROM payloads")} == {MANIFEST}
    assert is_sound(store)


def test_every_turn_is_redacted_as_if_it_were_the_first(store: Store) -> None:
    bodies = [body.replace(b'"text":"', b'"text":"export API_TOKEN=Xk29vLq84mZt77Rw ', 2) for body in conversation(20)]
    for number, body in enumerate(bodies):
        store.write(request(f"s-1/{number}", body, redact=True))
    expected = [redact.redact(body) for body in bodies]
    assert contents(store, 20) == [each.data for each in expected]
    assert {each.secrets for each in expected} == {2}
    assert store.query("SELECT DISTINCT redactions FROM payloads") == [(2,)]


def test_a_session_goes_on_under_a_new_key(store: Store) -> None:
    bodies = conversation(12)
    record(store, bodies[:6])
    before = set(store.query("SELECT address FROM blocks"))
    assert store.keys is not None
    store.keys.rotate()
    record(store, bodies[6:], first=6)
    assert contents(store, 12) == bodies
    fresh = set(store.query("SELECT address FROM blocks")) - before
    assert len(fresh) > len(before)  # also for what was there already


@pytest.mark.parametrize("name", ODD)
def test_odd_bodies_come_back_as_they_were(name: str, in_file: Store) -> None:
    for number, (part, encoding) in enumerate(itertools.product(("request", "response"), ("", "gzip", "zstd"))):
        body = Payload(f"r{number}", part, "text/plain", encoding, ODD[name], 99, truncated=True)
        in_file.write([started(f"r{number}"), body])
        assert in_file.body(f"r{number}", part) == Body(ODD[name], "text/plain", encoding, truncated=True, size=99)
    assert is_sound(in_file)


def test_what_is_not_kept_is_none(store: Store) -> None:
    record(store, conversation(1))
    assert [store.body("s-1/0", "response"), store.body("x", "request")] == [None, None]


def test_turns_that_come_in_one_batch_share_their_blocks(store: Store) -> None:
    bodies = conversation(20)
    batch = [each for number, body in enumerate(bodies) for each in request(f"s-1/{number}", body)]
    store.write(batch)
    assert contents(store, 20) == bodies
    assert store.query("SELECT COUNT(*), COUNT(DISTINCT address) FROM blocks")[0] == (count(store, "blocks"),) * 2


def test_what_sessions_and_processes_have_in_common_is_there_once(store: Store, other: Store) -> None:
    bodies = conversation(10)
    record(store, bodies)
    once = count(store, "blocks")
    record(other, bodies, "s-2")
    record(other, bodies, None)
    assert count(store, "blocks") == once
    assert contents(store, 10, "s-2") == contents(store, 10, None) == bodies


def test_a_format_from_the_future_is_named(store: Store) -> None:
    record(store, conversation(1))
    store.query("UPDATE payloads SET format = 'zstd+sealed/9'")
    with pytest.raises(VaultError, match=r"zstd\+sealed/9"):
        store.body("s-1/0", "request")


# -- small


def test_a_session_of_200_turns_takes_no_more_than_three_times_its_last_body(path: Path, in_file: Store) -> None:
    sizes, written, read, last, source = [], [], [], b"", random.Random(1)
    for number, body in enumerate(turns(200, files=(20, 90, 150))):
        records = [*request(f"s-1/{number}", body), payload(f"s-1/{number}", answer(source), part="response")]
        began = time.thread_time()
        in_file.write(records)
        written.append(time.thread_time() - began)
        sizes.append(len(body))
        last = body
    for _ in range(5):
        began = time.thread_time()
        assert content(in_file, "s-1/199") == last
        read.append(time.thread_time() - began)
    assert in_file.scrub()
    assert path.stat().st_size < 1.5 * len(last)  # the promise is 3 x
    assert sum(sizes) > 50 * len(last)
    assert (
        sorted(written)[len(written) // 2] < 0.1
    )  # the promise is 5 ms at 500 kB, of a machine that does nothing else
    assert min(read) < 0.4  # the promise is 20 ms


def test_a_turn_costs_statements_that_do_not_grow(in_file: Store) -> None:
    seen: list[str] = []
    in_file._database.connection().set_trace_callback(seen.append)  # type: ignore[no-untyped-call]
    numbers = []
    for number, body in enumerate(conversation(60)):
        seen.clear()
        in_file.write(request(f"s-1/{number}", body))
        numbers.append(len(seen))
    assert len(set(numbers[1:])) == 1
    assert numbers[-1] <= 12


def test_segments_end_and_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccflare_core.transcripts.write._MOST_BODIES", 4)
    monkeypatch.setattr("ccflare_core.transcripts.write._REMEMBERED", 40)
    bodies = conversation(10)
    for session in ("s-1", "s-2", "s-3"):
        record(store, bodies, session)
    assert count(store, "chapters") == 9
    assert list(store._ledger._blocks._segments) == ["s-3"]
    assert contents(store, 10, "s-1") == bodies


# -- never half there


def test_a_batch_that_fails_leaves_nothing_and_the_next_one_is_whole(store: Store) -> None:
    bodies = conversation(6)
    record(store, bodies[:2])
    before = counts(store)
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.write([*request("s-1/2", bodies[2]), started("s-1/0")])
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.write([*request("s-1/2", bodies[2]), payload("s-1/0")])
    assert counts(store) == before
    record(store, bodies[2:], first=2)
    assert contents(store, 6) == bodies
    assert is_sound(store)


def test_a_locked_database_costs_no_block(path: Path, in_file: Store) -> None:
    bodies = conversation(4)
    record(in_file, bodies[:2])
    in_file.query("PRAGMA busy_timeout = 10")
    with held_lock(path), pytest.raises(StoreError, match="lock"):
        record(in_file, bodies[2:3], first=2)
    record(in_file, bodies[2:], first=2)
    assert contents(in_file, 4) == bodies
    assert is_sound(in_file)


_WRITE_AND_FREE = """
import random, sys
import database_kit as kit
from bodies_kit import conversation
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import Payload

store, mine = kit.open_store(sys.argv[1]), sys.argv[2]
bodies, chance = conversation(25), random.Random(mine)
print("ready", flush=True)
for turn in range(100_000):
    number, session = turn % len(bodies), f"s-{chance.randrange(2)}"
    body, request_id = bodies[number], f"{mine}/{turn}"
    facts = ("application/json", "", body, len(body), False, session)
    store.write([kit.started(request_id), Payload(request_id, "request", *facts)])
    if turn % 5 == 4:
        gone = store.query("SELECT request_id FROM payloads ORDER BY random() LIMIT 4")
        store.transcripts.delete_payloads([row[0] for row in gone])
        store.transcripts.collect_garbage(2)
"""


def test_processes_that_are_killed_at_any_moment_lose_and_leave_no_block(location: Location, store: Store) -> None:
    bodies = set(conversation(25))
    for round_ in range(3):
        children = [start_python(_WRITE_AND_FREE, location, f"{round_}.{n}") for n in range(2)]
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == "ready\n"
        eventually(lambda: count(store, "payloads"))
        time.sleep(0.1 * round_)
        for child in children:
            child.kill()
            child.communicate(timeout=60)
        assert is_sound(store)
        keys = store.query("SELECT request_id FROM payloads")
        assert {content(store, key) for (key,) in keys} <= bodies
    store.transcripts.delete_payloads([key for (key,) in store.query("SELECT request_id FROM payloads")])
    sweep(store)
    assert counts(store) == dict.fromkeys(TABLES, 0)


# -- freed


def test_deleting_every_body_frees_every_block(store: Store) -> None:
    for session in ("s-1", "s-2"):
        record(store, conversation(8), session)
    assert store.transcripts.delete_payloads([f"s-1/{n}" for n in range(8)]) == 8
    sweep(store)
    assert contents(store, 8, "s-2") == conversation(8)
    assert store.transcripts.delete_payloads([f"s-2/{n}" for n in range(8)]) == 8
    sweep(store)
    assert counts(store) == dict.fromkeys(TABLES, 0)


def test_what_only_deleted_bodies_needed_goes_though_their_session_lives(store: Store) -> None:
    first, second = list(turns(6, seed=1)), list(turns(6, seed=2))  # as after a /clear
    record(store, [*first, *second])
    store.transcripts.delete_payloads([f"s-1/{n}" for n in range(6)])
    sweep(store)
    assert contents(store, 12) == [*[None] * 6, *second]
    assert is_sound(store)
    left = count(store, "blocks")
    record(store, second, "s-2")
    assert count(store, "blocks") == left  # nothing is there that the second conversation does not need


def test_requests_that_go_with_their_bodies_free_them_too(store: Store) -> None:
    record(store, conversation(5))
    store.query("DELETE FROM requests")
    sweep(store)
    assert counts(store) == dict.fromkeys(TABLES, 0)


def test_a_session_goes_on_after_its_blocks_were_freed_by_another_process(store: Store, other: Store) -> None:
    bodies = conversation(9)
    record(store, bodies[:4])
    other.transcripts.delete_payloads([f"s-1/{n}" for n in range(4)])
    sweep(other)
    record(store, bodies[4:], first=4)
    assert contents(store, 9)[4:] == bodies[4:]
    assert is_sound(store)


def test_a_chapter_id_that_is_used_again_fools_nobody(store: Store, other: Store) -> None:
    bodies = conversation(4)
    record(store, bodies[:1])
    other.transcripts.delete_payloads(["s-1/0"])
    sweep(other)
    record(other, bodies[3:], "s-9")  # SQLite gives it the same id
    record(store, bodies[1:2], first=1)
    assert content(store, "s-1/1") == bodies[1]
    assert (count(store, "chapters"), is_sound(store)) == (2, True)


def test_a_large_segment_is_freed_in_short_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccflare_core.transcripts.read._AT_ONCE", 10)
    record(store, conversation(12))
    blocks = count(store, "blocks")
    store.transcripts.delete_payloads([f"s-1/{n}" for n in range(12)])
    steps = [count(store, "blocks") for _ in iter(store.transcripts.collect_garbage, 0)]
    assert len(steps) == -(-blocks // 10)
    assert counts(store) == dict.fromkeys(TABLES, 0)


def test_a_manifest_that_does_not_open_keeps_what_it_may_need(store: Store) -> None:
    record(store, conversation(5))
    store.query("UPDATE payloads SET body = ? WHERE request_id = 's-1/4'", (b"1",))
    store.transcripts.delete_payloads(["s-1/3"])
    blocks = count(store, "blocks")
    sweep(store)
    assert (count(store, "blocks"), store.transcripts.dangling()) == (blocks, [("s-1/4", "request")])


def test_damage_is_found(in_file: Store) -> None:
    record(in_file, conversation(3))
    in_file.query("PRAGMA foreign_keys = 0")
    in_file.query("DELETE FROM blocks WHERE id = 3")
    in_file.query("DELETE FROM chapter_blocks WHERE block_id = 4")
    assert in_file.transcripts.orphans() == 1
    assert len(in_file.transcripts.dangling()) == 3
    with pytest.raises(VaultError, match="lost 1 of its blocks"):
        in_file.body("s-1/0", "request")


# -- keys


def test_after_rotation_new_sessions_find_the_blocks_again(store: Store) -> None:
    bodies = conversation(5)
    record(store, bodies)
    assert store.keys
    store.keys.rotate()
    drain(store.resealing().rewrap())
    before = count(store, "blocks")
    record(store, bodies, "s-2")
    assert count(store, "blocks") == before


def test_without_a_key_nothing_is_read_or_swept_wrongly(location: Location, store: Store) -> None:
    record(store, conversation(3))
    store.transcripts.delete_payloads(["s-1/0"])
    with contextlib.closing(open_store(location, source=None)) as blind:
        read = (lambda: blind.body("s-1/1", "request"), lambda: next(blind.transcripts.blocks()))
        for ask in (*read, blind.transcripts.collect_garbage):
            with pytest.raises(VaultError, match="without a key"):
                ask()


# -- for those who search


def test_every_block_is_told_once_and_which_requests_need_it(store: Store) -> None:
    bodies = conversation(8)
    record(store, bodies)
    record(store, list(turns(3, seed=7)), "s-2")
    blocks = dict(store.transcripts.blocks())
    theirs = dict(store.transcripts.blocks("s-1"))
    assert len(blocks) == count(store, "blocks")
    assert theirs.items() < blocks.items()
    assert sum(map(len, theirs.values())) < len(bodies[-1]) * 1.1
    [last] = [number for number, text in theirs.items() if b"/src/6.py" in text]
    assert store.transcripts.requests_of(last) == ["s-1/7"]
    [first] = [number for number, text in theirs.items() if b"/src/0.py" in text]
    assert store.transcripts.requests_of(first) == [f"s-1/{n}" for n in range(1, 8)]


def test_what_is_kept_whole_is_told_apart(store: Store) -> None:
    record(store, conversation(2))
    store.write([payload("s-1/0", b"answer", part="response"), *request("small", b"{}", None)])
    found = sorted((key, part, body.content) for key, part, body in store.transcripts.wholes())
    assert found == [("s-1/0", "response", b"answer"), ("small", "request", b"{}")]
    assert list(store.transcripts.wholes("s-7")) == []
