"""A progress line for long work on a terminal; nothing where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ccflare_cli.console import Console

_WIDTH = 30
_STEPS = 200


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be told how much of how much is done. The bar is gone after the block."""
    if not console.stderr.isatty():
        yield lambda done, total: None
        return
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        step = _STEPS * min(done, total) // max(1, total)
        if step != shown:
            shown = step
            filled = _WIDTH * step // _STEPS
            console.stderr.write(f"\r[{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * step // _STEPS} %")
            console.stderr.flush()

    try:
        yield show
    finally:
        if shown >= 0:
            console.stderr.write("\r\x1b[K")
            console.stderr.flush()
