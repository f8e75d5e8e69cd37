"""A body on the disk: as it was, sealed, bounded in memory and on the disk, and gone when it is not needed."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccflare_core.errors import StoreError
from ccflare_core.store import spool as spooling
from ccflare_core.store.spool import BLOCK_BYTES, Spool, SpoolRoom
from harness import eventually

type Open = Callable[..., Spool]


@pytest.fixture
def open_spool(tmp_path: Path) -> Iterator[Open]:
    """Makes spools with so many bytes to stay free, which are closed at the end."""
    made: list[tuple[Spool, SpoolRoom]] = []

    def make(minimum_free: int = 0, on_drained: Callable[[], object] = lambda: None) -> Spool:
        room = SpoolRoom(lambda: tmp_path, lambda: minimum_free)
        made.append((room.open(on_drained), room))
        return made[-1][0]

    yield make
    for spool, room in made:
        spool.close()
        room.thread.shutdown()


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 17])
def test_body_comes_back_as_it_was_and_as_often_as_it_is_read(open_spool: Open, size: int) -> None:
    spool, body = open_spool(), bytes(n % 251 for n in range(size))
    for start in range(0, size, 70_000):
        spool.add(body[start : start + 70_000])
    spool.finish()

    assert spool.size == size
    assert b"".join(spool.pieces()) == b"".join(spool.pieces()) == body
    assert spool.is_written
    blocks = -(-size // BLOCK_BYTES)
    assert spool.read(blocks).result() is None


def test_body_has_no_name_on_the_disk(open_spool: Open, tmp_path: Path) -> None:
    spool = open_spool()
    spool.add(bytes(2 * BLOCK_BYTES))
    spool.finish()
    list(spool.pieces())

    assert list(tmp_path.iterdir()) == []


def test_body_that_was_changed_on_the_disk_is_not_read(open_spool: Open) -> None:
    spool = open_spool()
    spool.add(b"x" * 100)
    spool.finish()
    list(spool.pieces())
    assert spool._file is not None
    spool._file.seek(50)
    spool._file.write(b"!")

    with pytest.raises(StoreError, match="cannot be read back"):
        list(spool.pieces())


def test_disk_that_would_be_too_full_is_trouble(open_spool: Open) -> None:
    spool = open_spool(minimum_free=2**60)
    spool.add(b"x" * 100)
    spool.finish()

    with pytest.raises(StoreError, match="less than ccflare_minimum_free_bytes would be free"):
        list(spool.pieces())
    assert spool.trouble


def test_spools_together_take_half_of_the_room(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    room = SpoolRoom(lambda: tmp_path, lambda: 0)
    first = room.open(lambda: None)
    first.add(bytes(2 * BLOCK_BYTES))
    first.finish()
    list(first.pieces())
    room.minimum_free = lambda: disk.f_bavail * disk.f_frsize - 4 * BLOCK_BYTES

    room.require(disk, BLOCK_BYTES)
    with pytest.raises(OSError, match="more than half of the room"):
        room.require(disk, 2 * BLOCK_BYTES)
    first.close()
    room.thread.shutdown()
    room.require(disk, 4 * BLOCK_BYTES)


def test_folder_that_is_gone_is_trouble(open_spool: Open, tmp_path: Path) -> None:
    tmp_path.rmdir()
    spool = open_spool()
    spool.add(b"x" * 100)
    spool.finish()

    with pytest.raises(StoreError, match="No such file or directory"):
        list(spool.pieces())
    tmp_path.mkdir()


def test_closed_spool_is_read_no_more(open_spool: Open) -> None:
    spool = open_spool()
    spool.add(b"x" * 100)
    spool.finish()
    spool.close()

    with pytest.raises(StoreError, match="not kept any more"):
        list(spool.pieces())


def test_who_adds_is_told_to_wait_and_to_go_on(open_spool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, drained = threading.Event(), threading.Event()
    spool = open_spool(on_drained=drained.set)
    really_append = spool._append
    monkeypatch.setattr(spool, "_append", lambda block: (go_on.wait(60), really_append(block)))

    added = 0
    while spool.add(bytes(BLOCK_BYTES)):
        added += BLOCK_BYTES
    assert added < 2 * spooling.WAITING_BYTES
    assert not drained.is_set()
    go_on.set()
    eventually(drained.is_set)
