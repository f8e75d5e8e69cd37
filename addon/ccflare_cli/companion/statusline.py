"""`ccflare statusline`: one line for Claude Code's status line, a tmux bar or a prompt.

It always prints something and ends with 0: another code would take the line away. What it imports is little, since it
is started every few seconds.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ccflare_cli.companion import status_text
from ccflare_cli.companion.session_state import ask, find_proxy, read

if TYPE_CHECKING:
    import argparse

    from ccflare_core.reports.session_state import SessionState

_LIMIT = 1024 * 1024
_WIDE = 200
_EXAMPLES = """\
Claude Code calls it with its session on standard input; `connect claude-code` has it do so.
Without a session it tells of the accounts alone. A template has these names in braces:
{fields}.
"""


class Options(NamedTuple):
    """What can be said on the command line."""

    database: str = ""
    template: str | None = None
    plain: bool = False


def main(
    argv: Sequence[str] | None = None, stdin: TextIO | None = sys.stdin, stdout: TextIO | None = sys.stdout
) -> int:
    """Print the line. 0 in any case, also where there is nothing to read from or to print to (None)."""
    words = sys.argv[1:] if argv is None else argv
    options = _read(words)
    if options is None:
        try:
            _parser().parse_args(words)
        except SystemExit as end:
            if not end.code:
                return 0
        text = "ccflare statusline: these options do not belong here, see --help"
    else:
        text = _line(options, stdin, os.environ, time.time())  # noqa: TID251
    if stdout is not None:
        _print(text, stdout)
    return 0


def _print(text: str, stdout: TextIO) -> None:
    encoding = stdout.encoding or "utf-8"
    try:
        stdout.write(f"{text}\n".encode(encoding, "replace").decode(encoding))
        stdout.flush()
    except OSError:  # nobody reads it
        from ccflare_cli.streams import drop

        drop(stdout)


def _read(words: Sequence[str]) -> Options | None:
    """The options, without argparse, whose import takes a third of all the time; None if it has to explain them."""
    options, left = Options(), list(words)
    while left:
        name, has_value, value = left.pop(0).partition("=")
        if name == "--plain" and not has_value:
            options = options._replace(plain=True)
            continue
        if name not in ("--database", "--format") or not (has_value or left):
            return None
        value = value if has_value else left.pop(0)
        options = options._replace(database=value) if name == "--database" else options._replace(template=value)
    return options


def _parser() -> "argparse.ArgumentParser":
    import argparse

    parser = argparse.ArgumentParser(
        prog="ccflare statusline",
        description="Print the account, the limits and the cost of a session as one line.",
        epilog=_EXAMPLES.format(fields=", ".join(status_text.FIELDS)),
        allow_abbrev=False,
    )
    parser.add_argument("--database", metavar="PATH", help="the SQLite file to read if no proxy answers")
    parser.add_argument("--plain", action="store_true", help="without colours: for tmux and prompts")
    parser.add_argument("--format", metavar="TEXT", help="the line itself, such as '{account} {five_hour_percent}'")
    return parser


def _line(options: Options, stdin: TextIO | None, environ: Mapping[str, str], now: float) -> str:
    state = _state(options, _session(stdin, environ), environ, now)
    if options.template is not None:
        return status_text.filled(options.template, state, now)
    columns = environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and len(columns) < 9 and 0 < int(columns) < _WIDE else _WIDE
    return status_text.line(state, now, width=width, coloured=not (options.plain or environ.get("NO_COLOR")))


def _state(options: Options, session: str | None, environ: Mapping[str, str], now: float) -> "SessionState | None":
    """As the client's proxy tells it, else as the file does."""
    proxy = find_proxy(environ)
    told = ask(proxy, session) if proxy and session else None
    return told or read(options.database or _database(environ), session, now)


def _session(stdin: TextIO | None, environ: Mapping[str, str]) -> str | None:
    """The id of Claude Code's session: on standard input, unless that is closed, else in its environment."""
    told: object = None
    if stdin is not None and not stdin.isatty():
        try:
            told = json.loads(stdin.read(_LIMIT))
        except (ValueError, RecursionError, OSError):
            told = None
    found = told.get("session_id") if isinstance(told, dict) else None
    return found if isinstance(found, str) and found else environ.get("CLAUDE_CODE_SESSION_ID")


def _database(environ: Mapping[str, str]) -> str:
    """Where the database is by default, without the options that a file sets: `connect` writes those down."""
    if named := environ.get("ccflare_DB_PATH", ""):
        return os.path.expanduser(named)  # noqa: PTH111
    data = environ.get("XDG_DATA_HOME", "")
    folder = data if data.startswith("/") else os.path.expanduser("~/.local/share")  # noqa: PTH111
    return f"{folder}/ccflare/ccflare.db"
