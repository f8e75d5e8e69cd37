"""Workers that ask each other for their metrics: all answer for all, and one that is gone is left out."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from ccflare_core.reports.metrics import Family, Kind, Sample
from ccflare_mitm.pages import fellows
from ccflare_mitm.pages.fellows import MOST_BYTES, Fellows


def figure(value: float) -> list[Family]:
    return [Family("ccflare_requests_open", Kind.GAUGE, "Open.", (), (Sample((), value),))]


async def serving(folder: Path, number: int) -> "asyncio.Task[None]":
    """This worker, once the others can ask it."""
    task = asyncio.create_task(Fellows(number, folder).serve(lambda: figure(number)))
    while not (folder / str(number)).exists():
        await asyncio.sleep(0.01)
    return task


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_worker_tells_of_all_that_are_there(tmp_path: Path) -> None:
    second, third = await serving(tmp_path, 2), await serving(tmp_path, 3)
    (family,) = await Fellows(1, tmp_path).all_families(figure(1))
    assert [(each.labels, each.value) for each in family.samples] == [(("1",), 1), (("2",), 2), (("3",), 3)]

    await ended(second)
    (tmp_path / "2").touch()  # what one that was killed leaves

    (family,) = await Fellows(1, tmp_path).all_families(figure(1))
    assert [each.labels for each in family.samples] == [("1",), ("3",)]

    second = await serving(tmp_path, 2)
    await ended(second)
    await ended(third)


async def test_a_proxy_that_is_no_worker_has_its_own_without_a_label() -> None:
    assert await Fellows().all_families(figure(1)) == figure(1)
    await Fellows().serve(lambda: figure(1))


async def test_without_a_folder_to_meet_in_a_worker_tells_of_itself(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)  # longer than a socket's name may be
    folder.mkdir()
    await Fellows(1, folder).serve(lambda: figure(1))
    (family,) = await Fellows(1, folder).all_families(figure(1))
    assert [each.labels for each in family.samples] == [("1",)]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[5]",
        b"[" * 100_000,
        b'[["a", "no kind", "", [], []]]',
        b'[["a", "gauge", "", ["x"], [[[], 1]]]]',
        b'[["a", "gauge", "", [], [[[5], 1]]]]',
        b'[["a", "gauge", "", ["x"], [[[5], 1]]]]',
        b'[["a", "gauge", "", [], [[[], "x"]]]]',
        b'[["a", "histogram", "", [], [[[], {"bounds": [1], "counts": [1], "sum": 1}]]]]',
        b'[["a", "histogram", "", [], [[[], {"bounds": [1], "counts": ["1", 2], "sum": 1}]]]]',
        b'[["ccflare_requests_open", "gauge", "", ["other"], [[["x"], 1]]]]',
        b"[" + b" " * MOST_BYTES + b"]",
    ],
    ids=range(13),
)
async def test_what_another_worker_says_wrongly_is_left_out(tmp_path: Path, answer: bytes) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(say, tmp_path / "2"):
        found = await Fellows(1, tmp_path).all_families(figure(1))
    assert [family.name for family in found] == ["ccflare_requests_open"]
    assert [each.labels for each in found[0].samples] == [("1",)]


async def test_only_workers_are_asked(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(lambda _, writer: writer.write(b"[]"), tmp_path / "stranger"):
        (family,) = await Fellows(1, tmp_path).all_families(figure(1))
    assert [each.labels for each in family.samples] == [("1",)]


async def test_one_that_hangs_is_waited_for_no_longer_than_the_page_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fellows, "SECONDS", 0.05)
    held: list[asyncio.StreamWriter] = []
    async with await asyncio.start_unix_server(lambda _, writer: held.append(writer), tmp_path / "2"):
        (family,) = await Fellows(1, tmp_path).all_families(figure(1))
        for writer in held:
            writer.close()
    assert [each.labels for each in family.samples] == [("1",)]


async def test_where_the_folder_is_gone_a_worker_tells_of_itself(tmp_path: Path) -> None:
    (family,) = await Fellows(1, tmp_path / "cleaned away").all_families(figure(1))
    assert [each.labels for each in family.samples] == [("1",)]
