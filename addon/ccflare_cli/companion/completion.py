"""`ccflare completion`: what has a shell complete the words of `ccflare`."""

import argparse
import importlib
from collections.abc import Sequence

from ccflare_cli.companion.shells import SHELLS, own_shell
from ccflare_cli.console import OK, Console, Refused
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.program import with_extra

_EXAMPLES = """\
examples:
  eval "$(ccflare completion)"               bash, zsh: a line for ~/.bashrc or ~/.zshrc
  ccflare completion --shell fish | source

It takes the extra `completion`.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print it and give the exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console, _print)


def _parser() -> Parser:
    parser = script_parser("completion", "Print what has a shell complete the words of ccflare.", _EXAMPLES)
    parser.add_argument("--shell", choices=tuple(SHELLS), help="for this shell (default: that of SHELL)")
    return parser


def _print(console: Console, arguments: argparse.Namespace) -> int:
    try:
        argcomplete = importlib.import_module("argcomplete")
    except ImportError:
        raise Refused(f"Completion takes a package that is not there: {with_extra('completion')}.") from None
    console.stdout.write(argcomplete.shellcode(["ccflare"], shell=arguments.shell or own_shell(console.environ)))
    return OK
