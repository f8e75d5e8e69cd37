"""The board at 80 × 24, by what it draws and what its keys do; and once in a real terminal."""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import urwid

from ccflare_cli.console import Refused
from ccflare_cli.page import Page
from ccflare_cli.top.board import Board
from ccflare_cli.top.rows import Glance
from ccflare_core.reports.queries import Exchange
from ccflare_core.store.statuses import statuses
from harness import REPOSITORY, eventually
from history import NOON, History
from terminal import Terminal

SIZE = 80, 24


class Desk:
    """A source that notes what it is asked to do."""

    def __init__(self, glance: Glance) -> None:
        self.glance = glance
        self.done: list[tuple[str, bool]] = []
        self.trouble = ""

    def look(self) -> Glance:
        if self.trouble:
            raise Refused(self.trouble)
        return self.glance

    def set_paused(self, name: str, *, paused: bool) -> None:
        self.done.append((name, paused))

    def conversation(self, request_id: str) -> str:
        return f"Request  {request_id}\n\n── user\nhello"


def exchange(number: int, outcome: str | None = "ok") -> Exchange:
    nothing = dict.fromkeys(Exchange._fields)
    known = {
        "id": f"req_{number}",
        "at": NOON - 10 * number,
        "account": "max-1",
        "model": "claude-opus-4-8",
        "method": "POST",
        "path": "/v1/messages",
        "status": 200,
        "outcome": outcome,
        "seconds": 2.5,
        "input_tokens": 1200,
        "output_tokens": 312,
        "cost_usd": 0.012,
        "failovers": 0,
        "estimated": False,
    }
    return Exchange(**{**nothing, **known})  # type: ignore[arg-type]


@pytest.fixture
def glance(tmp_path: Path) -> Glance:
    """An account with a limit, and two requests, one of them open."""
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-2")
        history.window("max-1", "5h", 0.62, NOON + 3600)
        return Glance(NOON, True, statuses(history.store, NOON), [exchange(1, None), exchange(2)])


@pytest.fixture
def desk(glance: Glance) -> Desk:
    return Desk(glance)


@pytest.fixture
def board(desk: Desk) -> Board:
    board = Board(desk, Page(80), 2)
    board.refresh()
    return board


def drawn(board: Board) -> list[str]:
    """The picture, line by line."""
    return [line.decode() for line in board.frame.render(SIZE, focus=True).text]


def press(board: Board, *keys: str) -> None:
    """As urwid does: what no widget takes is for the board."""
    for key in keys:
        if left := board.frame.keypress(SIZE, key):
            board.press(left)


def test_board_fills_a_terminal_of_80_columns_and_24_lines(board: Board) -> None:
    lines = drawn(board)

    assert {len(line) for line in lines} == {80}
    assert len(lines) == 24
    assert lines[0].startswith("ccflare · 2 of 2 accounts serving · 1 open · $0.0240 below · ")
    (account,) = [line for line in lines if "62 %" in line]
    assert account.startswith("max-1          ████░░  62 %")
    assert account.rstrip().endswith("serving")
    under_way, ended = [line for line in lines if "opus-4-8" in line]
    assert " open " in under_way
    assert under_way.endswith(" 10 s")
    assert ended.split()[1:] == ["max-1", "opus-4-8", "ok", "1,200", "312", "$0.0120", "2.5", "s"]
    assert lines[-1].startswith("q quit · Tab other list")


def test_an_account_is_paused_and_resumed_where_it_is_chosen(board: Board, desk: Desk) -> None:
    press(board, "p")
    assert drawn(board)[-1].rstrip() == "Choose an account first: Tab leads to their list."

    press(board, "tab", "down", "p", "up", "r")

    assert desk.done == [("max-2", True), ("max-1", False)]
    assert drawn(board)[-1].rstrip() == "Resumed max-1."


def test_what_is_chosen_stays_chosen_while_rows_come(board: Board, desk: Desk) -> None:
    press(board, "down")
    desk.glance = desk.glance._replace(requests=[exchange(0), *desk.glance.requests])
    board.refresh()

    press(board, "enter")

    assert "Request  req_2" in "".join(drawn(board))


def test_a_conversation_takes_the_lists_place_until_one_leaves_it(board: Board) -> None:
    press(board, "enter")
    assert [line.rstrip() for line in drawn(board)[1:5]] == ["Request  req_1", "", "── user", "hello"]
    assert drawn(board)[-1].startswith("q back")

    press(board, "q")

    assert drawn(board)[-1].startswith("q quit")
    with pytest.raises(urwid.ExitMainLoop):
        press(board, "q")


def test_trouble_is_told_and_the_last_picture_stays(board: Board, desk: Desk) -> None:
    before = drawn(board)
    desk.trouble = "the database is locked"
    board.refresh()

    after = drawn(board)
    assert after[:-1] == before[:-1]
    assert after[-1].rstrip() == "The database is locked."


def test_nothing_to_show_is_a_sentence(desk: Desk) -> None:
    desk.glance = Glance(NOON, False, [], [])
    board = Board(desk, Page(80), 2)
    board.refresh()
    press(board, "tab", "p", "tab", "enter")

    picture = "\n".join(drawn(board))
    assert "no proxy runs here" in picture
    assert "No accounts yet." in picture
    assert "Choose a request first" in picture


@contextlib.contextmanager
def started(database: Path, *words: str) -> Iterator[tuple[Terminal, int, "subprocess.Popen[bytes]"]]:
    """`scripts/top.py` in a terminal of that size."""
    keyboard, screen = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
    command = [sys.executable, str(REPOSITORY / "scripts" / "top.py"), "--database", str(database), *words]
    known = {"PATH": os.environ["PATH"], "HOME": str(database.parent), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    known["ccflare_ENCRYPTION_KEY"] = bytes(range(32)).hex()  # that of the history
    process = subprocess.Popen(command, stdin=screen, stdout=screen, stderr=screen, env=known, start_new_session=True)
    os.close(screen)
    try:
        yield Terminal(keyboard), keyboard, process
    finally:
        process.kill()
        process.wait(60)
        os.close(keyboard)


def test_terminal_shows_it_pauses_an_account_and_is_given_back(tmp_path: Path) -> None:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        with started(tmp_path / "ccflare.db", "--every", "1") as (terminal, keyboard, process):
            terminal.wait_for("0 of 1 account serving", "max-1")  # its token has ended
            os.write(keyboard, b"\tp")
            terminal.wait_for("Paused max-1.")
            shown = len(terminal.text)
            eventually(lambda: len(terminal.text), lambda now: now > shown)  # the clock goes on
            os.write(keyboard, b"q")
            assert process.wait(60) == 0
            eventually(lambda: b"\x1b[?1049l" in terminal._shown)  # all that it has written was read by then

        assert history.store.accounts.by_name("max-1", secrets=False).paused
    # What differs is drawn and nothing else: the screen is cleared at the start alone.
    assert terminal._shown.count(b"\x1b[2J") <= 1
    assert terminal._shown.count(b"q quit") == 1
