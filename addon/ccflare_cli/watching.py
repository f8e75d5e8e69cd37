"""A table on a terminal that is shown again every few seconds."""

import shutil
import time
from collections.abc import Callable

from ccflare_cli.console import OK, Console

# Everything is written over what stood there, line by line, so nothing flickers.
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CUT_LINES, _WRAP_LINES = "\x1b[?7l", "\x1b[?7h"
_CLEAR, _HOME, _END_LINE, _END_SCREEN = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


def watch(console: Console, seconds: int, draw: Callable[[], str], pause: Callable[[float], None] = time.sleep) -> int:
    """Show what `draw` gives every so many seconds, until Ctrl-C; the exit code. Without a terminal: once."""
    if not console.stdout.isatty():
        console.write(draw())
        console.complain("--watch needs a terminal, so this was shown once.")
        return OK
    screen = console.stdout
    screen.write(_HIDE_CURSOR + _CUT_LINES + _CLEAR)
    try:
        while True:
            screen.write(_HOME + _picture(draw()) + _END_SCREEN)
            screen.flush()
            pause(seconds)
    except KeyboardInterrupt:
        return OK
    finally:
        screen.write(_WRAP_LINES + _SHOW_CURSOR + "\n")
        screen.flush()


def _picture(text: str) -> str:
    """The text cut to the terminal's height, each line up to its end."""
    lines, height = text.splitlines(), shutil.get_terminal_size().lines
    if len(lines) >= height:
        lines = [*lines[: height - 2], "…"]
    return "".join(f"{line}{_END_LINE}\n" for line in lines)
