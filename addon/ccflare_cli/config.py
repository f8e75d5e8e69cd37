"""`ccflare config`: which file the options are read from, and one of the user's own, which no update touches."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, Console, Refused
from ccflare_cli.output import Column, Table
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_core.config import settings
from ccflare_core.config.options import CONFIG_PATH
from ccflare_core.files import make_private_folder, write_whole
from ccflare_core.program import typed

_EXAMPLES = f"""\
examples:
  scripts/config.py path     which file is read
  scripts/config.py init     make one of your own, with every option in it

Of three files the first one that is there is read, and no other: the one that
{CONFIG_PATH} names, your own, the one that came with the program.
Variables and the command line override it.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser("config.py", "Show where the options are read from, or make a file for them.", _EXAMPLES)
    commands = add_group(parser)
    add_command(commands, "path", _path, "show which file the options are read from, and which could be")
    add_command(commands, "init", _init, "make a file of your own, from the one that came with the program")
    return parser


class _File(NamedTuple):
    whose: str
    path: Path
    is_read: bool


def _path(console: Console, arguments: argparse.Namespace) -> int:
    read = settings.config_file(console.environ)
    own, shipped = settings.own_file(console.environ), settings.SHIPPED / settings.FILE_NAME
    files = {**({own: "your own"} if own else {}), shipped: "came with the program"}
    if read is not None and read not in files:
        files = {read: f"named by {CONFIG_PATH}", **files}
    rows = [_File(whose, path, path == read) for path, whose in files.items()]
    console.show(arguments, _table(rows))
    return OK


def _table(rows: Sequence[_File]) -> Table[_File]:
    return Table(
        key="files",
        title="",
        rows=rows,
        fields=(
            ("whose", lambda row: row.whose),
            ("path", lambda row: str(row.path)),
            ("exists", lambda row: row.path.exists()),
            ("read", lambda row: row.is_read),
        ),
        columns=(
            Column("Options", lambda row: row.whose, way=wrapped(12)),
            Column("File", lambda row: str(row.path), way=wrapped(20)),
            Column("", lambda row: "is read" if row.is_read else "" if row.path.exists() else "not there"),
        ),
    )


def _init(console: Console, arguments: argparse.Namespace) -> int:
    own, shipped = settings.own_file(console.environ), settings.SHIPPED / settings.FILE_NAME
    if own is None:
        raise Refused(f"There is no home folder for it: copy {shipped}, and name the copy by {CONFIG_PATH}.")
    if own.exists():
        raise Refused(f"{own} is there already, and stays as it is.")
    try:
        make_private_folder(own.parent)
        write_whole(own, shipped.read_bytes())
    except OSError as error:
        raise Refused(f"{own} cannot be made ({error.strerror}): check the rights of its folder.") from None
    console.say(f"{own} has the options now; a proxy that runs takes them up with its next start (`{typed('proxy')}`).")
    return OK
