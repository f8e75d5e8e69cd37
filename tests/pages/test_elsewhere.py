"""What goes on in other proxies: taken from what they tell, and ended by the record."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import RunTold
from ccflare_core.store.store import Store
from ccflare_mitm.pages.elsewhere import GIVEN_UP_SECONDS, Elsewhere
from database_kit import exchange, open_store


class Bench:
    """Another proxy's store, and what this one makes of it."""

    def __init__(self, store: Store) -> None:
        self.store, self.now, self.fails, self.has_peers = store, 0.0, False, True
        store.runs.start("other", "host", 2)
        self.elsewhere = Elsewhere(self.read, "mine", lambda: self.has_peers, lambda: self.now)

    async def read[T](self, function: Callable[[Store], T], /) -> T:
        if self.fails:
            raise StoreError("away")
        return function(self.store)

    async def tells(self, *ids: str) -> list[str]:
        """The other one has these open; the ids of what is open by then."""
        running = [{"id": id, "path": "/v1/messages", "outcome": None, "seconds": 1.0} for id in ids]
        self.store.write([RunTold("other", {"running": json.dumps(running)})])
        await self.elsewhere.look()
        return list(self.elsewhere.open)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        yield Bench(store)


async def test_a_request_is_open_until_the_record_has_its_end(bench: Bench) -> None:
    assert await bench.tells("r1", "r2") == ["r1", "r2"]
    assert await bench.tells("r2") == ["r2"]
    assert bench.elsewhere.take_closed() == []
    bench.store.write(exchange("r1"))

    await bench.elsewhere.look()

    (closed,) = bench.elsewhere.take_closed()
    assert (closed["id"], closed["outcome"]) == ("r1", "ok")
    assert bench.elsewhere.take_closed() == []


async def test_one_whose_end_nobody_records_is_closed_as_it_was_last_known(bench: Bench) -> None:
    await bench.tells("r1")
    await bench.tells()
    bench.now += GIVEN_UP_SECONDS
    await bench.elsewhere.look()
    (closed,) = bench.elsewhere.take_closed()
    assert (closed["id"], closed["outcome"], closed["seconds"], closed["tags"]) == ("r1", None, 1.0, {})


async def test_what_the_database_refuses_is_read_the_next_time(bench: Bench) -> None:
    await bench.tells("r1")
    bench.fails = True
    assert await bench.tells() == ["r1"]
    bench.fails = False
    assert await bench.tells() == []


async def test_a_proxy_that_is_alone_reads_nothing(bench: Bench) -> None:
    bench.has_peers, bench.fails = False, True
    assert await bench.tells("r1") == []


@pytest.mark.parametrize(
    "row",
    [
        "[]",
        '"r2"',
        "{}",
        '{"id": "r2"}',
        '{"id": ["r2"], "path": "/", "seconds": 1}',
        '{"id": "r2", "path": "/", "seconds": "1"}',
        '{"id": "r2", "path": "/", "seconds": NaN}',
        '{"id": "r2", "path": "/", "seconds": 1, "model": {"toString": 1}}',
        '{"id": "r2", "path": "/", "seconds": 1, "proxy": 5}',
        '{"id": "r2", "path": "/", "seconds": 1, "output_tokens": "<b>"}',
        '{"id": "r2", "path": "/", "seconds": 1, "estimated": "yes"}',
        '{"id": "r2", "path": "/", "seconds": 1, "tags": ["a"]}',
        '{"id": "r2", "path": "/", "seconds": 1, "tags": {"a": {}}}',
    ],
)
async def test_a_row_that_no_proxy_tells_is_left_out_and_keeps_nothing_else_away(bench: Bench, row: str) -> None:
    known = json.dumps({"id": "r1", "path": "/v1/messages", "seconds": 1, "of_a_later_version": []})
    bench.store.write([RunTold("other", {"running": f"[{row}, {known}]"})])
    await bench.elsewhere.look()
    assert list(bench.elsewhere.open) == ["r1"]
    assert "of_a_later_version" not in bench.elsewhere.open["r1"]


@pytest.mark.parametrize("text", ["{", "5", "null", '{"id": "r1"}', "[" * 100_000])
async def test_what_is_no_list_tells_nothing(bench: Bench, text: str) -> None:
    bench.store.write([RunTold("other", {"running": text})])
    await bench.elsewhere.look()
    assert bench.elsewhere.open == {}
