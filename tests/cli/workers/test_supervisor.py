"""The supervisor, with small programs in the place of proxies that say the same things to it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from ccflare_cli.workers.supervisor import Supervisor

HELLO = """
import os, socket, sys
*numbers, folder = os.environ["CCFLARE_WORKER"].split(" ", 3)
number, is_first, descriptor = map(int, numbers)
assert os.path.isdir(folder)
way = socket.socket(fileno=descriptor)

def note(word):
    with open("notes", "a") as notes:
        notes.write(f"{word} {number}\\n")

note("start")
"""
SERVE = """
note("prepared")
way.send(b"p")
assert way.recv(1) == b"g"
note("go")
way.send(b"s")
"""


class Bench:
    """A supervisor of three programs in a folder of the test's."""

    def __init__(self, program: str) -> None:
        self.supervisor = Supervisor([sys.executable, "-c", HELLO + program], 3, os.environ)
        self.code = asyncio.ensure_future(self.supervisor.run())

    @property
    def notes(self) -> list[str]:
        return Path("notes").read_text().splitlines() if Path("notes").exists() else []

    async def until(self, note: str, times: int = 1) -> None:
        async with asyncio.timeout(60):
            while self.notes.count(note) < times:
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_supervisor_shows_a_refusal_once_and_ends_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    bench = Bench("sys.exit('ccflare: no.')")

    code = await bench.code

    assert (code, bench.notes) == (1, ["start 1"])
    assert capfd.readouterr().err == "ccflare: no.\n"


async def test_supervisor_has_workers_listen_when_all_are_prepared_and_stops_them_twice_as_told() -> None:
    bench = Bench(SERVE + "way.recv(1)\nnote('stop')\nway.recv(1)\nnote('hurry')")
    for number in (1, 2, 3):
        await bench.until(f"go {number}")

    os.kill(os.getpid(), signal.SIGINT)
    for number in (1, 2, 3):
        await bench.until(f"stop {number}")
    os.kill(os.getpid(), signal.SIGTERM)
    code = await bench.code

    words = [note.split()[0] for note in bench.notes]
    assert code == 0
    assert words[:2] == ["start", "prepared"]
    assert words[-3:] == ["hurry"] * 3
    assert words.index("go") > max(place for place, word in enumerate(words) if word == "prepared")


async def test_supervisor_replaces_a_worker_that_has_died(capfd: pytest.CaptureFixture[str]) -> None:
    die_once = (
        "if number == 2 and not os.path.exists('died'):\n    open('died', 'w').close()\n    os.kill(os.getpid(), 9)\n"
    )
    bench = Bench(SERVE + die_once + "way.recv(1)")

    await bench.until("go 2", times=2)
    bench.supervisor.stop()

    assert await bench.code == 0
    assert bench.notes.count("start 1") == bench.notes.count("start 3") == 1
    assert "has ended by SIGKILL; another starts now" in capfd.readouterr().out


async def test_supervisor_gives_up_when_none_serves_and_the_next_one_ends_at_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    bench = Bench(
        "if os.path.exists('died'): sys.exit(3)\n" + SERVE + "way.recv(1) if number > 9 else None\nopen('died', 'w')\n"
    )

    code = await asyncio.wait_for(bench.code, 60)

    assert code == 3
    assert "no worker serves" in capfd.readouterr().out


async def test_supervisor_stops_workers_that_still_start() -> None:
    bench = Bench("note(way.recv(1))\n")
    await bench.until("start 1")

    bench.supervisor.stop()

    assert await bench.code == 0
    assert bench.notes == ["start 1", "b't' 1"]
