"""The proxy's side of the audit log: bursts of refusals, and when new requests are no longer taken."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from ccflare_core.audit.bursts import LONGEST_SECONDS, QUIET_SECONDS, Bursts
from ccflare_core.audit.entries import By, Secret
from ccflare_core.store.store import Store
from ccflare_core.writer.auditor import Auditor, digest
from database_kit import open_store

SOURCE, OTHER = By("", "10.0.0.7", "req_1"), By("", "10.0.0.8")


class Writer:
    """A writer without a thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_alive = True

    def call[T](self, function: Callable[[Store], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(function(self._store))
        return future


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "ccflare.db")
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def auditor(store: Store, clock: Clock) -> Auditor:
    return Auditor(Writer(store), stop_after=lambda: 60, clock=clock, sleep=clock.sleep)


def found(store: Store) -> list[tuple[str, str, dict[str, object]]]:
    sql = "SELECT action, ip, detail FROM audit_log ORDER BY id"
    return [(action, ip, json.loads(detail)) for action, ip, detail in store.query(sql)]


async def run(auditor: Auditor, clock: Clock, seconds: float) -> None:
    task, until = asyncio.ensure_future(auditor.run()), clock.now + seconds
    while clock.now < until:
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_ten_thousand_guesses_are_one_row_for_each_source(auditor: Auditor, store: Store, clock: Clock) -> None:
    for number in range(10_000):
        auditor.denied("10.0.0.7", "no such key", target=f"/v1/{number}")
        clock.now += 0.001
    auditor.denied("10.0.0.8", "expired")
    await run(auditor, clock, QUIET_SECONDS + 2)
    assert found(store) == [
        ("auth.denied", "10.0.0.7", {"count": 10_000, "seconds": 10.0, "reasons": {"no such key": 10_000}}),
        ("auth.denied", "10.0.0.8", {"count": 1, "seconds": 0.0, "reasons": {"expired": 1}}),
    ]


def test_one_that_never_ends_is_told_now_and_then() -> None:
    bursts, told = Bursts(), 0
    for second in range(1000):
        bursts.add(SOURCE, "auth.denied", "/", "no key", float(second))
        told += len(list(bursts.over(float(second))))
    assert told == 1000 // (LONGEST_SECONDS + 1)
    assert [entry.detail["count"] for entry in bursts.all()] == [97]
    assert list(bursts.all()) == []


def test_sources_and_reasons_are_bounded() -> None:
    bursts = Bursts()
    for number in range(3000):
        bursts.add(By("", f"2001:db8:0:{number:x}::1"), "auth.denied", "/", f"reason {number}", 0.0)
        bursts.add(OTHER, "auth.denied", "/", f"reason {number}", 0.0)
    entries = {entry.ip: entry for entry in bursts.all()}
    assert len(entries) == 1001
    reasons = entries[OTHER.ip].detail["reasons"]
    assert isinstance(reasons, dict)
    assert len(reasons) == 11
    assert sum(reasons.values()) == 3000


def test_the_addresses_of_a_household_are_one_source() -> None:
    bursts = Bursts()
    for number in range(1, 300):
        bursts.add(By("", f"2001:db8::{number:x}"), "auth.denied", "/", "no key", 0.0)
    assert [(entry.ip, entry.detail["count"]) for entry in bursts.all()] == [("2001:db8::1", 299)]


def test_start_and_end_are_written_with_what_is_open(auditor: Auditor, store: Store) -> None:
    auditor.begin(store, "here", {"ccflare_strategy": "session"}, version="1")
    auditor.denied("10.0.0.7", "no key")
    auditor.end(store, "here")
    assert [action for action, _, _ in found(store)] == ["config.change", "proxy.start", "auth.denied", "proxy.stop"]
    assert found(store)[1][2] == {"options": digest({"ccflare_strategy": "session"}), "version": "1"}


async def test_the_end_of_the_chain_is_kept_each_hour_if_it_moved(
    auditor: Auditor, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ccflare")
    store.note("data.read")
    await run(auditor, clock, 3 * 3600 + 10)
    store.note("data.read")
    await run(auditor, clock, 3600 + 10)
    anchors = [message for message in caplog.messages if message.startswith("audit anchor ")]
    assert [anchor.split()[2].split(":")[0] for anchor in anchors] == ["1", "2"]


def test_requests_stop_only_after_the_time_that_was_set(
    auditor: Auditor, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    auditor.begin(store, "here", {})
    store.audit.failing_since = clock.now
    clock.now += 59
    assert auditor.halted() is None
    clock.now += 1
    assert [auditor.halted() is None for _ in range(3)] == [False] * 3
    store.audit.failing_since = None
    assert auditor.halted() is None
    told = [record.levelname for record in caplog.records if record.name == "ccflare" and record.levelno > logging.INFO]
    assert told == ["ERROR", "WARNING"]


def test_a_digest_tells_options_apart_and_nothing_of_secrets() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})
    assert digest({"a": Secret("one")}) == digest({"a": Secret("two")})
