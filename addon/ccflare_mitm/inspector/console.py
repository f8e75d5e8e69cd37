"""The console's text stays where it was scrolled to while its flow runs.

At each change of a flow mitmproxy makes its text anew, and shows it from the first header on: nobody could read an
answer that still comes. What is used of the console here is not checked at the start, since all that could be missing
is the place.
"""

import contextlib
from collections.abc import Callable
from typing import Any


def in_place(master: Any, change: Callable[[], object]) -> None:
    """Make this change, and scroll the text that is open back to where it was."""
    before = _open_text(master)
    change()
    after = _open_text(master)
    if before is None or after is None or after is before:
        return
    with contextlib.suppress(Exception):
        after.body.set_focus(min(before.focus_position, len(after.body) - 1))
        after.offset_rows, after.inset_fraction = before.offset_rows, before.inset_fraction


def _open_text(master: Any) -> Any:
    """The list of lines that is open, an urwid.ListBox; None if there is none, or this is no console."""
    with contextlib.suppress(Exception):
        window = master.window.focus_stack().top_window()
        text = getattr(window.body, "_w").body  # noqa: B009 - private, and no matter if it goes
        return text if hasattr(text, "offset_rows") and hasattr(text, "body") else None
    return None
