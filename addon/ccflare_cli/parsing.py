"""The command line of every script: its parsers, with one set of common options, and how a command is run."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import partial
from pathlib import Path

from ccflare_cli.completion import complete
from ccflare_cli.console import Console, guarded
from ccflare_cli.output import FORMATS
from ccflare_cli.page import page_of
from ccflare_core.clients.tags import FORM, valid_tag
from ccflare_core.program import typed
from ccflare_core.text import composed

type Command = Callable[[Console, argparse.Namespace], int]
"""What does a subcommand's work, and gives the exit code."""


class _HelpFormatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (each.rstrip() for each in text.split("\n\n"))
        return "\n\n".join(
            each
            if each.partition("\n")[0].endswith(":")
            else super(_HelpFormatter, self)._fill_text(each, width, indent)
            for each in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and never repeats a stray argument: it may be a secret."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> None:  # type: ignore[override]
        if message.startswith("unrecognized arguments"):
            message = "there are arguments that do not belong here"
        self.print_usage(sys.stderr)
        self.exit(2, f"{page_of(sys.stderr, os.environ).folded(f'{self.prog}: error: {message}')}\n")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse does, with what may have been meant, and all that may be."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, _no_such(str(value), map(str, action.choices)))


def one_of[E: StrEnum](kind: type[E]) -> Callable[[str], E]:
    """An argparse type for the members of an enumeration."""

    def read(text: str) -> E:
        if text in list(kind):
            return kind(text)
        raise argparse.ArgumentTypeError(_no_such(text, kind))

    return read


def _no_such(word: str, names: Iterable[str]) -> str:
    """Without the word itself, which may be a secret."""
    known = list(names)
    hint = near(word, known)
    return f"there is no such one: {f'{hint} Give' if hint else 'give'} one of {', '.join(known)}"


def near(word: str, names: Iterable[str]) -> str:
    """`did you mean list?` for a word that is much like one of the names; else nothing."""
    found = difflib.get_close_matches(word, list(names), 1)
    return f"did you mean {found[0]}?" if found else ""


def script_parser(script: str, description: str, examples: str) -> Parser:
    """The parser of a script whose help ends with `examples`, with the options that every command has.

    Of `examples` the paragraphs that begin with a heading ("examples:") keep their lines. They are given with the
    script's name, and shown as they are typed here.
    """
    here = typed(script.removesuffix(".py"))
    shown = examples.replace(f"scripts/{script}", here)
    parser = Parser(prog=Path(here).name, description=description, epilog=shown, formatter_class=_HelpFormatter)
    _add_common(parser, again=False)
    return parser


def add_group(parser: Parser) -> "argparse._SubParsersAction[Parser]":
    """Where a parser's subcommands go, of which one must be given."""
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add_common(parser: Parser, *, again: bool) -> None:
    """The options that every command has. With `again` they may follow a subcommand's name as well."""
    database = argparse.SUPPRESS if again else None
    form = argparse.SUPPRESS if again else "table"
    parser.add_argument(
        "--database", metavar="PATH|URL", default=database, help="the database to use (default: the proxy's)"
    )
    parser.add_argument("--format", choices=FORMATS, default=form, help="how to print (default: table)")
    parser.add_argument(
        "--wide",
        action="store_true",
        default=argparse.SUPPRESS if again else False,
        help="show tables in full, also where the terminal is narrower",
    )


def add_command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    function: Command,
    text: str,
) -> Parser:
    """A subcommand that calls `function`, with the common options; `text` is its line in the help."""
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(command=function)
    _add_common(command, again=True)
    return command


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """An argparse type for the numbers from `minimum` to `maximum`."""

    def read(text: str) -> int:
        if text.lstrip("-").isdecimal() and len(text) < 12 and minimum <= int(text) <= maximum:
            return int(text)
        raise argparse.ArgumentTypeError(f"give a whole number from {minimum} to {maximum}")

    return read


def dollars(text: str) -> Decimal:
    """An argparse type for amounts of money."""
    try:
        sum_ = Decimal(text)
    except InvalidOperation:
        sum_ = Decimal(-1)
    if not (sum_.is_finite() and Decimal("0.000001") <= sum_ <= 1_000_000):
        raise argparse.ArgumentTypeError("give an amount of dollars such as 5 or 0.50")
    return sum_


def tag(text: str) -> str:
    """An argparse type for a tag."""
    if valid_tag(composed(text)):
        return composed(text)
    raise argparse.ArgumentTypeError(f"give {FORM}")


def dispatch(
    parser: Parser, argv: Sequence[str] | None, console: Console | None, command: Command | None = None
) -> int:
    """The exit code of `command`, or else of the subcommand that was given; 2 if the arguments are wrong."""
    complete(parser)
    arguments = parser.parse_args(argv)
    console = console or Console.real()
    return guarded(console, partial(command or arguments.command, console, arguments))
