"""The log file: private, turned over by size and age, bounded, off the way of who logs, and no trouble to anybody."""

import gzip
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.errors import ConfigError
from ccflare_mitm import log_file
from ccflare_mitm.log_file import Bounds, LineFormatter, LogFile, TurnedFile
from harness import eventually

DAY = 86_400
NOW = 1_800_000_000.0
LOGGER = logging.getLogger("ccflare.test_log_file")


def record(text: str, at: float = NOW) -> logging.LogRecord:
    made = logging.LogRecord("ccflare", logging.WARNING, __file__, 1, text, (), None)
    made.created = at
    return made


def line(text: str, at: float = NOW) -> logging.LogRecord:
    """A record as it comes out of the queue: it is formatted already."""
    return record(LineFormatter().format(record(text, at)))


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def turned(path: Path, *, size: int = 1000, days: int = 7, count: int = 3, clock: Clock | None = None) -> TurnedFile:
    return TurnedFile(path, Bounds(size, days, count), clock or Clock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.log"


@pytest.fixture
def logged(path: Path) -> Iterator[LogFile]:
    """A log file that takes all that is logged."""
    LOGGER.setLevel(logging.DEBUG)
    file = LogFile(path, Bounds(10_000_000, 7, 3), LineFormatter(), lambda each: each.levelno >= logging.INFO)
    file.start()
    yield file
    file.close()


# --- turned over ------------------------------------------------------------------------------------------------------


def test_a_full_file_is_compressed_and_the_oldest_goes(path: Path) -> None:
    file = turned(path)
    for number in range(100):
        file.emit(line(f"message {number} {'x' * 100}"))
    file.close()

    assert {each.name for each in path.parent.iterdir()} == {path.name, *(f"{path.name}.{n}.gz" for n in (1, 2, 3))}
    texts = [gzip.decompress((path.parent / f"{path.name}.{n}.gz").read_bytes()).decode() for n in (3, 2, 1)]
    numbers = [int(each.split()[4]) for text in (*texts, path.read_text()) for each in text.splitlines()]
    assert numbers == list(range(numbers[0], 100))
    assert all(len(text) <= 1000 for text in texts)


def test_an_old_file_is_turned_over_also_after_a_restart(path: Path) -> None:
    clock = Clock()
    first = turned(path, clock=clock)
    first.emit(line("first"))
    first.close()
    clock.now += 6 * DAY
    second = turned(path, clock=clock)
    second.emit(line("second", clock.now))
    assert [each.name for each in path.parent.iterdir()] == [path.name]

    clock.now += 1 * DAY
    second.emit(line("third", clock.now))
    second.close()

    assert "second" in gzip.decompress(path.with_name("ccflare.log.1.gz").read_bytes()).decode()
    assert path.read_text().endswith("third\n")


def test_the_file_and_the_compressed_ones_are_the_owners_alone(path: Path) -> None:
    path.write_text("from before\n")
    path.chmod(0o644)
    file = turned(path)
    for _ in range(20):
        file.emit(line("x" * 100))
    file.close()

    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


# --- what cannot be written -------------------------------------------------------------------------------------------


def folder(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


def link(path: Path) -> str:
    path.symlink_to("elsewhere")
    return "it is a symbolic link"


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return "No such device or address"


def second_name(path: Path) -> str:
    path.with_name("other").touch()
    path.hardlink_to(path.with_name("other"))
    return "it has a second name somewhere"


@pytest.mark.parametrize("spoil", [folder, link, pipe, second_name])
def test_a_place_that_cannot_be_written_is_one_sentence(path: Path, spoil: object) -> None:
    assert callable(spoil)
    why = spoil(path)

    with pytest.raises(ConfigError) as refused:
        LogFile(path, Bounds(1000, 7, 3), LineFormatter(), lambda each: True)

    assert str(refused.value) == (
        f"ccflare_log_file: {path} cannot be written ({why}); name a file in a folder that you can write to"
    )


def test_a_file_of_another_user_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(ConfigError, match="it belongs to another user"):
        LogFile(path, Bounds(1000, 7, 3), LineFormatter(), lambda each: True)


def test_a_disk_that_is_full_later_is_one_warning_and_so_is_its_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = turned(path)
    file.emit(line("before"))
    with Path("/dev/full").open("w") as full:
        file.stream, before = full, file.stream
        before.close()
        path.rename(path.with_suffix(".kept"))
        path.mkdir()  # so that it cannot be opened anew either
        for _ in range(5):
            file.emit(line("lost"))
    path.rmdir()
    file.emit(line("after"))
    file.close()

    told = [each.getMessage() for each in caplog.records]
    assert told == [
        f"the log file {path} cannot be written (No space left on device): see to it",
        f"the log file {path} is written again; some messages are missing in it",
    ]
    assert path.read_text().endswith("after\n")


# --- off the way ------------------------------------------------------------------------------------------------------


def test_messages_arrive_as_the_terminal_shows_them(logged: LogFile, path: Path) -> None:
    LOGGER.info("max-1 %s", "serves")
    LOGGER.debug("hidden")
    logged.close()

    (written,) = path.read_text().splitlines()
    assert written.endswith(" INFO ccflare.test_log_file: max-1 serves")


def test_nothing_in_a_message_begins_a_line_of_its_own(logged: LogFile, path: Path) -> None:
    LOGGER.warning("asked for x\n2027-01-15T08:00:00+0000 ERROR ccflare: forged\r\x1b[31m\u2028")
    logged.close()

    first, second = path.read_text().split("\n")[:-1]
    assert second == "    2027-01-15T08:00:00+0000 ERROR ccflare: forged\\r\\x1b[31m\\u2028"
    assert first.endswith("asked for x")


def test_who_logs_never_waits_for_the_disk(logged: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    really_emit = TurnedFile.emit
    monkeypatch.setattr(TurnedFile, "emit", lambda self, each: (opened.wait(30), really_emit(self, each)))

    for number in range(log_file.WAITING_MESSAGES + 50):
        LOGGER.info("message %d", number)
    opened.set()

    def is_told() -> bool:
        LOGGER.info("and on")
        return "messages are missing here: the disk was slow" in path.read_text()

    eventually(is_told)
    logged.close()

    kept = sum(" message " in each for each in path.read_text().splitlines())
    assert log_file.WAITING_MESSAGES <= kept < log_file.WAITING_MESSAGES + 50
