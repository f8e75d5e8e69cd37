"""`ccflare env`: prints what a client needs in its environment, for a shell to take."""

import argparse
from collections.abc import Sequence

from ccflare_cli.companion import claude_code, shells
from ccflare_cli.companion.authorities import write_bundle
from ccflare_cli.companion.environment import Variables, client_variables
from ccflare_cli.companion.here import add_proxy_options, find_proxy
from ccflare_cli.console import OK, Console
from ccflare_cli.output import Column, Table
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.program import typed

_EXAMPLES = """\
examples:
  eval "$(scripts/env.py)"               bash, zsh
  scripts/env.py --shell fish | source
  scripts/env.py --key - < key.txt       where clients need a key
  scripts/env.py --format json

A client that is started in that shell goes through the proxy. A login or a key of its own
stays as it is. For Python programs a file with the system's authorities and mitmproxy's is
kept beside the database.
"""
BUNDLE = "ca-bundle.pem"


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print it and give the exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console, show)


def _parser() -> Parser:
    parser = script_parser("env.py", "Print the environment that leads a client through the proxy.", _EXAMPLES)
    parser.add_argument("--shell", choices=tuple(shells.SHELLS), help="for this shell (default: that of SHELL)")
    add_proxy_options(parser)
    return parser


def variables(console: Console, arguments: argparse.Namespace) -> Variables:
    """What a client needs, once the bundle for it is there. Raises Refused."""
    here = find_proxy(console, arguments)
    bundle = here.data / BUNDLE
    write_bundle(bundle, here.authority, console.environ)
    has_login = claude_code.has_login(console.environ)
    return client_variables(here.address, here.authority, bundle, console.environ, has_login=has_login)


def show(console: Console, arguments: argparse.Namespace) -> int:
    """Print it for the shell that is asked for, or as a table."""
    found = variables(console, arguments)
    if arguments.format != "table":
        console.show(arguments, _table(found))
        return OK
    shell = arguments.shell or shells.own_shell(console.environ)
    console.stdout.write(f"{shells.spoken(found, shell)}\n")
    if console.stdout.isatty():
        given = (f" --shell {shell}" if arguments.shell else "") + (" --key -" if arguments.key else "")
        command = typed("env") + given
        console.complain(f"To have this shell take it: {shells.SHELLS[shell].use.format(command=command)}")
    return OK


def _table(found: Variables) -> Table[tuple[str, str | None]]:
    rows: list[tuple[str, str | None]] = [*((name, None) for name in found.unset), *found.set.items()]
    return Table(
        key="variables",
        title="",
        rows=rows,
        fields=(("name", lambda row: row[0]), ("value", lambda row: row[1])),
        columns=(Column("Name", lambda row: row[0]), Column("Value", lambda row: row[1] or "(unset)")),
    )
