"""Commands whose standard output takes nothing: closed by the shell, or on a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccflare_cli.streams import Unwritable, writing

SCRIPTS = Path(__file__).parents[2] / "scripts"
FULL = Path("/dev/full")


def run(words: str, redirection: str, buffered: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    database = str(tmp_path / "none.db")
    command = [sys.executable, str(SCRIPTS / "accounts.py"), "--database", database, *words.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_full_disk_is_told_in_one_sentence(buffered: str, tmp_path: Path) -> None:
    done = run("list", ">/dev/full", buffered, tmp_path)

    assert done.returncode == 1
    assert done.stderr == "Standard output cannot be written (No space left on device): send it somewhere else.\n"


def test_a_closed_output_is_told_in_one_sentence(tmp_path: Path) -> None:
    done = run("list", ">&-", "", tmp_path)

    assert done.returncode == 1
    assert done.stderr == "Standard output cannot be written (Bad file descriptor): send it somewhere else.\n"


@pytest.mark.parametrize("redirection", ["2>&-", "<&-"])
def test_what_a_command_does_not_need_may_be_closed(redirection: str, tmp_path: Path) -> None:
    done = run("list", redirection, "", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No accounts yet")


def test_complaints_without_a_place_do_not_reach_the_output(tmp_path: Path) -> None:
    done = run("pause nobody", "2>&-", "", tmp_path)

    assert (done.returncode, done.stdout) == (1, "")


def test_errors_of_writing_are_told_apart_from_others() -> None:
    with pytest.raises(Unwritable, match="No space left"), writing():
        raise OSError(28, "No space left on device")
    with pytest.raises(BrokenPipeError), writing():
        raise BrokenPipeError
