"""Files that a person wrote: what is in them, or one sentence that names the file."""

import os
from pathlib import Path

import pytest

from ccflare_core.errors import ConfigError
from ccflare_core.reading import TEXT_LIMIT, FileWatch, read_bytes, read_text


def test_text_comes_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}a: ä\n".encode())
    assert read_text(path) == "a: ä\n"


def test_a_limit_is_what_still_may_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * TEXT_LIMIT)
    assert read_bytes(path, TEXT_LIMIT) == read_text(path).encode()
    with pytest.raises(ConfigError, match=r"a\.yaml: the file is longer than 1 KiB: shorten it"):
        read_bytes(path, 1024)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone", r"gone: the file cannot be read \(No such file"),
        ("", "cannot be read"),
        ("x", "x: the file is not text"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=told):
        read_text(tmp_path / name)


def test_a_watched_file_with_a_mistake_is_told_of_once_and_what_was_before_stays(tmp_path: Path) -> None:
    path, told = tmp_path / "a.txt", list[str]()

    def load(path: Path | None) -> str:
        text = read_text(path) if path else ""
        if text.startswith("!"):
            raise ConfigError("it begins with a mark")
        return text

    path.write_text("one")
    watch = FileWatch(lambda: path, load, "the words stay as they were", told.append)
    assert (watch.start(), watch.look(), watch.trouble) == ("one", None, None)

    path.write_text("!wrong")
    assert (watch.look(), watch.look()) == (None, None)
    assert told == [watch.trouble] == ["the words stay as they were: it begins with a mark"]

    path.write_text("right now")
    assert (watch.look(), watch.look(), watch.trouble) == ("right now", None, None)

    path.unlink()
    assert watch.look() is None
    assert watch.trouble is not None
    assert watch.trouble.startswith(f"the words stay as they were: {path}: the file cannot be read")


def test_a_watched_file_that_is_being_written_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    path, told = tmp_path / "a.txt", list[str]()
    rest = ["one", "one two"]

    def write(_seconds: float) -> None:
        if rest:
            path.write_text(rest.pop(0))

    path.write_text("before")
    watch = FileWatch(lambda: path, lambda path: read_text(path) if path else "", "x", told.append, pause=write)
    assert watch.start() == "before"

    path.write_text("")
    assert [watch.look() for _ in range(4)] == [None, None, "one two", None]
    assert (told, watch.trouble) == ([], None)


def test_a_pipe_is_not_watched_nor_waited_for(tmp_path: Path) -> None:
    path, told = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    watch = FileWatch(lambda: path, lambda path: read_text(path) if path else "", "x", told.append)

    with pytest.raises(ConfigError, match="pipe: this is no ordinary file: name one"):
        watch.start()
