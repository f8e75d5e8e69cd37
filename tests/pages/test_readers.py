"""Looks at the database for pages: in threads of their own, beside the one that writes."""

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.errors import StoreError, Unusable
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from ccflare_mitm.pages import readers as readers_module
from ccflare_mitm.pages.readers import THREADS, Readers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = tmp_path / "ccflare.db"
    with contextlib.closing(Store.open(database, KeyFile(tmp_path / "key"))) as store:
        store.accounts.add(Account("a", "first", Kind.API_KEY, api_key="sk-ant-api03-x"))
    return database


def names(store: Store) -> list[str]:
    return [account.name for account in store.accounts.all()]


async def test_readers_see_what_others_write(path: Path) -> None:
    opened = []

    def open_store() -> Store:
        opened.append(threading.current_thread().name)
        return Store.open(path, KeyFile(path.parent / "key"), read_only=True)

    readers = Readers(open_store)
    assert await readers(names) == ["first"]
    with contextlib.closing(Store.open(path, KeyFile(path.parent / "key"))) as store:
        store.accounts.add(Account("b", "second", Kind.API_KEY, api_key="sk-ant-api03-y"))
    assert sorted(await readers(names)) == ["first", "second"]
    assert len(opened) == 1
    assert opened[0].startswith("ccflare-pages")
    readers.close()


async def test_a_short_look_does_not_wait_for_a_long_one(path: Path) -> None:
    readers = Readers(lambda: Store.open(path, KeyFile(path.parent / "key"), read_only=True))
    is_over = threading.Event()
    long = asyncio.ensure_future(readers(lambda store: is_over.wait(60)))
    await asyncio.sleep(0)
    assert THREADS > 1
    assert await readers(names) == ["first"]
    is_over.set()
    assert await long
    readers.close()


async def test_no_more_looks_wait_than_somebody_will_see(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MOST_WAITING", 3)
    readers = Readers(lambda: Store.open(path, KeyFile(path.parent / "key"), read_only=True), threads=1)
    is_over = threading.Event()
    looks = [asyncio.ensure_future(readers(lambda store: is_over.wait(60))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unusable, match="Too many pages"):
        await readers(names)
    is_over.set()
    assert await asyncio.gather(*looks) == [True] * 3
    assert await readers(names) == ["first"]
    readers.close()


async def test_readers_cannot_write(path: Path) -> None:
    readers = Readers(lambda: Store.open(path, KeyFile(path.parent / "key"), read_only=True))
    with pytest.raises(StoreError):
        await readers(lambda store: store.accounts.remove("a"))
    assert await readers(names) == ["first"]
    readers.close()


async def test_readers_open_the_database_anew_when_it_has_failed(path: Path) -> None:
    failures = iter([True])

    def open_store() -> Store:
        if next(failures, False):
            raise Unusable("The database is away.")
        return Store.open(path, KeyFile(path.parent / "key"), read_only=True)

    readers = Readers(open_store, threads=1)
    with pytest.raises(Unusable):
        await readers(names)
    assert await readers(names) == ["first"]
    readers.close()
