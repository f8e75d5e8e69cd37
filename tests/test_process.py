"""What can be seen of a process: its memory from outside, and how much of it there is."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ccflare_core.process import be_less_urgent, give_back_memory, hide_memory, resident_bytes
from harness import REPOSITORY

LOOK = """
import os, resource
from ccflare_core.process import hide_memory
print(os.stat("/proc/self/environ").st_uid == os.geteuid(), hide_memory(), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_hidden_memory_is_dumped_nowhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={"PYTHONPATH": str(REPOSITORY / "addon")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True True (0, 0)\n", "")


def test_memory_that_cannot_be_hidden_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr("resource.setrlimit", refuse)
    monkeypatch.setattr("sys.platform", "elsewhere")
    assert not hide_memory()


def test_memory_has_a_size() -> None:
    before = resident_bytes()
    ballast = bytearray(b"x") * 64_000_000
    after = resident_bytes()
    assert before
    assert after
    assert after - before > 32_000_000
    assert ballast


def test_memory_that_was_freed_is_given_back() -> None:
    pieces = [b"x" * 70_000 for _ in range(1000)]
    pieces = pieces[::2]  # what lies between them is free now, and nobody else's
    before = resident_bytes()
    give_back_memory()
    after = resident_bytes()
    assert before
    assert after
    assert before - after > (20_000_000 if platform.libc_ver()[0] == "glibc" else -20_000_000)
    assert pieces


def test_a_thread_gives_way_and_no_other_does() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def give_way() -> int:
        be_less_urgent()
        return os.getpriority(os.PRIO_PROCESS, 0)  # on Linux that of the thread which asks

    with ThreadPoolExecutor(1) as thread:
        given = thread.submit(give_way).result()
    assert given == (min(before + 5, 19) if sys.platform == "linux" else before)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
