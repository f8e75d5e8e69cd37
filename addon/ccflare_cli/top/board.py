"""The board itself: two lists that stay where one has moved in them, and a conversation in their place.

Drawn by urwid, which comes with mitmproxy and sends the terminal what differs from the last picture, so nothing
flickers.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, Protocol

import urwid

from ccflare_cli.output import printable
from ccflare_cli.page import Page, Tone
from ccflare_cli.top.rows import ACCOUNTS, REQUESTS, Cell, Glance, Row, account_row, head, request_row
from ccflare_core.errors import CCFlareError
from ccflare_core.text import sentence

_HELP = "q quit · Tab other list · p pause · r resume · Enter the conversation"
_HELP_READING = "q back · arrows, PgUp, PgDn"
_MOST_ACCOUNTS = 8
"""Rows for them; of more the list scrolls."""
_FOCUS, _BAR = "focus", "bar"
_COLOURS = {Tone.GOOD: "dark green", Tone.CARE: "brown", Tone.BAD: "light red", Tone.TITLE: "bold"}


class Source(Protocol):
    """Where the board has it all from. Each raises CCFlareError if that fails."""

    def look(self) -> Glance:
        """How everything is now."""

    def set_paused(self, name: str, *, paused: bool) -> None:
        """Pause an account or resume it."""

    def conversation(self, request_id: str) -> str:
        """What was said in a request, in lines."""


class _Pane:
    """A list. What is chosen in it stays chosen while rows come and go; at its top one stays at the top."""

    def __init__(self, empty: str) -> None:
        self._walker: Any = urwid.SimpleFocusListWalker([])
        self.box: Any = urwid.ListBox(self._walker)
        self._keys: list[str] = []
        self._empty = empty

    @property
    def key(self) -> str | None:
        """What is chosen."""
        return self._keys[self._walker.focus] if self._keys else None

    def show(self, rows: Sequence[tuple[str, Row]], plain: Callable[[str], str]) -> None:
        """Have these rows, by their keys."""
        chosen = self.key if self._walker.focus else None
        self._keys = [key for key, _ in rows]
        self._walker[:] = [_line(row, plain) for _, row in rows] or [urwid.Text(plain(self._empty))]
        self._walker.set_focus(self._keys.index(chosen) if chosen in self._keys else 0)


class Board:
    """See the module. `press` is called with every key that no list has taken."""

    def __init__(self, source: Source, page: Page, seconds: float) -> None:
        self._source = source
        self._page = page
        self._seconds = seconds
        self._accounts, self._requests = _Pane("No accounts yet."), _Pane("No requests in the last 24 hours.")
        self._head, self._foot = urwid.Text("", wrap="clip"), urwid.Text("")
        self._lists: Any = urwid.Pile(
            [
                ("pack", _line(ACCOUNTS, page.plain, Tone.TITLE)),
                ("given", 1, self._accounts.box),
                ("pack", urwid.Divider()),
                ("pack", _line(REQUESTS, page.plain, Tone.TITLE)),
                self._requests.box,
            ],
            focus_item=4,
        )
        self.frame: Any = urwid.Frame(
            self._lists, urwid.AttrMap(self._head, _BAR), urwid.AttrMap(self._foot, _BAR), focus_part="body"
        )
        self._say(_HELP)

    def run(self) -> None:
        """Show it until somebody leaves."""
        palette = [(tone.name, colour if self._page.has_colours else "default", "default") for tone, colour in _PALETTE]
        more = [(_FOCUS, "standout", "default"), (_BAR, "standout", "default")]
        loop: Any = urwid.MainLoop(self.frame, [*palette, *more], handle_mouse=False, unhandled_input=self.press)
        self._go_on(loop, None)
        loop.run()

    def _go_on(self, loop: Any, _: object) -> None:
        self.refresh()
        loop.set_alarm_in(self._seconds, self._go_on)

    def refresh(self) -> None:
        """Show how everything is now; if that cannot be seen, why."""
        try:
            glance = self._source.look()
        except CCFlareError as error:
            self._say(sentence(str(error)))
            return
        self._head.set_text(self._page.plain(head(glance)))
        self._accounts.show(
            [(status.account.name, account_row(status, glance.at)) for status in glance.accounts], self._page.plain
        )
        self._requests.show([(each.id, request_row(each, glance.at)) for each in glance.requests], self._page.plain)
        height = min(max(len(glance.accounts), 1), _MOST_ACCOUNTS)
        self._lists.contents[1] = (self._accounts.box, self._lists.options("given", height))

    # Keys

    def press(self, key: object) -> None:
        """Do what a key stands for; any other does nothing."""
        if self.frame.body is not self._lists:
            if key in ("q", "Q", "esc", "enter"):
                self.frame.body = self._lists
                self._say(_HELP)
            return
        if key in ("q", "Q", "esc"):
            raise urwid.ExitMainLoop
        doing = {"tab": self._change_list, "p": self._pause, "r": self._resume, "enter": self._open}
        if isinstance(key, str) and key in doing:
            try:
                doing[key]()
            except CCFlareError as error:
                self._say(sentence(str(error)))

    def _change_list(self) -> None:
        self._lists.focus_position = 1 if self._lists.focus_position == 4 else 4
        self._say(_HELP)

    def _pause(self) -> None:
        self._set_paused(paused=True)

    def _resume(self) -> None:
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        if self._lists.focus_position != 1 or (account := self._accounts.key) is None:
            self._say("Choose an account first: Tab leads to their list.")
            return
        self._source.set_paused(account, paused=paused)
        self.refresh()
        self._say(f"{'Paused' if paused else 'Resumed'} {printable(account)}.")

    def _open(self) -> None:
        if self._lists.focus_position != 4 or (request := self._requests.key) is None:
            self._say("Choose a request first: Tab leads to their list.")
            return
        lines = self._source.conversation(request).splitlines()
        self.frame.body = urwid.ListBox([urwid.Text(self._page.plain(line)) for line in lines])
        self._say(_HELP_READING)

    def _say(self, text: str) -> None:
        self._foot.set_text(self._page.plain(text))


_PALETTE = tuple(_COLOURS.items())


def _line(row: Row, plain: Callable[[str], str], tone: Tone | None = None) -> Any:
    """A row, which can be chosen unless it is a heading (`tone`)."""
    cells = [_cell(cell, plain, tone or cell.tone, can_be_chosen=tone is None and i == 0) for i, cell in enumerate(row)]
    columns = urwid.Columns(cells, dividechars=1)
    focus: dict[Hashable, Hashable] = dict.fromkeys((None, *(tone.name for tone in Tone)), _FOCUS)
    return urwid.AttrMap(columns, None, focus)


def _cell(cell: Cell, plain: Callable[[str], str], tone: Tone | None, *, can_be_chosen: bool) -> Any:
    text = plain(cell.text)
    align: Literal["left", "right"] = "right" if cell.right else "left"
    if can_be_chosen:
        widget: Any = urwid.SelectableIcon(text, cursor_position=len(text) + 1)  # out of sight
        widget.set_layout(align, "clip")
    else:
        widget = urwid.Text((tone.name, text) if tone else text, align, "clip")
    return ("given", cell.width, widget) if cell.width else widget
