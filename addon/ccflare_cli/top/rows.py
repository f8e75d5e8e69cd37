"""What stands in a row of the board: of an account, of a request; and above all of them. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from ccflare_cli.cells import shorten
from ccflare_cli.output import DASH, bar, count, duration, local, money, percent, printable
from ccflare_cli.page import Tone
from ccflare_cli.tables import cost_of, end_tone, fill_tone, model_or_path, prompt_of, state_tone
from ccflare_core.accounts.states import AccountState
from ccflare_core.accounts.status import StoredStatus
from ccflare_core.reports.queries import Exchange
from ccflare_core.text import some, span, worded

_WINDOWS = ("5h", "7d")
_BAR = 6


class Glance(NamedTuple):
    """All that the board shows, as it was at `at` (epoch seconds)."""

    at: float
    is_running: bool
    """Whether a proxy of this machine has shown a sign of life."""
    accounts: Sequence[StoredStatus]
    requests: Sequence[Exchange]
    """Those that are under way first."""


class Cell(NamedTuple):
    """A text, how many columns it has (0: what the others leave), and its colour."""

    text: str
    width: int = 0
    tone: Tone | None = None
    right: bool = False


type Row = tuple[Cell, ...]


def head(glance: Glance) -> str:
    """`ccflare · 3 of 4 accounts serving · 2 open · $0.53 below · 14:20:31`."""
    serve = sum(status.state is AccountState.SERVING and not status.cooldown for status in glance.accounts)
    under_way = sum(exchange.outcome is None for exchange in glance.requests)
    parts = [
        "ccflare" if glance.is_running else "no proxy runs here",
        f"{serve} of {some(len(glance.accounts), 'account')} serving",
        f"{under_way} open",
        f"{money(sum(exchange.cost_usd or 0.0 for exchange in glance.requests))} below",
        _clock(glance.at),
    ]
    return " · ".join(parts)


_LIMITS = (cell for name in _WINDOWS for cell in (Cell(name, 12), Cell("", 7)))
ACCOUNTS: Row = (Cell("Account", 14), *_LIMITS, Cell("State"))


def account_row(status: StoredStatus, now: float) -> Row:
    """Its limits as bars with what is left of them in time, and what it does."""
    windows = (cell for name in _WINDOWS for cell in _window(status, name, now))
    return (
        Cell(_fit(status.account.name, 14), 14),
        *windows,
        Cell(printable(status.in_words(now)), 0, state_tone(status)),
    )


def _window(status: StoredStatus, name: str, now: float) -> tuple[Cell, Cell]:
    window = status.window(name)
    if window is None or window.utilization is None:
        return Cell(DASH, 12), Cell("", 7)
    left = "" if window.resets_at is None else span(window.resets_at - now)
    shown = f"{bar(window.utilization, _BAR)} {percent(window.utilization, 0):>5}"
    return Cell(shown, 12, fill_tone(window.utilization)), Cell(left, 7)


REQUESTS: Row = (
    *(Cell("Time", 8), Cell("Account", 12), Cell("Model or path", 13), Cell("Outcome")),
    *(Cell("In", 6, right=True), Cell("Out", 6, right=True), Cell("Cost", 8, right=True), Cell("Took", 9, right=True)),
)


def request_row(exchange: Exchange, now: float) -> Row:
    """Who serves it, with what, how it went, and for how much. One that is under way takes longer from row to row."""
    is_open = exchange.outcome is None
    outcome = "open" if is_open else worded(str(exchange.outcome))
    seconds = max(0.0, now - exchange.at) if is_open else exchange.seconds
    return (
        Cell(_clock(exchange.at), 8),
        Cell(_fit(exchange.account or DASH, 12), 12),
        Cell(_fit(model_or_path(exchange), 13), 13),
        Cell(f"{outcome}{f', moved {exchange.failovers}×' if exchange.failovers else ''}", 0, end_tone(exchange)),
        Cell(count(prompt_of(exchange)), 6, right=True),
        Cell(f"{'~' * exchange.estimated}{count(exchange.output_tokens)}", 6, right=True),
        Cell(cost_of(exchange), 8, right=True),
        Cell(span(seconds) if is_open and seconds is not None else duration(seconds), 9, right=True),
    )


def _fit(text: str, width: int) -> str:
    return shorten(printable(text), width)[0]


def _clock(at: float) -> str:
    return f"{local(at):%H:%M:%S}"
