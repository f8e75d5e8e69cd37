"""The console's text keeps its place when it is made anew, and whatever else a master has does no harm."""

from types import SimpleNamespace
from typing import Any

import pytest
import urwid as typed_or_not

from ccflare_mitm.inspector.console import in_place

urwid: Any = typed_or_not  # before 4 it is not
SIZE = (20, 10)


class Details(urwid.WidgetWrap):  # type: ignore[misc]
    """A flow's tabs, as mitmproxy builds them."""

    def __init__(self) -> None:
        super().__init__(urwid.Pile([]))
        self.renew(50)

    def renew(self, lines: int) -> None:
        texts = [urwid.Text(str(number)) for number in range(lines)]
        self._w = urwid.Frame(urwid.ListBox(urwid.SimpleFocusListWalker(texts)), header=urwid.Text("tabs"))


class Console:
    """A master with a window."""

    def __init__(self) -> None:
        self.details = Details()
        self.frame = urwid.Frame(self.details, header=urwid.Text("flow"))
        self.window = SimpleNamespace(focus_stack=lambda: SimpleNamespace(top_window=lambda: self.frame))

    def shown(self) -> list[bytes]:
        return list(self.frame.render(SIZE, focus=True).text)


def test_a_text_that_is_made_anew_keeps_its_place() -> None:
    console = Console()
    console.shown()
    for _ in range(3):
        console.frame.keypress(SIZE, "page down")
    before = console.shown()

    in_place(console, lambda: console.details.renew(60))

    assert console.shown() == before
    assert before[2].strip() != b"0"


def test_a_text_that_is_shorter_now_is_shown_to_its_end() -> None:
    console = Console()
    console.shown()
    for _ in range(4):
        console.frame.keypress(SIZE, "page down")
    console.shown()

    in_place(console, lambda: console.details.renew(20))

    assert b"19" in b"".join(console.shown())


@pytest.mark.parametrize("master", [object(), SimpleNamespace(window=None), SimpleNamespace(window=object())])
def test_a_program_without_a_window_is_only_changed(master: Any) -> None:
    done: list[int] = []
    in_place(master, lambda: done.append(1))
    assert done == [1]
