"""What is drawn anew on a terminal."""

import io
from collections.abc import Iterator

import pytest

from ccflare_cli.watching import watch
from desk import Desk, Terminal


def interrupted_after(rounds: int) -> Iterator[None]:
    yield from [None] * (rounds - 1)
    raise KeyboardInterrupt


def run(stdout: io.StringIO, rounds: int, text: str) -> tuple[int, Desk]:
    desk, pauses = Desk(stdout=stdout), interrupted_after(rounds)
    return watch(desk.console(), 5, lambda: text, lambda seconds: next(pauses)), desk


def test_it_draws_over_the_last_picture_until_it_is_interrupted() -> None:
    code, desk = run(Terminal(), 3, "one\ntwo")

    assert code == 0
    assert desk.said.count("\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J") == 3
    assert desk.said.count("\x1b[2J") == 1
    assert desk.said.endswith("\x1b[?7h\x1b[?25h\n")


def test_it_is_no_higher_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "80")

    _, desk = run(Terminal(), 1, "\n".join("line" for _ in range(50)))

    assert desk.said.count("line") == 8
    assert "…" in desk.said


def test_without_a_terminal_it_is_shown_once() -> None:
    code, desk = run(io.StringIO(), 1, "one")

    assert (code, desk.said) == (0, "one\n")
    assert "--watch needs a terminal" in desk.complained
