"""`scripts/top.py`: accounts and requests as they go on, in the terminal."""

import argparse
import io
import socket
from collections.abc import Sequence

from ccflare_cli import show
from ccflare_cli.console import OK, Console, Refused, open_made_store, open_store, read_settings
from ccflare_cli.parsing import Parser, dispatch, script_parser, whole_number
from ccflare_cli.top.rows import Glance
from ccflare_core.config.settings import Settings
from ccflare_core.program import typed
from ccflare_core.reports.queries import OPEN, Reports, Wanted
from ccflare_core.reports.traffic import Period
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.statuses import statuses

_DAY = 86_400
_MOST_OPEN, _MOST = 20, 60
_EXAMPLES = """\
examples:
  scripts/top.py
  scripts/top.py --every 10

It reads the database, so it shows what a running proxy has written: that is every request
within a second. Pausing, resuming and reading a conversation are audited as always.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Show it and give the exit code: 0 left, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("top.py", "Watch accounts and requests, and pause or resume accounts.", _EXAMPLES)
    parser.add_argument(
        "--every", type=whole_number(1, 3600), default=2, metavar="SECONDS", help="how often to look (default: 2)"
    )
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    if not (console.stdout.isatty() and console.stdin.isatty()):
        raise Refused(f"This needs a terminal: `{typed('stats')}` shows the same once.")
    source = Database(console, arguments, read_settings(console, arguments.database))
    source.look()  # what is wrong with it is told before the terminal is taken
    from ccflare_cli.top.board import Board  # urwid takes a while

    try:
        Board(source, console.page(arguments), arguments.every).run()
    except KeyboardInterrupt:
        return OK
    return OK


class Database:
    """What the board shows and does, by the database. It is opened anew each time: it may be another one by then."""

    def __init__(self, console: Console, arguments: argparse.Namespace, settings: Settings) -> None:
        self._console = console
        self._arguments = arguments
        self._settings = settings

    def look(self) -> Glance:
        """How everything is now."""
        now, nothing = self._console.now(), "There is nothing to show"
        with open_made_store(self._console, self._settings, None, nothing, read_only=True) as store:
            reports, last_day = Reports(store.query), Period(now - _DAY, now + 1)
            under_way = reports.exchanges(last_day, _MOST_OPEN, wanted=Wanted(outcome=OPEN))
            others = [each for each in reports.exchanges(last_day, _MOST) if each.outcome is not None]
            runs = store.runs.newest(socket.gethostname()) is not None
            return Glance(now, runs, statuses(store, now), [*under_way, *others])

    def set_paused(self, name: str, *, paused: bool) -> None:
        """As `accounts pause` and `accounts resume` do it."""
        with open_store(self._console, self._settings, choose(self._settings, self._console.environ)) as store:
            store.accounts.update(store.accounts.by_name(name, secrets=False).id, paused=paused)

    def conversation(self, request_id: str) -> str:
        """As `show` tells it."""
        said, complained, console = io.StringIO(), io.StringIO(), self._console
        reader = Console(
            console.stdin, said, complained, console.environ, console.now, console.ask_secret, console.browse
        )
        database = ["--database", self._arguments.database] if self._arguments.database else []
        if show.main([request_id, "--full", *database], reader) != OK:
            raise Refused(complained.getvalue().strip())
        return said.getvalue() + complained.getvalue()
