"""The plain index: it finds the same as reading all, and nothing of it is left when it is not wanted."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bodies_kit import answer, request, turns
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.exchange.records import Payload
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from ccflare_core.transcripts.search import Hit, Query, Search
from ccflare_core.transcripts.search_index import SearchIndex
from database_kit import count, open_store

MARKER = "Xylophone-Quagga"
LONG = f"word {MARKER} " * 400
"""Enough that a body is cut into blocks."""

WORDS = ("/src/17.py", "quagga", "QUAGGA", "said", "er ", "no such word", 'a "b', "naïve", "漢字", "x\0quagga")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path)
    yield store
    store.close()


def say(store: Store, name: str, text: str, session: str = "s-1") -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
    store.write(request(name, body.encode(), session))


def converse(store: Store, number: int, session: str) -> None:
    source = random.Random(number)
    for turn, body in enumerate(turns(number, files=(1,), seed=number)):
        name, said = f"{session}/{turn}", answer(source)
        store.write([*request(name, body, session)])
        store.write([Payload(name, "response", "text/event-stream", "", said, len(said), False, session)])


def run(store: Store, *, plain: bool) -> None:
    """Do all that is to be done, as the writer does it."""
    store.search_index.begin(plain=plain)
    while store.search_index.step():
        pass


def search(store: Store, text: str, session: str | None = None, *, indexed: bool = True, limit: int = 50) -> list[Hit]:
    def moment(request_id: str) -> tuple[float, str | None]:
        [(at, session)] = store.query("SELECT timestamp, session_id FROM requests WHERE id = ?", (request_id,))
        return at / 1000, session

    query = Query(text)
    index = store.search_index.candidates(query.literal) if indexed else None
    return Search(index or store.transcripts, moment).run(query, limit=limit, session=session)


def on_disk(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*")).lower()


def has_marker(path: Path) -> bool:
    return MARKER.lower().encode() in on_disk(path)


def test_without_the_option_nothing_lies_in_clear(store: Store, path: Path) -> None:
    say(store, "r-1", LONG)
    say(store, "r-2", MARKER)
    run(store, plain=False)

    assert len(search(store, MARKER)) == 2
    assert store.search_index.candidates(MARKER) is None
    assert not has_marker(path)


def test_it_finds_the_same(store: Store) -> None:
    converse(store, 3, "s-1")
    say(store, "r-1", LONG)
    run(store, plain=True)
    converse(store, 2, "s-2")
    for number, text in enumerate(WORDS):
        say(store, f"r-{number + 2}", f"I {text.upper()} it", f"s-{number % 3}")
    for _ in range(3):  # some of it is indexed, some is not
        store.search_index.step()
    texts = [*WORDS, *(word for word in search(store, "e", limit=1)[0].text.split()[:3] if word)]

    for _ in range(2):
        for text in texts:
            for session in (None, "s-1", "s-2"):
                assert search(store, text, session) == search(store, text, session, indexed=False), text
        run(store, plain=True)


def test_it_looks_only_where_the_text_may_be(store: Store) -> None:
    converse(store, 6, "s-1")
    say(store, "r-1", LONG)
    run(store, plain=True)

    found = store.search_index.candidates(MARKER.lower())

    assert found is not None
    assert found.total < 5 < count(store, "blocks")
    assert store.search_index.candidates("qu") is None


def test_a_body_that_goes_takes_its_text_along(store: Store, path: Path) -> None:
    say(store, "r-1", LONG)
    say(store, "r-2", MARKER)
    say(store, "r-3", "something else")
    run(store, plain=True)
    assert has_marker(path)

    store.transcripts.delete_payloads(["r-1", "r-2"])
    store.transcripts.collect_garbage(10)
    assert search(store, MARKER) == []
    store.scrub()

    assert count(store, "search_index") == count(store, "search_rows") == 1
    assert not has_marker(path)


def test_compacting_leaves_not_even_three_letters(store: Store) -> None:
    say(store, "r-1", LONG)
    say(store, "r-2", "something else")
    run(store, plain=True)
    store.query("CREATE VIRTUAL TABLE temp.letters USING fts5vocab (main, search_index, row)")

    store.transcripts.delete_payloads(["r-1"])
    store.transcripts.collect_garbage(10)
    store.scrub(whole=True)

    assert [count(store, f"letters WHERE term = '{term}'") for term in ("xyl", "som")] == [0, 1]


def test_what_comes_again_is_found_again(store: Store) -> None:
    for _ in range(2):
        say(store, "r-1", MARKER)
        run(store, plain=True)
        assert len(search(store, MARKER)) == 1
        store.query("DELETE FROM requests")

    assert search(store, MARKER) == []


def test_switched_off_it_is_wiped(store: Store, path: Path) -> None:
    say(store, "r-1", LONG)
    say(store, "r-2", MARKER)
    run(store, plain=True)
    assert has_marker(path)
    store.close()

    later = open_store(path)
    later.search_index.begin(plain=False)
    later.search_index.step()
    assert len(search(later, MARKER)) == 2  # half of it is there, and not used
    run(later, plain=False)
    found = search(later, MARKER)
    names = later.query("SELECT name FROM sqlite_master WHERE name LIKE 'search%'")
    later.close()

    assert names == []
    assert len(found) == 2
    assert not has_marker(path)


def test_switched_on_again_while_it_goes(store: Store) -> None:
    say(store, "r-1", MARKER)
    run(store, plain=True)
    store.search_index.begin(plain=False)
    store.search_index.step()

    run(store, plain=True)

    assert count(store, "search_index") == 1
    assert len(search(store, MARKER)) == 1


def test_new_keys_change_nothing(store: Store) -> None:
    say(store, "r-1", LONG)
    run(store, plain=True)
    before = store.query("SELECT * FROM search_rows")
    assert store.keys is not None

    store.keys.rotate()
    drain(store.resealing().rewrap())

    assert not store.search_index.step()
    assert store.query("SELECT * FROM search_rows") == before
    assert len(search(store, MARKER)) == 1


def test_a_step_is_short(store: Store) -> None:
    converse(store, 10, "s-1")
    store.search_index.begin(plain=True)
    took, goes_on = [], True
    while goes_on:
        began = time.process_time()
        goes_on = store.search_index.step()
        took.append(time.process_time() - began)

    assert sorted(took)[len(took) // 2] < 0.1
    assert max(took) < 1


def test_a_server_cannot_have_one() -> None:
    options = {"ccflare_database": "postgresql://me@localhost/ccflare", "ccflare_search_index": "plain"}

    with pytest.raises(ConfigError, match="plain works with an SQLite file only"):
        Settings.build(options)


def test_an_sqlite_that_cannot_make_one_says_so(store: Store) -> None:
    def query(sql: str, parameters: object = ()) -> list[tuple[object, ...]]:
        return store.query(sql.replace("fts5", "fts9"))

    index = SearchIndex(
        store.transcripts._database,
        store.transcripts,
        query=query,
        transaction=store._transaction,
        scrub=store.scrub,
    )

    with pytest.raises(ConfigError, match="FTS5"):
        index.begin(plain=True)
